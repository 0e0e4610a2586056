"""All measurements, one after the other, and what has changed since they were made before: `python -m benchmarks`.

About 45 minutes on two idle cores. Each number becomes a line of history.jsonl.
"""

from __future__ import annotations

import subprocess
import sys

for name in ("accuracy", "folds", "race", "commands", "learner_overhead", "checkpoints", "board", "history"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
