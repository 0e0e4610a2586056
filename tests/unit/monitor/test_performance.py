"""Measured accuracy, and windows that say together what none says alone."""

from __future__ import annotations

import pytest

from inflame.model.engine.estimate import Estimate
from inflame.monitor.drift import CHANGED, QUIET, RISK, Watch, Window
from inflame.monitor.entries import Entry, Verdict
from inflame.monitor.performance import measured


def said(answer: str, word: str, who: str = "ann", *, label: str = "", asked: bool = True) -> tuple[Entry, Verdict]:
    entry = Entry(model="m", input=answer, label="owl", probability=0.9, id=answer, time=1_790_000_000.0)
    return entry, Verdict(answer=answer, said=word, label=label, who=who, asked=asked)


def test_only_answers_that_were_asked_about_count() -> None:
    some = [said(f"r{number}", "right", label="owl") for number in range(8)]
    some += [said("w1", "label", label="cat"), said("w2", "wrong")]
    some += [said(f"c{number}", "wrong", asked=False) for number in range(30)]
    found = measured(some)
    assert (found.asked.k, found.asked.n) == (8, 10)
    assert found.asked.low == pytest.approx(0.490, abs=0.001)
    assert (found.clicked.k, found.clicked.n) == (0, 30)
    assert {name: rate.n for name, rate in found.by_class.items()} == {"cat": 1, "not said": 1, "owl": 8}
    assert list(found.by_day) == ["2026-09-21"]
    assert found.disputed == ()


def test_the_majority_counts_and_a_tie_does_not() -> None:
    votes = [said("a", "right"), said("a", "right", "bob"), said("a", "wrong", "eve"), said("b", "right")]
    found = measured([*votes, said("b", "wrong", "bob")])
    assert (found.asked.k, found.asked.n) == (1, 1)
    assert found.disputed == ("a", "b")


def test_of_nothing_everything_is_possible() -> None:
    assert measured([]).asked.to_json() == {"value": 0.0, "low": 0.0, "high": 1.0, "k": 0, "n": 0}


def window(p: float, accuracy: float = 0.9) -> Window:
    return Window(
        level=QUIET,
        items=200,
        p={"changed": p, "risk": p},
        limits={"changed": 0.005, "risk": 0.001},
        findings=(),
        classes=(),
        unknown=0.0,
        unknown_before=0.0,
        accuracy_before=0.9,
        estimate=Estimate(accuracy=accuracy, low=accuracy - 0.04, high=accuracy + 0.04, reliable=True, label=100),
        unlike=(),
        copies=0.0,
        near=0.0,
        advice="",
    )


def rung(p: float, accuracy: float, windows: int = 60) -> dict[str, int]:
    watch, found = Watch(), dict[str, int]()
    for number in range(windows):
        watch, level = watch.after(window(p, accuracy))
        found.setdefault(level, number)
    return found


def test_a_slow_change_adds_up() -> None:
    assert RISK in rung(0.02, 0.8)
    assert rung(0.02, 0.8)[RISK] > 2, "one window alone was quiet"
    assert set(rung(0.02, 0.9)) == {QUIET, CHANGED}, "no accuracy is lost"


def test_clean_windows_ring_as_rarely_as_promised() -> None:
    import numpy as np

    rng, watch, rings = np.random.default_rng(0), Watch(), {CHANGED: 0, RISK: 0}
    for p in rng.uniform(0.005, 1, 20_000):
        watch, level = watch.after(window(float(p), 0.8))
        if level != QUIET:
            rings[level] += 1
    assert rings[CHANGED] <= 20_000 * 0.005
    assert rings[RISK] <= 20_000 * 0.001


def test_a_watch_is_read_back() -> None:
    watch, _ = Watch().after(window(0.01))
    assert Watch.from_json(watch.to_json()) == watch
