"""Does the monitor notice, and does it keep quiet? `python -m benchmarks.monitor RUN [RUN…]`; fixed seeds.

RUN: a finished run of cifar10, fashion-mnist or butterflies. Its validation items teach the bundle what to expect,
30 s long; all streams are made of test items. For accuracy on families not used in the fit, the estimator is fitted
again without each family in turn. `--log`: what logging costs, in SQLite.
`--quick`: a quarter of the items and windows.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from inflame import runs
from inflame.artifact import manifest, spoil
from inflame.artifact.contents import Contents
from inflame.model.engine import estimate, expecting
from inflame.model.engine.expected import joined
from inflame.model.engine.predictor import Predictor
from inflame.monitor.drift import CHANGED, RISK, judge
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log

SECONDS = 30.0
MOST = 4000  # test items of a stream
CLEAN, OTHER = 700, 100  # windows of each size


def quality(x, number):
    def squeezed(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=number)
        return Image.open(file)

    return spoil._each(x, squeezed)


RNG = np.random.default_rng(5)
STREAMS = {  # name: (change, sizes)
    "Gaussian noise 0.04": (lambda x: spoil._bytes(x + RNG.normal(0, 10.2, x.shape)), (20, 200)),
    "contrast x 0.75": (lambda x: spoil._bytes(x.mean((1, 2, 3), keepdims=True) * 0.25 + 0.75 * x), (50, 200)),
    "grey": (lambda x: spoil.grey(x, 1, RNG), (50, 200)),
    "JPEG quality 80": (lambda x: quality(x, 80), (200,)),
    "brightness + 0.05": (lambda x: spoil._bytes(x + 12.75), (200,)),
}


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("runs", nargs="*")
    words.add_argument("--log", action="store_true")
    words.add_argument("--quick", action="store_true")
    words.add_argument("--only", choices=("streams", "families"), help="one of the two parts")
    given = words.parse_args()
    for name in given.runs:
        measure(runs.find(name), 4 if given.quick else 1, given.only)
    if given.log:
        logging()


def measure(run, part: int, only: str | None) -> None:
    predictor = Predictor(run.bundle, threads=1)
    dataset = manifest.load(run.path)
    began = time.perf_counter()
    kept = []
    fit = estimate.fit

    def remembered(*words):
        kept.append(words)
        return fit(*words)

    estimate.fit = remembered
    expected = expecting.of(predictor, dataset, seconds=SECONDS)
    estimate.fit = fit
    took, held = time.perf_counter() - began, f"{expected.m} reference items, accuracy {expected.accuracy:.4f}"
    print(f"{run.name}: learned in {took:.1f} s, {len(expected.to_bytes()):,} bytes, {held}")
    print(f"thresholds {expected.thresholds}, on the third part {expected.verified}")
    read = Contents(dataset.root).read
    items = [row for row in dataset.items.to_pylist() if row["split"] == "test"]
    order = np.random.default_rng(1).permutation(len(items))[: MOST // part]
    labels = np.array([predictor.classes.index(items[row]["label"]) for row in order])
    asked = expecting.Asked(predictor)
    contents = [read(items[row]["uri"]) for row in order]
    clean = joined([asked(contents[at : at + 32])[0] for at in range(0, len(contents), 32)])
    pixels = np.stack([predictor.read(content) for content in contents])
    began = time.perf_counter()
    for content, picture in zip(contents[:300], pixels[:300], strict=True):
        asked.described(picture, content)
    each = (time.perf_counter() - began) / 300
    began = time.perf_counter()
    for at in range(20):
        judge(expected, clean.take(np.arange(at, at + 200) % len(clean)))
    print(f"cost: {1000 * each:.2f} ms a picture, {50 * (time.perf_counter() - began):.1f} ms a window of 200")
    if only != "families":
        streams(expected, asked, pixels, clean, labels, part)
    if only != "streams":
        families(expected, kept, asked, pixels, clean, labels, min(500, len(labels)))


def streams(expected, asked, pixels, clean, labels, part) -> None:
    """Clean and changed streams."""
    for size in (50, 200, 500):
        if size <= len(labels) // 2:
            levels, _, _ = windows(expected, clean, labels, size, CLEAN // part)
            say("clean", size, clean, labels, levels)
    for name, (change, sizes) in STREAMS.items():
        changed = answers(asked, change(pixels), clean)
        for size in sizes:
            if size <= len(labels):
                say(name, size, changed, labels, windows(expected, changed, labels, size, OTHER // part)[0])


def families(expected, kept, asked, pixels, clean, labels, size) -> None:
    """Accuracy on families left out of the fit."""
    _, pure, spoiled, _ = kept[0]
    errors, inside, sure, atc = [], [], [], []
    for family, change in spoil.PICTURES.items():
        rest = [one for one in spoiled if one.family != family]
        fitted = estimate.fit(expected, pure, rest, np.random.default_rng(2))
        if not fitted:
            print("too few corruptions were learned from in the time: no estimator")
            return
        without = dataclasses.replace(expected, estimator=fitted)
        mine, theirs = [], []
        for severity in (0.1, 0.25, 0.4, 0.6, 0.9):
            sample = answers(asked, change(pixels, severity, np.random.default_rng(3)), clean)
            _, guesses, truth = windows(without, sample, labels, size, 10)
            mine += [abs(guess.accuracy - right) for guess, right in zip(guesses, truth, strict=True)]
            inside += [guess.low <= right <= guess.high for guess, right in zip(guesses, truth, strict=True)]
            sure += [guess.reliable for guess in guesses]
            doubt = np.quantile(pure.view.values[:, len(expected.names)], 1 - expected.accuracy)
            right = sample.probabilities.argmax(axis=1) == labels
            theirs.append(abs((sample.probabilities.max(axis=1) >= doubt).mean() - right.mean()))
        errors.append(np.mean(mine))
        atc.append(np.mean(theirs))
        print(
            f"  left out {family:<12} error {100 * np.mean(mine):5.1f} points (ATC {100 * np.mean(theirs):5.1f})",
            flush=True,
        )
    print(
        f"estimated accuracy, windows of {size}: mean error {100 * np.mean(errors):.1f}, ATC {100 * np.mean(atc):.1f}"
    )
    print(f"90 % interval holds {np.mean(inside):.1%}, {np.mean(sure):.1%} called reliable")


def answers(asked, pictures, clean):
    """The answers to changed pictures; of the files nothing has changed."""
    parts = []
    for at in range(0, len(pictures), 64):
        some = pictures[at : at + 64]
        seen = np.stack([asked.described(picture, b"")[0] for picture in some])
        parts.append(asked.answered({"pictures": some}, seen))
    found = joined(parts)
    seen = np.where(np.isfinite(found.seen), found.seen, clean.seen)
    return dataclasses.replace(found, seen=seen, kinds=clean.kinds)


def windows(expected, sample, labels, size, count):
    rng = np.random.default_rng(7)
    right = sample.probabilities.argmax(axis=1) == labels
    levels, guesses, truth = [], [], []
    for _ in range(count):
        rows = rng.permutation(len(labels))[:size]
        found = judge(expected, sample.take(rows))
        levels.append(found.level)
        guesses.append(found.estimate)
        truth.append(right[rows].mean())
    return levels, guesses, truth


def say(name, size, sample, labels, levels) -> None:
    right = (sample.probabilities.argmax(axis=1) == labels).mean()
    noticed = np.mean([level in (CHANGED, RISK) for level in levels])
    risk, which = levels.count(RISK) / len(levels), f"{name:<20} windows of {size:>3} x {len(levels):>3}"
    print(f"{which}: accuracy {right:.3f}, noticed {noticed:6.1%}, at risk {risk:6.1%}", flush=True)


def logging() -> None:
    """What a record costs, in SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        log = Log(str(Path(folder) / "log.db"))
        entry = Entry(
            model="m",
            input="0" * 64,
            label="x",
            probability=0.5,
            probabilities=np.zeros(10),
            embedding=np.zeros(128),
            seen=np.zeros(12),
        )
        taken = []
        for _ in range(5000):
            one = dataclasses.replace(entry, id=f"{len(taken)}")
            began = time.perf_counter()
            log.add([one])
            taken.append(time.perf_counter() - began)
        middle, rate = 1000 * np.median(taken), len(taken) / sum(taken)
        print(f"log: {middle:.3f} ms a record at the median, {rate:,.0f} records/s one by one")
        began = time.perf_counter()
        for batch in range(50):
            log.add([dataclasses.replace(entry, id=f"b{batch}-{number}") for number in range(200)])
        print(f"log: {10_000 / (time.perf_counter() - began):,.0f} records/s in batches of 200")
        log.close()


if __name__ == "__main__":
    main()
