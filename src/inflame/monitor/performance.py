"""How many answers were right, as far as people said so.

Whoever clicks is no random sample: most click when something is wrong. So the accuracy comes from answers that were
chosen at random and asked about; clicks are counted beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from inflame.model.engine.metrics import Rate, wilson
from inflame.monitor.entries import Entry, Verdict
from inflame.records import Record

Said = tuple[Entry, Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """Accuracies with Wilson intervals: of answers that were asked about at random, of clicks (biased), of the asked
    ones by class of the truth, by day and by model. `disputed`: ids of answers on which people disagree."""

    asked: Rate
    clicked: Rate
    by_class: dict[str, Rate]
    by_day: dict[str, Rate]
    by_model: dict[str, Rate]
    disputed: tuple[str, ...]


def measured(said: Sequence[Said]) -> Measured:
    """What the verdicts say. Of several people on one answer the majority counts; without one nobody does."""
    answers: dict[str, list[Said]] = {}
    for entry, verdict in said:
        answers.setdefault(verdict.answer, []).append((entry, verdict))
    agreed: list[tuple[Said, bool, bool]] = []
    disputed = []
    for answer, votes in answers.items():
        right = [_right(*vote) for vote in votes]
        if len(set(right)) > 1:
            disputed.append(answer)
        if 2 * sum(right) != len(right):
            most = 2 * sum(right) > len(right)
            spoken = next(vote for vote, one in zip(votes, right, strict=True) if one == most)
            agreed.append((spoken, most, any(verdict.asked for _, verdict in votes)))
    asked = [(pair, right) for pair, right, random in agreed if random]
    clicked = [(pair, right) for pair, right, random in agreed if not random]
    return Measured(
        asked=_rate([right for _, right in asked]),
        clicked=_rate([right for _, right in clicked]),
        by_class=_by(asked, lambda pair: pair[1].label or "not said"),
        by_day=_by(asked, lambda pair: datetime.fromtimestamp(pair[0].time, UTC).strftime("%Y-%m-%d")),
        by_model=_by(asked, lambda pair: pair[0].model),
        disputed=tuple(disputed),
    )


def _right(entry: Entry, verdict: Verdict) -> bool:
    return verdict.said == "right" or (verdict.said == "label" and verdict.label == entry.label)


def _rate(right: Sequence[bool]) -> Rate:
    low, high = wilson(sum(right), len(right))
    return Rate(value=sum(right) / max(len(right), 1), low=low, high=high, k=sum(right), n=len(right))


def _by(pairs: Sequence[tuple[Said, bool]], name: Callable[[Said], str]) -> dict[str, Rate]:
    found: dict[str, list[bool]] = {}
    for pair, right in pairs:
        found.setdefault(name(pair), []).append(right)
    return {key: _rate(found[key]) for key in sorted(found)}
