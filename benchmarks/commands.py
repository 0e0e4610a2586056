"""How long a person waits for the small commands: whole processes, median of ten."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.history import note
from PIL import Image

REACH = {"--help": 0.2, "predict": 1.0, "doctor": 0.3, "misspelt verb": 1.0, "misspelt setting": 1.0}


def wall(words: list[str], runs: int = 10) -> float:
    """Median wall seconds of a command."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, check=False)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    """Prints a row for each command. `predict` takes the last model there is (train one first)."""
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "a.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(photo)
        commands = {
            "--help": ["--help"],
            "predict": ["predict", str(photo)],
            "doctor": ["doctor"],
            "misspelt verb": ["trian", "mnist"],
            "misspelt setting": ["train", "mnist", "hyperparam.learning_rat=0.1"],
        }
        print("| command | median s | reach |\n|---|---|---|")
        for name, words in commands.items():
            seconds = wall(words)
            note(f"commands: {name}", seconds, "s")
            print(f"| {name} | {seconds:.3f} | {REACH[name]} |", flush=True)


if __name__ == "__main__":
    main()
