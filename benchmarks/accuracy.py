"""How good in how much time: whole `inflame train … --in T` commands as a user types them, wall time from outside.

Needs the data sets: `INFLAME_MIRROR`, or a network. Run on an otherwise idle machine; `--only NAME` for one row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.history import note


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command's words, its budget in seconds, and the accuracy to reach."""

    words: tuple[str, ...]
    seconds: int
    reach: float
    weights: str = ""  # a file of the mirror's weights/ to take alone


CASES = {
    "mnist": Case(words=("mnist",), seconds=20, reach=0.995),
    "digits": Case(words=("mnist", "io.training_input=digits"), seconds=60, reach=0.98),
    "fashion-mnist": Case(words=("fashion-mnist",), seconds=60, reach=0.935),
    "cifar10": Case(words=("cifar10",), seconds=60, reach=0.86),
    "clothing": Case(words=("clothing",), seconds=60, reach=0.80),
    "butterflies": Case(words=("butterflies",), seconds=60, reach=0.95),
    "butterflies, ImageNet only": Case(
        words=("butterflies",), seconds=60, reach=0.83, weights="mobilenetv2_100.imagenet.safetensors"
    ),
}


def measure(case: Case, seed: int, home: str) -> tuple[float, float, int]:
    """Test accuracy, wall seconds and printed lines of one command."""
    words = [*case.words, "--in", f"{case.seconds}s", "--json", f"seed={seed}", f"split_seed={seed}", "fresh=true"]
    if case.weights:
        words.append(f"weights={Path(os.environ['INFLAME_MIRROR']) / 'weights' / case.weights}")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", *words],
        env={**os.environ, "INFLAME_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{words}: exit code {done.returncode}\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["test"]["accuracy"], wall, len(done.stderr.splitlines()) + 1


def main() -> None:
    """Prints a row for each case: mean accuracy over the seeds, against what is to be reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CASES), metavar="NAME")
    given = parser.parse_args()
    print("| what | budget s | test accuracy (each seed) | mean | reach | wall s (median) | load | lines |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for name in given.only:
            case = CASES[name]
            subprocess.run(
                [sys.executable, "-m", "inflame", "get", case.words[-1].rpartition("=")[2]],
                env={**os.environ, "INFLAME_HOME": home},
                capture_output=True,
                check=False,
            )
            rows = [measure(case, seed, home) for seed in range(given.seeds)]
            each = " ".join(f"{row[0]:.4f}" for row in rows)
            mean = statistics.mean(row[0] for row in rows)
            wall = statistics.median(row[1] for row in rows)
            most = max(row[2] for row in rows)
            load = os.getloadavg()[1]  # of the last five minutes: what others took is not there for the training
            row = f"| {name} | {case.seconds} | {each} | {mean:.4f} | {case.reach} | {wall:.1f} | {load:.1f} | {most} |"
            note(f"accuracy: {name}, {case.seconds} s", mean, "accuracy")
            print(row, flush=True)


if __name__ == "__main__":
    main()
