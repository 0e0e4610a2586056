"""What the website remembers of late answers has an end, by their number and by that of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inflame.web import store
from inflame.web.answers import Answer
from inflame.web.store import Store

CLASSES = 10


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Store]:
    found = Store(str(tmp_path / "log.db"), lambda entry: None)
    yield found
    found.close()


def answer(number: int) -> Answer:
    shares = tuple([0.91] + [0.01] * (CLASSES - 1))
    return Answer(
        label="a",
        probability=0.91,
        top=tuple((chr(97 + place), share) for place, share in enumerate(shares)),
        set=("a",),
        known=True,
        unlike=False,
        level="likely",
        distance=0.1,
        limit=0.2,
        sha256=f"{number:064x}",
        model="letters",
        version="0123456789ab",
        embedding=np.zeros(4, np.float16).tobytes(),
        shares=shares,
        seen=np.arange(12, dtype=np.float32).tobytes(),
        kind="PNG",
    )


@pytest.mark.parametrize(("limit", "value", "left"), [("_LATELY", 7, 7), ("_CLASSES", 55, 5)])
def test_the_oldest_are_forgotten(
    made: Store, limit: str, value: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, limit, value)
    kept = [made.keep(answer(number), "api") for number in range(20)]
    made.settle()
    found = [made.find(one.id) for one in kept]
    assert found == [None] * (20 - left) + kept[-left:]  # None: the log has it, and its model has gone


def test_the_log_has_what_it_was_told(made: Store) -> None:
    kept = made.keep(answer(1), "api", b"the thing itself")
    made.settle()
    entry = made.log.find(kept.id)
    assert entry is not None
    assert (entry.kind, entry.seen.tolist()) == ("PNG", list(range(12)))
    assert made.log.kept(entry.input) == b"the thing itself"
    assert (kept.embedding, kept.seen, kept.shares) == (b"", b"", ())  # not needed any more
