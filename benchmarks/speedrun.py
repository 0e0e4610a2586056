"""CIFAR-10 to 94 % on one GPU: whole `inflame train cifar10_speedrun` commands, one after the other, each its own seed.

The first begins where nothing has been compiled, the others with what it has left. Mean and deviation are those of the
accuracy with selective looks, as in the speed runs it is compared with; what is served stands beside it. p is the
chance of such a mean, or a better one, were the true one no better than what is to be reached (one-sided t-test). Needs
CIFAR-10: `INFLAME_MIRROR`, or a network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch
from scipy import stats

REACH = 0.94
NEARLY_ALL = "splits={train:0.99,val:0.01}"  # speed runs train on all 50,000 photos; a few must stay to calibrate on


def run(seed: int, home: str, words: list[str]) -> dict[str, Any]:
    """The result of one command."""
    command = ["train", "cifar10_speedrun", NEARLY_ALL, f"seed={seed}", "fresh=true", "--json", *words]
    done = subprocess.run(
        [sys.executable, "-m", "inflame", *command],
        env={**os.environ, "INFLAME_HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(accuracies: list[float], served: list[float], clocks: list[dict[str, float | None]]) -> list[str]:
    """The lines of a table: a name and its value."""
    p = float(stats.ttest_1samp(accuracies, REACH, alternative="greater").pvalue)
    times = {name: [row[name] for row in clocks if row[name] is not None] for name in ("warm", "cold", "first")}
    told = {name: f"{statistics.median(found):.3f}" if found else "not seen" for name, found in times.items()}
    return [
        f"| runs | {len(accuracies)} |",
        f"| accuracy, selective looks: mean | {statistics.mean(accuracies):.4f} |",
        f"| … standard deviation | {statistics.stdev(accuracies):.4f} |",
        f"| … one-sided p that the mean is at least {REACH} | {p:.3g} |",
        f"| accuracy as served: mean | {statistics.mean(served):.4f} |",
        f"| warm, median s | {told['warm']} |",
        f"| cold with cached compile, median s | {told['cold']} |",
        f"| first ever, s | {told['first']} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="at least 2")
    parser.add_argument("words", nargs="*", help="settings of the model: hyperparam.num_epochs=7 …")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("not run: no CUDA device here")
        return
    with tempfile.TemporaryDirectory() as home:
        results = [run(seed, home, given.words) for seed in range(max(2, given.runs))]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n| what | value |\n|---|---|")
    accuracies = [result["selective"]["accuracy"] for result in results]
    print(
        "\n".join(summary(accuracies, [one["test"]["accuracy"] for one in results], [one["clocks"] for one in results]))
    )


if __name__ == "__main__":
    main()
