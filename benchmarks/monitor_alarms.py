"""How often does the monitor ring, clean and changed? On answers that are kept on disk, against many references.

    python -m benchmarks.monitor_alarms answers RUN FOLDER   a minute or two
    python -m benchmarks.monitor_alarms clean FOLDER…        a minute each
    python -m benchmarks.monitor_alarms changed FOLDER…      a minute each; needs `monitor_estimate answers` in FOLDER

One reference says little about false alarms: all windows share its chance, so they come in bunches, or not at all. Here
reference and thresholds are drawn anew each time from all held-out items, and the windows from the others. `clean` is
of tests alone, so that its rate of "accuracy at risk" is a bound: the estimate must have fallen as well. `changed` fits
the estimator of each reference and counts what is told in the end.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
from benchmarks.monitor import STREAMS
from benchmarks.monitor import answers as spoiled_answers
from benchmarks.monitor_estimate import kept, spoiled

from inflame import runs
from inflame.artifact import manifest, seen
from inflame.artifact.contents import Contents
from inflame.model.engine import estimate, shift
from inflame.model.engine.expected import Expected, Sample, describe, joined
from inflame.model.engine.expecting import Asked
from inflame.model.engine.predictor import Predictor
from inflame.monitor.drift import QUIET, RISK, judge

HELD, TESTED, FRAME = 2000, 4000, 256  # items
REFERENCES, TURNS = 40, 20  # and windows of each size against each of them
FEW, TIMES = 6, 25  # where an estimator is fitted
SIZES = (20, 50, 200, 500)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("what", choices=("answers", "clean", "changed"))
    words.add_argument("places", nargs="+")
    words.add_argument("--items", type=int, default=HELD // 2, help="of a reference")
    words.add_argument("--from", type=int, default=0, dest="first", help="number of the first reference")
    given = words.parse_args()
    if given.what == "answers":
        answers(runs.find(given.places[0]), Path(given.places[1]))
        return
    for place in given.places:
        folder = Path(place)
        print(f"{folder.name}: references of {given.items} items, from number {given.first}", flush=True)
        (clean if given.what == "clean" else changed)(folder, given.items, given.first)


def answers(run: runs.Run, folder: Path) -> None:
    """Asks the model about items as they are, and about each stream."""
    folder.mkdir(parents=True, exist_ok=True)
    predictor, dataset = Predictor(run.bundle, threads=1), manifest.load(run.path)
    asked, read = Asked(predictor), Contents(dataset.root).read
    rows: dict[str, list[dict]] = {"train": [], "val": [], "test": []}
    for row in dataset.items.to_pylist():
        rows[row["split"]].append(row)
    tested = [rows["test"][place] for place in np.random.default_rng(1).permutation(len(rows["test"]))]
    held = [rows["val"][place] for place in np.random.default_rng(0).permutation(len(rows["val"]))]
    if predictor.calibration.source != "val" or not held:
        held, tested = tested[::2], tested[1::2]
    frame = [rows["train"][place] for place in np.random.default_rng(0).permutation(len(rows["train"]))]
    tested = tested[:TESTED]
    for name, items in (("frame", frame[:FRAME]), ("held", held[:HELD]), ("clean", tested)):
        contents = [read(row["uri"]) for row in items]
        sample = joined([asked(contents[at : at + 32])[0] for at in range(0, len(contents), 32)])
        truth = np.array([predictor.classes.index(row["label"]) for row in items])
        keep(folder, name, sample, truth)
    pixels = np.stack([predictor.read(content) for content in contents])
    for name, (change, _) in STREAMS.items():
        keep(folder, name, spoiled_answers(asked, change(pixels), sample), truth)


def keep(folder: Path, name: str, sample: Sample, truth: np.ndarray) -> None:
    p, e = sample.probabilities.astype(np.float16), sample.embedding.astype(np.float16)
    words = {"seen": sample.seen, "known": sample.known, "kinds": np.array(sample.kinds), "y": truth}
    np.savez(folder / f"full-{name}.npz", p=p, e=e, **words)
    print(f"{name:<20} {(sample.probabilities.argmax(axis=1) == truth).mean():.3f}", flush=True)


def whole(file: Path) -> tuple[Sample, np.ndarray]:
    """The answers with the statistics of their inputs, and which are right."""
    with np.load(file) as found:
        kinds, empty = tuple(found["kinds"].tolist()), np.zeros((len(found["y"]), 0))
        p, e = found["p"].astype(np.float32), found["e"].astype(np.float32)
        sample = Sample(probabilities=p, embedding=e, seen=empty, known=found["known"], kinds=kinds)
        return dataclasses.replace(sample, seen=found["seen"]), p.argmax(axis=1) == found["y"]


def expecting(folder: Path, held: Sample, right: np.ndarray, items: int, rng: np.random.Generator) -> Expected:
    """What is expected by the first `items`, with thresholds from half as many after them."""
    first = describe(
        held.take(np.arange(items)),
        frame=whole(folder / "full-frame.npz")[0].embedding,
        names=seen.names(text=False),
        classes=[str(number) for number in range(held.probabilities.shape[1])],
        accuracy=float(right.mean()),
        labelled=len(right),
        thresholds=shift.NOMINAL,
    )
    limits = shift.thresholds(first, held.take(np.arange(items, items + items // 2)), rng)
    return dataclasses.replace(first, thresholds=limits)


def clean(folder: Path, items: int, start: int) -> None:
    """False alarms of clean windows."""
    parts = [whole(folder / f"full-{name}.npz") for name in ("held", "clean")]
    every, right = joined([part for part, _ in parts]), np.concatenate([part for _, part in parts])
    found: dict[int, list[tuple[bool, bool]]] = {}
    blamed: Counter[str] = Counter()
    for number in range(start, start + REFERENCES):
        rng = np.random.default_rng(number)
        order = rng.permutation(len(every))
        held, others = order[: 2 * items], every.take(order[2 * items :])
        expected = expecting(folder, every.take(held), right[held], items, rng)
        view = expected.view(others)
        for size in (size for size in SIZES if size <= len(others) // 2):
            for _ in range(TURNS):
                rows = rng.permutation(len(others))[:size]
                kinds = tuple(others.kinds[row] for row in rows)
                tests = shift.compare(expected, view.take(rows), others.known[rows], kinds)
                p = shift.combined(tests), shift.combined(tests, shift.MODEL)
                rings = min(p) < expected.thresholds["changed"]
                found.setdefault(size, []).append((rings, p[1] < expected.thresholds["risk"]))
                if rings:
                    blamed[min(tests, key=lambda one: one.p * one.share).name] += 1
    for size, rung in found.items():
        shares = np.mean(rung, axis=0)
        print(f"  clean, {len(rung)} windows of {size:>3}: input changed {shares[0]:.2%}, at risk < {shares[1]:.2%}")
    print(f"  all: {np.mean(np.concatenate(list(found.values())), axis=0)}, by {blamed.most_common(5)}")


def changed(folder: Path, items: int, start: int) -> None:
    """What is told of clean and of changed windows."""
    held, right = whole(folder / "full-held.npz")
    streams = {name: whole(folder / f"full-{name}.npz") for name in ("clean", *STREAMS)}
    groups = [(file.stem.split("-")[1], *kept(file)) for file in sorted(folder.glob("held-*-*.npz"))]
    told: dict[tuple[str, int], list[str]] = {}
    for number in range(start, start + FEW):
        rng = np.random.default_rng(number)
        order = rng.permutation(len(held))
        expected = expecting(folder, held.take(order), right[order], min(items, len(held) // 2), rng)
        blank = np.full((1, len(expected.names)), np.nan)  # the estimator doesn't look at the inputs
        worse = [
            spoiled(expected, family, dataclasses.replace(sample, seen=blank.repeat(len(ok), 0)), ok)
            for family, sample, ok in groups
        ]
        fitted = estimate.fit(expected, spoiled(expected, "", held, right), worse, rng)
        expected = dataclasses.replace(expected, estimator=fitted)
        for name, (sample, _) in streams.items():
            for size in (size for size in SIZES if size <= len(sample) // 2):
                for _ in range(TIMES * (4 if name == "clean" else 1)):
                    rows = rng.permutation(len(sample))[:size]
                    told.setdefault((name, size), []).append(judge(expected, sample.take(rows)).level)
    for (name, size), levels in told.items():
        accuracy = streams[name][1].mean()
        noticed, risk = np.mean([level != QUIET for level in levels]), levels.count(RISK) / len(levels)
        print(f"  {name:<20} {accuracy:.3f}, {len(levels)} of {size:>3}: noticed {noticed:.1%}, at risk {risk:.1%}")


if __name__ == "__main__":
    main()
