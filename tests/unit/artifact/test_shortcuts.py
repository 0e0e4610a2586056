"""Cues beside the content: each planted one is named, and a fair set has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inflame.artifact.scanning import Scan
from inflame.artifact.shortcuts import imbalance, shortcuts

RANDOM = np.random.default_rng(0)


def fair(count: int = 200) -> tuple[list[Scan], list[str], np.ndarray]:
    scans = [
        Scan(
            f"{'ab'[row % 2]}/IMG_{row:04}.jpg",
            str(row),
            int(RANDOM.integers(300, 500)),
            int(RANDOM.integers(300, 500)),
            "RGB",
            "JPEG",
            bytes=int(RANDOM.integers(20_000, 60_000)),
            camera=str(RANDOM.choice(["one", "two"])),
        )
        for row in range(count)
    ]
    return scans, ["ab"[row % 2] for row in range(count)], RANDOM.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def told(scans: list[Scan], labels: list[str], colours: np.ndarray | None) -> list[str]:
    return [fault.reason.split(" alone")[0].removeprefix("the ") for fault in shortcuts(scans, labels, colours)]


def test_a_fair_set_has_none() -> None:
    assert told(*fair()) == []


@pytest.mark.parametrize(
    ("cue", "change"),
    [
        ("file size", lambda scan, b: {"bytes": scan.bytes + 60_000 * b}),
        ("picture size", lambda scan, b: {"width": 640 if b else 480}),
        ("file format", lambda scan, b: {"format": "PNG" if b else "JPEG"}),
        ("camera", lambda scan, b: {"camera": "Canon" if b else "Nikon"}),
        ("file name", lambda scan, b: {"uri": f"b/DSC{scan.sha256}.jpg" if b else scan.uri}),
    ],
)
def test_a_cue_that_tells_the_class_is_named(cue: str, change) -> None:  # type: ignore[no-untyped-def]
    scans, labels, colours = fair()
    scans = [replace(scan, **change(scan, label == "b")) for scan, label in zip(scans, labels, strict=True)]
    assert told(scans, labels, colours) == [cue]


def test_a_background_colour_is_named() -> None:
    scans, labels, colours = fair()
    colours[[label == "b" for label in labels]] //= 3
    assert told(scans, labels, colours) == ["mean colour"]


def test_too_few_items_or_one_class_are_not_judged() -> None:
    scans, labels, colours = fair(20)
    assert told(scans, labels, colours) == []
    scans, labels, colours = fair(100)
    assert told(scans, ["a"] * 100, colours) == []


def test_bad_files_are_not_judged() -> None:
    scans, labels, colours = fair()
    bad = [replace(scan, kind="unreadable", bytes=0) for scan in scans[1::2]]
    scans[1::2] = bad
    assert told(scans, labels, colours) == []


def test_texts_are_judged_by_their_length() -> None:
    scans = [
        Scan(f"{'ab'[row % 2]}/{row}.txt", str(row), 200 + 900 * (row % 2), 9, "utf-8", "TEXT") for row in range(100)
    ]
    assert told(scans, ["ab"[row % 2] for row in range(100)], None) == ["length"]


def test_imbalance() -> None:
    assert list(imbalance(["a"] * 99 + ["b"] * 10)) == []
    (fault,) = imbalance(["a"] * 100 + ["b"] * 10)
    assert (fault.kind, fault.severity) == ("imbalance", "warning")
    assert '"a" has 100 items, "b" 10' in fault.reason
    assert list(imbalance(["a"] * 100)) == []
    assert list(imbalance([])) == []
