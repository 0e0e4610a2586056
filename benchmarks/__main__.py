"""All measurements, one after the other: `python -m benchmarks`. About 45 minutes on two idle cores."""

from __future__ import annotations

import subprocess
import sys

for name in ("accuracy", "folds", "race", "commands", "learner_overhead", "checkpoints", "board"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
