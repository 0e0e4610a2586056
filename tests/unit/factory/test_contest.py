"""A challenger must win somewhere and lose nowhere."""

from __future__ import annotations

import numpy as np

from inflame.factory.contest import bout, contest


def right(n: int, wrong: int) -> np.ndarray:
    return np.arange(n) >= wrong


def test_what_one_bout_says() -> None:
    better = bout(right(200, 60), right(200, 20))
    assert (better.verdict, better.n, better.champion, better.challenger) == ("better", 200, 0.7, 0.9)
    assert better.difference.low > 0
    assert bout(right(200, 20), right(200, 60)).verdict == "worse"
    unsure = bout(right(30, 3), right(30, 1))
    assert unsure.verdict == "untold"
    assert unsure.wanted is not None
    assert unsure.wanted > 30


def test_it_must_win_somewhere_and_lose_nowhere() -> None:
    same, up, down = (right(300, 30),) * 2, (right(300, 60), right(300, 10)), (right(300, 10), right(300, 60))
    assert contest({"locked": same, "recent": up}).better
    assert contest({"locked": up, "recent": same}).better
    assert not contest({"locked": down, "recent": up}).better
    assert not contest({"locked": same, "recent": same}).better
    told = contest({"locked": same, "recent": up}).told
    assert "can't tell: +0.0 points" in told
    assert "better: +16.7 points" in told


def test_two_chances_to_win_need_more_evidence_each() -> None:
    close = (right(400, 12), right(400, 5))  # p between 0.025 and 0.05
    assert contest({"locked": close}).bouts["locked"].verdict == bout(*close).verdict
    shared = contest({"locked": close, "recent": (right(400, 12), right(400, 12))})
    assert shared.bouts["locked"].difference.p > 0.025 or shared.better


def test_without_items_nothing_is_better() -> None:
    empty = np.zeros(0, bool)
    found = contest({"locked": (empty, empty), "recent": (empty, empty)})
    assert (found.better, found.told) == (False, "there are no items to tell by")


def test_false_promotions_are_rare() -> None:
    rng = np.random.default_rng(0)
    won = sum(
        contest({name: (rng.random(200) < 0.85, rng.random(200) < 0.85) for name in ("locked", "recent")}).better
        for _ in range(400)
    )
    assert won / 400 < 0.045
