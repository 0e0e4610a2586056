"""How long tests of drift take on 10,000 × 64 embeddings, ours and Evidently's: `python -m benchmarks.monitor_peers`.

Evidently lives in an environment of its own, `.peers/evidently` (it needs pandas below 3). Ours is the same question: a
Kolmogorov-Smirnov test of each column against a reference of 10,000, and the maximum mean discrepancy of all together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROWS, COLUMNS, ROUNDS = 10_000, 64, 5
PEER = Path(__file__).parents[1] / ".peers" / "evidently" / "bin" / "python"

EVIDENTLY = f"""
import json, time
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
rng = np.random.default_rng(0)
names = [f"e{{column}}" for column in range({COLUMNS})]
before = pd.DataFrame(rng.normal(0, 1, ({ROWS}, {COLUMNS})), columns=names)
after = pd.DataFrame(rng.normal(0.05, 1, ({ROWS}, {COLUMNS})), columns=names)
taken = []
for _ in range({ROUNDS}):
    began = time.perf_counter()
    Report([DataDriftPreset(method="ks")]).run(after, before).dict()
    taken.append(time.perf_counter() - began)
print(json.dumps(sorted(taken)))
"""


def main() -> None:
    mine = ours()
    print(f"ours       {mine[ROUNDS // 2]:8.3f} s (from {mine[0]:.3f} to {mine[-1]:.3f})")
    if not PEER.is_file():
        sys.exit(f"no Evidently: make an environment {PEER.parents[1]} with evidently and 'pandas<3'")
    done = subprocess.run([PEER, "-W", "ignore", "-c", EVIDENTLY], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    theirs = json.loads(done.stdout.splitlines()[-1])
    print(f"Evidently  {theirs[ROUNDS // 2]:8.3f} s (from {theirs[0]:.3f} to {theirs[-1]:.3f})")
    print(f"ratio      {theirs[ROUNDS // 2] / mine[ROUNDS // 2]:8.1f}")


def ours() -> list[float]:
    """Seconds of each round: a window of 10,000 items with 64 statistics and an embedding of 64."""
    from inflame.model.engine import shift
    from inflame.model.engine.expected import Sample, describe

    rng = np.random.default_rng(0)

    def sample(mean: float) -> Sample:
        values = rng.normal(mean, 1, (ROWS, COLUMNS)).astype(np.float32)
        shares = np.full((ROWS, 2), 0.5, np.float32)
        return Sample(probabilities=shares, embedding=values, seen=values, known=np.ones(ROWS, bool))

    before = sample(0.0)
    expected = describe(
        before,
        frame=rng.normal(0, 1, (1000, COLUMNS)),
        names=[f"e{column}" for column in range(COLUMNS)],
        classes=("a", "b"),
        accuracy=0.9,
        labelled=ROWS,
        thresholds=shift.NOMINAL,
    )
    after, taken = sample(0.05), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = shift.compare(expected, expected.view(after), after.known, ())
        taken.append(time.perf_counter() - began)
    assert sum(one.name.startswith("e") and one.p < 0.01 for one in found) > COLUMNS // 2
    return sorted(taken)


if __name__ == "__main__":
    main()
