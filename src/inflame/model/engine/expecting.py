"""Makes what a bundle expects: asks it about held-out items, clean and spoiled, as a server would be asked.

What takes time is answering; a budget bounds it. Clean items come first, then corruptions in turn, a few items of
each, until the time is over.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import seen, spoil, texts
from inflame.artifact.contents import Contents
from inflame.errors import InflameError
from inflame.model.engine import estimate, shift
from inflame.model.engine.expected import Expected, Sample, describe, joined
from inflame.model.engine.predictor import BATCH, Predictor
from inflame.records import Dataset, TextPreprocess

MOST = 2000  # clean items
ENOUGH = 1.0  # seconds: with less no estimator is fitted
LEAST = 40
CLEAN, FRAME = 0.25, 0.35  # of the budget: when clean items, and those that the directions come from, must be done
FRAMED = 256  # items that the directions come from
SEVERITIES = (0.3, 0.7, 0.1, 0.5, 0.2, 0.85, 0.05)  # the middle first

Read = Callable[[str], bytes]


def expecting(
    predictor: Predictor,
    read: Read,
    uris: Sequence[str],
    labels: Sequence[int],
    others: Sequence[str] = (),
    *,
    seconds: float,
    seed: int = 0,
) -> Expected | None:
    """What is expected, from held-out items that `read` gives the bytes of; None for fewer than `LEAST` of them, also
    where there was no time for more.

    Labels are indices into the classes. others: items of the training, which the directions of the embedding come from;
    without them a quarter of the held-out items serves. Items that can't be read are left out.
    """
    began, rng = time.monotonic(), np.random.default_rng(seed)
    order = rng.permutation(len(uris))[:MOST]
    asked = Asked(predictor)
    samples: list[Sample] = []
    contents: list[Any] = []
    truth: list[int] = []
    for start in range(0, len(order), BATCH):
        spent = time.monotonic() - began
        if spent > seconds or (spent > CLEAN * seconds and sum(map(len, samples)) >= LEAST):
            break
        some = _contents(read, [(uris[row], labels[row]) for row in order[start : start + BATCH]])
        found, good, held = asked.look([content for content, _ in some])
        samples.append(found)
        contents += [texts.decode(some[place][0])[0] for place in good] if asked.text else held
        truth += [some[place][1] for place in good]
    if sum(map(len, samples)) < LEAST:
        return None
    clean, right = joined(samples), np.array(truth)
    correct = clean.probabilities.argmax(axis=1) == right
    frame = _frame(asked, read, others, began + FRAME * seconds)
    start = 0 if frame is not None else len(clean) // 4
    half, quarter = (start + len(clean)) // 2, (start + 3 * len(clean)) // 4
    first = describe(
        clean.take(np.arange(start, half)),
        frame=frame if frame is not None else clean.embedding[:start],
        names=asked.names,
        classes=predictor.classes,
        accuracy=float(correct.mean()),
        labelled=len(correct),
        thresholds=shift.NOMINAL,
    )
    windows = int(np.clip(20 * seconds, 10, shift.WINDOWS))
    limits = shift.thresholds(first, clean.take(np.arange(half, quarter)), rng, windows)
    second = dataclasses.replace(first, thresholds=limits)
    checked = shift.verified(second, clean.take(np.arange(quarter, len(clean))), rng, windows)
    if seconds < ENOUGH:
        return dataclasses.replace(second, verified=checked)
    spoiled = _spoiled(asked, second, contents, right, began + seconds, rng)
    pure = estimate.Spoiled(family="", view=second.view(clean), known=clean.known, correct=correct)
    return dataclasses.replace(second, verified=checked, estimator=estimate.fit(second, pure, spoiled, rng))


def _frame(asked: Asked, read: Read, others: Sequence[str], end: float) -> NDArray[np.float32] | None:
    """Embeddings of training items; None for too few."""
    order = np.random.default_rng(0).permutation(len(others))[:FRAMED]
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(order), BATCH):
        if time.monotonic() > end:
            break
        some = _contents(read, [(others[row], 0) for row in order[start : start + BATCH]])
        parts.append(asked([content for content, _ in some])[0].embedding)
    return np.concatenate(parts) if sum(map(len, parts)) >= LEAST else None


def of(predictor: Predictor, dataset: Dataset, *, seconds: float, seed: int = 0) -> Expected | None:
    """What the model of a data set expects, from its validation items. Where there are none, or the model that is
    served was fitted on them as well (its numbers are then out of fold), from those of the test: nothing is chosen by
    it."""
    splits = np.array(dataset.items["split"].to_pylist())
    uris = dataset.items["uri"].to_pylist()
    places = {name: number for number, name in enumerate(predictor.classes)}
    labels = [places.get(name, -1) for name in dataset.items["label"].to_pylist()]
    apart = predictor.calibration.source == "val" and bool((splits == "val").any())
    rows = np.flatnonzero(splits == ("val" if apart else "test"))
    return expecting(
        predictor,
        Contents(dataset.root).read,
        [uris[row] for row in rows],
        [labels[row] for row in rows],
        [uris[row] for row in np.flatnonzero(splits == "train")],
        seconds=seconds,
        seed=seed,
    )


class Asked:
    """Answers with all that the log keeps of them."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.text = isinstance(predictor.preprocess, TextPreprocess)
        self.names = seen.names(text=self.text)

    def __call__(self, contents: Sequence[bytes]) -> tuple[Sample, list[int]]:
        """The answers to files or texts by their bytes, and which of them could be read."""
        return self.look(contents)[:2]

    def look(self, contents: Sequence[bytes]) -> tuple[Sample, list[int], list[Any]]:
        """The same, with what was read of them."""
        good, read = [], []
        for place, content in enumerate(contents):
            try:
                read.append(self.predictor.read(content))
                good.append(place)
            except InflameError:
                continue
        if not good:
            return self._nothing(), [], []
        inputs = self.predictor.stack(read)
        described = [self.described(one, contents[place]) for one, place in zip(read, good, strict=True)]
        numbers = np.stack([row for row, _ in described])
        return self.answered(inputs, numbers, tuple(kind for _, kind in described)), good, read

    def described(self, read: Any, content: bytes) -> tuple[NDArray[np.float32], str]:
        """The statistics of an input that was read, and its type."""
        return seen.text(content) if self.text else seen.picture(read, content)

    def answered(self, inputs: Any, numbers: NDArray[np.float32], kinds: tuple[str, ...] = ()) -> Sample:
        """The answers to a batch."""
        logits, embedding = self.predictor.run(inputs)
        probabilities = self.predictor.calibration.apply(logits)
        return Sample(
            probabilities=probabilities.astype(np.float16).astype(np.float32),
            embedding=embedding.astype(np.float16).astype(np.float32),
            seen=numbers,
            known=self.predictor.calibration.known(probabilities),
            kinds=kinds,
        )

    def _nothing(self) -> Sample:
        width = self.predictor.embed([]).shape[1]
        return Sample(
            probabilities=np.zeros((0, len(self.predictor.classes)), np.float32),
            embedding=np.zeros((0, width), np.float32),
            seen=np.zeros((0, len(self.names)), np.float32),
            known=np.zeros(0, bool),
        )


