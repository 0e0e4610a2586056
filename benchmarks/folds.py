"""Photos in five folds: every photo is tested once, by a model of a whole `inflame train … --in 60s` on the others.

Copies of a file stay in one fold. Needs the data sets (`INFLAME_MIRROR`). `--only NAME` for one row.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import Case, measure
from benchmarks.history import note

from inflame.artifact import getdata, split
from inflame.artifact.listing import locate

FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A data set, the accuracy to reach, and the one file of the mirror's weights to take, if not all."""

    data: str
    reach: float
    weights: str = ""


ROWS = {
    "butterflies": Row(data="butterflies", reach=0.97),
    "butterflies, ImageNet only": Row(data="butterflies", reach=0.86, weights="mobilenetv2_100.imagenet.safetensors"),
    "clothing": Row(data="clothing", reach=0.85),
}


def tables(data: str, folder: Path) -> list[Path]:
    """A CSV for each fold: that fold is `test`, the next one `val`, the others `train`."""
    found = getdata(data)
    folds = split.folds(found.items, FOLDS)
    uris, labels = found.items["uri"].to_pylist(), found.items["label"].to_pylist()
    made = []
    for number in range(FOLDS):
        path = folder / f"{data}-{number}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            for uri, label, fold in zip(uris, labels, folds.tolist(), strict=True):
                part = "test" if fold == number else "val" if fold == (number + 1) % FOLDS else "train"
                writer.writerow([locate(found.root, uri), label, part])
        made.append(path)
    return made


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ROWS)
    parser.add_argument("--seconds", type=int, default=60)
    words = parser.parse_args()
    print("| what | to reach | folds | mean | wall s |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as home:
        for name, row in ROWS.items():
            if words.only not in (None, name):
                continue
            began, found = time.perf_counter(), []
            for table in tables(row.data, Path(home)):
                case = Case(words=(str(table),), seconds=words.seconds, reach=row.reach, weights=row.weights)
                fresh = tempfile.mkdtemp(dir=home)  # nothing is known from the fold before
                found.append(measure(case, 0, fresh)[0])
            wall = (time.perf_counter() - began) / FOLDS
            note(f"folds: {name}", sum(found) / FOLDS, "accuracy")
            values = " ".join(f"{value:.3f}" for value in found)
            print(f"| {name} | {row.reach} | {values} | {sum(found) / FOLDS:.4f} | {wall:.0f} |", flush=True)


if __name__ == "__main__":
    main()
