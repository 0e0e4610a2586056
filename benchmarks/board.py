"""How long the leaderboard takes over 10,000 finished runs: the whole command, and from what.

The run folders are made up: status and settings of every run, the answers of those near the top (no other is read).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.history import note

REACH = 2.0
RUNS, ITEMS, CLASSES, READABLE = 10_000, 10_000, 10, 60


def make(home: Path, runs: int = RUNS, items: int = ITEMS) -> None:
    """Run folders of a sweep: accuracies around 0.9 on the same test items, one seed each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, items)
    true = np.sort(rng.normal(0.90, 0.01, runs))[::-1]
    uris = [f"images.npy#{number}" for number in range(items)]
    for place, accuracy in enumerate(true.tolist()):
        folder = home / "runs" / f"auto-made-{place:05}"
        folder.mkdir(parents=True)
        right = rng.random(items) < accuracy
        settings = {"model": "auto", "seed": 0, "hyperparam": {"learning_rate": round(float(rng.random()), 6)}}
        share = float(right.mean())
        reach = 1.96 * (share * (1 - share) / items) ** 0.5
        status = {
            "state": "done",
            "model": "auto",
            "dataset": "made",
            "recipe": f"{place:016}",
            "seed": 0,
            "code": "abc1234",
            "test": {"accuracy": share, "low": share - reach, "high": share + reach, "n": items},
            "val": {"accuracy": share, "low": share - reach, "high": share + reach, "n": items},
            "data": {"version": "v" * 64, "content": "c" * 16, "test": "t" * 16, "val": "u" * 16},
            "cost": {"cpu_s": 60.0, "gpu_s": 0.0, "wall_s": 30.0},
            "ladder": [{"name": "net", "accuracy": share, "n": items, "p": 0.01, "accepted": True}] * 3,
            "seconds": 30.0,
            "updated": float(place),
        }
        (folder / "status.json").write_text(json.dumps(status))
        (folder / "config.json").write_text(json.dumps(settings))
        if place < READABLE:
            said = np.where(right, labels, (labels + 1) % CLASSES)
            table = {"uri": uris, "label": labels.astype(str), "split": ["test"] * items, "predicted": said.astype(str)}
            pq.write_table(pa.table({**table, "suspect": np.where(right, 0.8, 0.05)}), folder / "predictions.parquet")


def wall(home: Path, words: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "board", *words],
        env={**os.environ, "INFLAME_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make(home)
        rows = {f"the first time, {RUNS:,} folders not in the index": [[]]}
        rows["again, in the terminal"] = [[]] * 5
        rows["as a page"] = [["--html", str(home / "board.html")]] * 3
        rows["as JSON, every run"] = [["--json"]] * 3
        print(f"| board over {RUNS:,} runs | median s | to reach |\n|---|---|---|")
        for name, tries in rows.items():
            times = sorted(wall(home, words) for words in tries)
            note(f"board: {name}", times[len(times) // 2], "s")
            reach = f"≤ {REACH:g}" if name.startswith("again") else ""
            print(f"| {name} | {times[len(times) // 2]:.2f} | {reach} |", flush=True)


if __name__ == "__main__":
    main()