def _contents(read: Read, rows: Sequence[tuple[str, int]]) -> list[tuple[bytes, int]]:
    found = []
    for uri, label in rows:
        try:
            found.append((read(uri), int(label)))
        except (InflameError, OSError):
            continue
    return found


def _spoiled(
    asked: Asked,
    expected: Expected,
    contents: Sequence[Any],
    right: NDArray[np.int64],
    end: float,
    rng: np.random.Generator,
) -> list[estimate.Spoiled]:
    """Corruptions in turn, a batch of items of each, round after round until the time is over."""
    families = list(spoil.TEXTS if asked.text else spoil.PICTURES)
    found: dict[tuple[str, float], list[tuple[Sample, NDArray[np.bool_]]]] = {}
    turns = [(family, severity) for severity in SEVERITIES for family in families]
    limit = 8 * len(turns)
    for number in range(limit):
        if time.monotonic() > end:
            break
        family, severity = turns[number % len(turns)]
        rows = rng.integers(0, len(contents), 2 * BATCH)
        sample = _worse(asked, [contents[row] for row in rows], family, severity, rng)
        correct = sample.probabilities.argmax(axis=1) == right[rows]
        found.setdefault((family, severity), []).append((sample, correct))
    groups = []
    for (family, _), parts in found.items():
        whole = joined([sample for sample, _ in parts])
        correct = np.concatenate([part for _, part in parts])
        groups.append(estimate.Spoiled(family=family, view=expected.view(whole), known=whole.known, correct=correct))
    return groups


def _worse(asked: Asked, contents: Sequence[Any], family: str, severity: float, rng: np.random.Generator) -> Sample:
    """The answers to items after a corruption. Of the inputs nothing is noted: the estimator doesn't look at them."""
    if asked.text:
        changed = [spoil.TEXTS[family](text, severity, rng).encode() or b"a" for text in contents]
        read = [asked.predictor.read(content if content.strip() else b"a") for content in changed]
        inputs = asked.predictor.stack(read)
    else:
        inputs = {"pictures": spoil.PICTURES[family](np.stack(contents), severity, rng)}
    return asked.answered(inputs, np.full((len(contents), len(asked.names)), np.nan, np.float32))
