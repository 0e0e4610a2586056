"""A champion and its challenger on items that neither has learned from: those that were locked away at the training,
and those that people labelled of late. Paired tests; the challenger must win on one of them and lose on none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inflame.factory.evidence import Difference, items_to_tell, newcombe
from inflame.factory.judge import SURE
from inflame.records import Record

Right = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bout(Record):
    """One comparison on n items: accuracies, the difference (challenger - champion) with its interval, `verdict`
    "better", "worse" or "untold" of the challenger, and how many items in all would tell, where these don't."""

    n: int
    champion: float
    challenger: float
    difference: Difference
    verdict: str
    wanted: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest(Record):
    """What all bouts say: whether the challenger is better, and why in words."""

    bouts: Mapping[str, Bout]
    better: bool
    told: str


def bout(champion: Right, challenger: Right, sure: float = SURE) -> Bout:
    """Who is more often right [n] on the same items; sure: the p below which a difference is taken for real."""
    only_a, only_b = int((champion & ~challenger).sum()), int((challenger & ~champion).sum())
    both, n = int((champion & challenger).sum()), len(champion)
    found = newcombe(both, only_a, only_b, n - both - only_a - only_b)
    told = found.p < sure
    return Bout(
        n=n,
        champion=float(champion.mean()) if n else 0.0,
        challenger=float(challenger.mean()) if n else 0.0,
        difference=found,
        verdict=("better" if found.value > 0 else "worse") if told else "untold",
        wanted=None if told else items_to_tell(only_a, only_b, n),
    )


def contest(answers: Mapping[str, tuple[Right, Right]]) -> Contest:
    """The verdict over several sets of items, by name: (champion, challenger) right or not.

    Each is another chance to win by luck, so the p that suffices is shared among them; to lose, the usual p will do.
    """
    held = {name: pair for name, pair in answers.items() if len(pair[0])}
    bouts = {name: bout(*pair, SURE / len(held)) for name, pair in held.items()}
    lost = [name for name, pair in held.items() if bout(*pair).verdict == "worse"]
    won = [name for name, one in bouts.items() if one.verdict == "better"]
    told = "; ".join(f"{_told(one)} on the {name} items" for name, one in bouts.items())
    return Contest(bouts=bouts, better=bool(won) and not lost, told=told or "there are no items to tell by")


def _told(one: Bout) -> str:
    value, low, high = (100 * number for number in (one.difference.value, one.difference.low, one.difference.high))
    points = f"{value:+.1f} points ({low:.1f} to {high:.1f})"
    if one.verdict != "untold":
        return f"{one.verdict}: {points}"
    wanted = f", about {one.wanted:,} items would tell" if one.wanted else ""
    return f"can't tell: {points} of {one.n:,}{wanted}"
