"""How far off is the estimated accuracy? On answers that are kept on disk, so that another estimator costs seconds.

    python -m benchmarks.monitor_estimate answers RUN FOLDER   some minutes; goes on where it was
    python -m benchmarks.monitor_estimate errors FOLDER…       a few seconds each

RUN: a finished run of pictures. Its validation items (or every other test item, where the model was fitted on them as
well) teach the estimator as `inflame monitor learn` does, and the test items are what it is tried on, spoiled in ten
ways, five strengths each. Each way is estimated by a fit without it, in windows of 500, or of half the items. And in
windows of 200: how often "accuracy at risk" rings, by how much accuracy a change costs; and what is said of clean
windows with other shares of the classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inflame import runs
from inflame.artifact import manifest, spoil
from inflame.artifact.contents import Contents
from inflame.model.engine import estimate, shift
from inflame.model.engine.expected import Expected, Sample, describe, joined
from inflame.model.engine.expecting import SEVERITIES, Asked
from inflame.model.engine.predictor import Predictor
from inflame.monitor.drift import RISK, judge

HELD, TESTED, FRAME, EACH = 2000, 1000, 256, 256  # items
STRENGTHS = (0.1, 0.25, 0.4, 0.6, 0.9)
WINDOW, RUNG, TIMES = 500, 200, 10
LEAST = 20  # items of a window with other shares of the classes
COSTS = (-0.1, 0.025, 0.05, 0.1, 1.0)  # of accuracy


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("what", choices=("answers", "errors"))
    words.add_argument("places", nargs="+")
    given = words.parse_args()
    if given.what == "answers":
        answers(runs.find(given.places[0]), Path(given.places[1]))
    else:
        for place in given.places:
            errors(Path(place))


def answers(run: runs.Run, folder: Path) -> None:
    """Asks the model about every condition that is not kept yet: `held-noise-0.3.npz`, `test-noise-0.25.npz` …"""
    folder.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(run.bundle, threads=2)
    dataset = manifest.load(run.path)
    asked, read, rng = Asked(predictor), Contents(dataset.root).read, np.random.default_rng(0)
    rows: dict[str, list[dict]] = {"train": [], "val": [], "test": []}
    for row in dataset.items.to_pylist():
        rows[row["split"]].append(row)
    tested = [rows["test"][place] for place in np.random.default_rng(1).permutation(len(rows["test"]))]
    held = [rows["val"][place] for place in rng.permutation(len(rows["val"]))]
    if predictor.calibration.source != "val" or not held:
        held, tested = tested[::2], tested[1::2]
    held, tested = held[:HELD], tested[:TESTED]
    frame = [rows["train"][place] for place in rng.permutation(len(rows["train"]))[:FRAME]]
    for name, items, change in conditions(frame, held, tested):
        file = folder / f"{name}.npz"
        if file.exists():
            continue
        parts = []
        for at in range(0, len(items), 64):
            pictures = np.stack([predictor.read(read(row["uri"])) for row in items[at : at + 64]])
            unseen = np.full((len(pictures), len(asked.names)), np.nan, np.float32)
            parts.append(asked.answered({"pictures": change(pictures, at)}, unseen))
        sample = joined(parts)
        truth = np.array([predictor.classes.index(row["label"]) for row in items])
        p, e = sample.probabilities.astype(np.float16), sample.embedding.astype(np.float16)
        np.savez(folder / f"{name}.part.npz", p=p, e=e, known=sample.known, y=truth)
        (folder / f"{name}.part.npz").rename(file)
        print(f"{name:<20} {(sample.probabilities.argmax(axis=1) == truth).mean():.3f}", flush=True)


def conditions(frame: list[dict], held: list[dict], tested: list[dict]) -> Iterator[tuple]:
    """Name, items and change of each."""

    def same(pictures, at):
        return pictures

    def spoiling(kind, strength):
        return lambda pictures, at: spoil.PICTURES[kind](pictures, strength, np.random.default_rng(at))

    yield from (("frame", frame, same), ("held-clean", held, same), ("test-clean", tested, same))
    for kind in spoil.PICTURES:
        for strength in STRENGTHS:
            yield f"test-{kind}-{strength}", tested, spoiling(kind, strength)
        for number, strength in enumerate(SEVERITIES):
            chosen = np.random.default_rng(number).integers(0, len(held), EACH)
            yield f"held-{kind}-{strength}", [held[place] for place in chosen], spoiling(kind, strength)


def kept(file: Path) -> tuple[Sample, np.ndarray]:
    """The answers of a condition, and which are right."""
    with np.load(file) as found:
        p, y = found["p"].astype(np.float32), found["y"]
        empty = np.zeros((len(y), 0), np.float32)
        sample = Sample(probabilities=p, embedding=found["e"].astype(np.float32), seen=empty, known=found["known"])
    return sample, p.argmax(axis=1) == y


def errors(folder: Path) -> None:
    """Fits and tries the estimator, each family left out in turn."""
    held, right = kept(folder / "held-clean.npz")
    expected = describe(
        held.take(np.arange(len(held) // 2)),
        frame=kept(folder / "frame.npz")[0].embedding,
        names=(),
        classes=[str(number) for number in range(held.probabilities.shape[1])],
        accuracy=float(right.mean()),
        labelled=len(held),
        thresholds=shift.NOMINAL,
    )
    clean = spoiled(expected, "", held, right)
    groups = [spoiled(expected, file.stem.split("-")[1], *kept(file)) for file in sorted(folder.glob("held-*-*.npz"))]
    found, inside, rung = {}, [], []
    sure = kept(folder / "test-clean.npz")[1].mean()
    for family in sorted({one.family for one in groups}):
        rest = [one for one in groups if one.family != family]
        fitted = estimate.fit(expected, clean, rest, np.random.default_rng(2))
        knowing = dataclasses.replace(expected, estimator=fitted)
        files = sorted(folder.glob(f"test-{family}-*.npz"))
        rung += [(sure - kept(file)[1].mean(), ringing(knowing, file)) for file in files]
        pairs = list(tried(knowing, files))
        found[family] = 100 * np.mean([abs(guess.accuracy - truth) for guess, truth in pairs])
        inside += [guess.low <= truth <= guess.high for guess, truth in pairs]
    told = ", ".join(f"{name} {error:.1f}" for name, error in sorted(found.items(), key=lambda pair: -pair[1]))
    print(f"{folder.name}: accuracy {expected.accuracy:.3f}, error {np.mean(list(found.values())):.1f} points ({told})")
    print(f"  the interval holds {np.mean(inside):.1%}")
    whole = dataclasses.replace(expected, estimator=estimate.fit(expected, clean, groups, np.random.default_rng(2)))
    other_shares(whole, folder / "test-clean.npz")
    for least, most in itertools.pairwise(COSTS):
        shares = sorted(share for cost, share in rung if least <= cost < most)
        told = ", ".join(f"{share:.0%}" for share in shares)
        print(f"  {len(shares)} changes that cost {100 * least:.1f} to {100 * most:.1f} points, at risk: {told}")


def tried(expected: Expected, files: list[Path]) -> Iterator[tuple[estimate.Estimate, float]]:
    """The estimate and the truth of windows of each condition."""
    for file in files:
        sample, right = kept(file)
        view, rng = expected.view(sample), np.random.default_rng(7)
        for _ in range(TIMES):
            rows = rng.permutation(len(right))[: min(WINDOW, len(right) // 2)]
            yield estimate.estimate(expected, view.take(rows), sample.known[rows]), right[rows].mean()


def other_shares(expected: Expected, file: Path) -> None:
    """Clean windows with other shares of the classes: eight of ten of one class, and drawn from Dirichlet(0.5)."""
    sample, right = kept(file)
    truth = np.load(file)["y"]
    rng, count = np.random.default_rng(8), len(expected.class_names)
    before = np.bincount(truth, minlength=count)
    even, size = before / len(truth), min(RUNG, len(right) // 2, int(before[before > 0].min() / 0.8))
    if size < LEAST:
        print(f"  no windows with other shares of the classes: {size} items would be all")
        return
    kinds = {"eight of ten": [0.8 * row + 0.2 * even for row in np.eye(count) if (row * even).any()]}
    kinds["Dirichlet(0.5)"] = [rng.dirichlet(np.full(count, 0.5)) for _ in range(50)]
    for name, shares in kinds.items():
        off, inside, sure, levels, lost = [], [], [], [], []
        for share in [share for share in shares for _ in range(2 * TIMES)]:
            weights = (share[truth] + 1e-6) / before[truth]
            rows = rng.choice(len(right), size, replace=False, p=weights / weights.sum())
            found, real = judge(expected, sample.take(rows)), right[rows].mean()
            guess = found.estimate
            off.append(abs(guess.accuracy - real))
            inside.append(guess.low <= real <= guess.high)
            sure.append(guess.reliable)
            levels.append(found.level == RISK)
            lost.append(right.mean() - real > 0.05)
        good = 100 * np.mean(np.array(levels)[~np.array(lost)]) if not all(lost) else 0.0
        told = f"error {100 * np.mean(off):.1f} points, the interval holds {np.mean(inside):.1%}"
        rings = f"at risk {np.mean(levels):.1%} ({good:.1f} % where less than 5 points are lost)"
        print(f"  {name}, windows of {size}: {told}, reliable {np.mean(sure):.1%}, {rings}")


def ringing(expected: Expected, file: Path) -> float:
    """The share of windows of a condition that are at risk."""
    sample, right = kept(file)
    rng = np.random.default_rng(7)
    rows = [rng.permutation(len(right))[: min(RUNG, len(right) // 2)] for _ in range(2 * TIMES)]
    return float(np.mean([judge(expected, sample.take(some)).level == RISK for some in rows]))


def spoiled(expected: Expected, family: str, sample: Sample, right: np.ndarray) -> estimate.Spoiled:
    return estimate.Spoiled(family=family, view=expected.view(sample), known=sample.known, correct=right)


if __name__ == "__main__":
    main()
