"""How many answers were right, as far as people said so.

Whoever clicks is no random sample: most click when something is wrong. So the accuracy comes from answers that were
chosen at random and asked about; clicks are counted beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.metrics import Rate, wilson
from inflame.monitor.entries import Entry, Verdict
from inflame.records import Record

Said = tuple[Entry, Verdict]
Facts = Callable[[str], Mapping[str, Any] | None]  # what a log knows of a model, by its version: `Log.model`
Sets = Callable[[Any], NDArray[np.bool_]]

THIRDS = ("low", "middle", "high")  # of a statistic of the inputs
FEWEST = 30  # answers that are divided by a statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """Accuracies with Wilson intervals: of answers that were asked about at random, of clicks (biased), of the asked
    ones by class of the truth, by day, by model, and by slice ("JPEG", "brightness: low", …). `covered`: how often the
    conformal set held the truth. `disputed`: ids of answers on which people disagree."""

    asked: Rate
    clicked: Rate
    by_class: dict[str, Rate]
    by_day: dict[str, Rate]
    by_model: dict[str, Rate]
    disputed: tuple[str, ...]
    by_slice: dict[str, Rate] = field(default_factory=dict)
    covered: Rate | None = None


class _Judged(NamedTuple):
    """An answer that people agree about."""

    entry: Entry
    truth: str
    right: bool


def measured(said: Sequence[Said], facts: Facts | None = None, sets: Sets | None = None) -> Measured:
    """What the verdicts say. Of several people on one answer the majority counts; without one nobody does.

    facts: what the numbers of a model's entries mean, for slices and coverage. sets: the conformal sets of
    probabilities [N, K], as masks.
    """
    asked, clicked, disputed = _judged(said)
    return Measured(
        asked=_rate([one.right for one in asked]),
        clicked=_rate([one.right for one in clicked]),
        by_class=_by(asked, lambda one: one.truth or "not said"),
        by_day=_by(asked, lambda one: datetime.fromtimestamp(one.entry.time, UTC).strftime("%Y-%m-%d")),
        by_model=_by(asked, lambda one: one.entry.model),
        disputed=tuple(disputed),
        by_slice=_slices(asked, facts),
        covered=_covered(asked, facts, sets),
    )


def _judged(said: Sequence[Said]) -> tuple[list[_Judged], list[_Judged], list[str]]:
    """The answers that were asked about at random, those that were clicked, and ids of those without agreement."""
    answers: dict[str, list[Said]] = {}
    for entry, verdict in said:
        answers.setdefault(verdict.answer, []).append((entry, verdict))
    asked: list[_Judged] = []
    clicked: list[_Judged] = []
    disputed = []
    for answer, votes in answers.items():
        right = [_right(*vote) for vote in votes]
        if len(set(right)) > 1:
            disputed.append(answer)
        if 2 * sum(right) != len(right):
            most = 2 * sum(right) > len(right)
            entry, spoken = next(vote for vote, one in zip(votes, right, strict=True) if one == most)
            random = any(verdict.asked for _, verdict in votes)
            (asked if random else clicked).append(_Judged(entry, spoken.label, most))
    return asked, clicked, disputed


def _slices(asked: Sequence[_Judged], facts: Facts | None) -> dict[str, Rate]:
    """By what the inputs are like: type of file, source, known or not, and thirds of each statistic."""
    found: dict[str, list[bool]] = {}
    for one in asked:
        known = "known to the model" if one.entry.known else "not known to the model"
        for name in filter(None, (one.entry.kind, one.entry.source and f"from {one.entry.source}", known)):
            found.setdefault(name, []).append(one.right)
    for name, rows in _statistics(asked, facts).items():
        values = np.array([value for value, _ in rows])
        if len(rows) < FEWEST or len(np.unique(values)) < len(THIRDS):
            continue
        cuts = np.quantile(values, [1 / 3, 2 / 3])
        for place, (_, right) in zip(np.searchsorted(cuts, values, side="right"), rows, strict=True):
            found.setdefault(f"{name}: {THIRDS[place]}", []).append(right)
    return {name: _rate(right) for name, right in found.items()}


def _statistics(asked: Sequence[_Judged], facts: Facts | None) -> dict[str, list[tuple[float, bool]]]:
    """(value, right) of every statistic of the inputs, where it is known."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for one in asked:
        names = (facts(one.entry.model) or {}).get("statistics", ()) if facts is not None else ()
        if len(names) == len(one.entry.seen):
            for name, value in zip(names, one.entry.seen.tolist(), strict=True):
                if np.isfinite(value):
                    found.setdefault(name, []).append((value, one.right))
    return found


def _covered(asked: Sequence[_Judged], facts: Facts | None, sets: Sets | None) -> Rate | None:
    """How often the truth, where it was named, was in the set that should hold it."""
    if facts is None or sets is None:
        return None
    held = []
    for one in asked:
        names = list((facts(one.entry.model) or {}).get("classes", ()))
        if one.truth in names and len(names) == len(one.entry.probabilities):
            members = sets(np.asarray(one.entry.probabilities, np.float64)[None])[0]
            held.append(bool(members[names.index(one.truth)]))
    return _rate(held) if held else None


def _right(entry: Entry, verdict: Verdict) -> bool:
    return verdict.said == "right" or (verdict.said == "label" and verdict.label == entry.label)


def _rate(right: Sequence[bool]) -> Rate:
    low, high = wilson(sum(right), len(right))
    return Rate(value=sum(right) / max(len(right), 1), low=low, high=high, k=sum(right), n=len(right))


def _by(judged: Sequence[_Judged], name: Callable[[_Judged], str]) -> dict[str, Rate]:
    found: dict[str, list[bool]] = {}
    for one in judged:
        found.setdefault(name(one), []).append(one.right)
    return {key: _rate(found[key]) for key in sorted(found)}
