"""The data that a training begins with: opened, checked for what nothing can be learned from, and told in a line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

from inflame import host
from inflame.errors import DataError, NetworkError
from inflame.records import Dataset, Preprocess

HELD = 0.5  # share of the memory that decoded photos may take, which are there twice for a while


def opened(read: Callable[[str], Dataset], place: str, fallback: str, notes: list[str]) -> Dataset:
    """The data set at `place`, or `fallback` where it can't be had without a network, which `notes` then say. Raises
    DataError where there are fewer than two classes, or nothing to train on."""
    try:
        dataset = read(place)
    except NetworkError as error:
        if not fallback:
            raise
        notes.append(f"{place} can't be had ({error.message}): taking {fallback} instead")
        dataset = read(fallback)
    if len(dataset.classes) < 2:
        only = f"one class, {dataset.classes[0]}" if dataset.classes else "no class"
        raise DataError(
            f"{dataset.name} has {only}: there is nothing to tell apart.",
            where=dataset.root,
            remedy="Put the pictures of each class into a folder of its own, two folders at least.",
        )
    if not len(dataset.split("train")):
        given = sorted(set(dataset.items["split"].to_pylist()))
        raise DataError(
            f"{dataset.name} has no items to train on: all are in {' and '.join(given)}.",
            where=dataset.root,
            remedy=f"Divide them anew: inflame split {shlex.quote(dataset.root)} --resplit --out "
            + shlex.quote(f"{dataset.name}-split.csv"),
        )
    return dataset


def describe(dataset: Dataset) -> str:
    """`butterflies: 713 items, 6 classes (train 491, val 111, test 111)`."""
    counts = {row["values"]: row["counts"] for row in dataset.items["split"].value_counts().to_pylist()}
    order = [name for name in ("train", "val", "test") if name in counts]
    order += [name for name in counts if name not in order]
    parts = ", ".join(f"{name} {counts[name]:,}" for name in order)
    return f"{dataset.name}: {len(dataset):,} items, {len(dataset.classes)} classes ({parts})"


def faults(dataset: Dataset, most: int = 3) -> list[str]:
    """The data's faults that matter, the gravest first, a line for each kind; at most `most` lines."""
    kinds: dict[str, list[Any]] = {}
    for fault in sorted(dataset.faults, key=lambda fault: ("error", "warning", "info").index(fault.severity)):
        if fault.severity != "info":
            kinds.setdefault(fault.kind, []).append(fault)
    lines = []
    for kind, found in kinds.items():
        items = [item for fault in found for item in fault.items]
        left_out = " (left out)" if found[0].severity == "error" else ""
        lines.append(f"{len(items)} × {kind.replace('_', ' ')}{left_out}: {found[0].reason}")
    if len(lines) > most:
        lines[most - 1 :] = [f"… and {len(lines) - most + 1} more kinds; `inflame check` shows all with pictures"]
    return lines


def room(squares: Preprocess, count: int, processes: int) -> int:
    """How many of so many photos the memory of each of the processes on this machine holds, decoded to squares."""
    memory = host.memory()
    return count if memory is None else int(HELD * memory / (2 * squares.channels * squares.resize**2 * processes))


def bar(what: str) -> Callable[[int, int], None]:
    """A tqdm bar that shows itself after two seconds, on a terminal."""
    bars: list[Any] = []

    def move(done: int, total: int) -> None:
        if not bars:
            from tqdm import tqdm

            hidden = not sys.stderr.isatty()
            bars.append(tqdm(total=total, desc=what, delay=2.0, leave=False, disable=hidden, dynamic_ncols=True))
        bars[0].update(done - bars[0].n)
        if done >= total:
            bars[0].close()

    return move
