"""Whether recipe b is better than recipe a: runs of each, on the same items, in one metric.

A single run of each is judged on the items alone. With more seeds a difference must hold for other items *and* for
other seeds: the larger p and the wider interval of the two count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inflame.factory import evidence
from inflame.factory.answers import Answers, demand_same
from inflame.factory.evidence import Difference
from inflame.records import Record

SURE = 0.05  # p below which a difference is taken for real
Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """Whether more of it is better (1) or less (-1); whether it is a mean over items; whether it is a share."""

    better: int
    mean: bool
    share: bool


METRICS = {
    "accuracy": Metric(1, True, True),
    "log_loss": Metric(-1, True, False),
    "macro_f1": Metric(1, False, True),
    "balanced_accuracy": Metric(1, False, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The runs of one recipe: its name, and their answers by the items they were judged on (a key that says which:
    seeds may have test items of their own)."""

    name: str
    blocks: Mapping[str, Sequence[Answers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """b - a in one metric, `verdict` "better", "worse" or "untold" of b. `items` and `seeds` [a, b] are what it rests
    on, `how` names the tests; `more_items` and `more_seeds` (of each) would tell where these don't, if the difference
    is as large as it looks. None: no number would, or none is lacking."""

    metric: str
    a: float
    b: float
    difference: Difference
    verdict: str
    how: str
    items: int
    seeds: tuple[int, int]
    more_items: int | None = None
    more_seeds: int | None = None


def judge(a: Side, b: Side, metric: str = "accuracy", *, sure: float = SURE) -> Verdict:
    """What the runs say. sure: the p below which a difference is taken for real; less where many questions are asked.
    Not judged on any common items: DataError."""
    pairs = [(a.blocks[key], b.blocks[key]) for key in a.blocks if key in b.blocks]
    if not pairs:
        first, other = (next(iter(side.blocks.values()))[0] for side in (a, b))
        demand_same([first, other], [a.name, b.name])
        pairs = [(next(iter(a.blocks.values())), next(iter(b.blocks.values())))]
    for left, right in pairs:
        demand_same([*left, *right], [*[a.name] * len(left), *[b.name] * len(right)])
    items, more_items = _over_items(pairs, metric, 1 - sure)
    seeds, more_seeds, how = _over_seeds(pairs, metric, 1 - sure)
    joined = items if seeds is None else _both(items, seeds)
    told = joined.p < sure
    good = joined.value * METRICS[metric].better > 0
    means = [fmean(fmean(value(metric, run) for run in pair[side]) for pair in pairs) for side in (0, 1)]
    return Verdict(
        metric=metric,
        a=means[0],
        b=means[1],
        difference=joined,
        verdict=("better" if good else "worse") if told else "untold",
        how=" and ".join(filter(None, (_test_of_items(pairs, metric), how))),
        items=sum(len(left[0]) for left, _ in pairs),
        seeds=(sum(len(left) for left, _ in pairs), sum(len(right) for _, right in pairs)),
        more_items=more_items if not told and items.p >= sure else None,
        more_seeds=more_seeds if not told and seeds is not None and seeds.p >= sure else None,
    )


def lacking(found: Verdict, thing: str = "items") -> str:
    """What would tell where this doesn't: `about 60 more pictures and 3 more seeds of each`; empty where nothing is
    lacking, or no number would."""
    parts = []
    if found.more_items is not None:
        digits = max(0, len(str(found.more_items)) - 2)  # such an estimate is no better than two digits
        parts.append(f"about {round(found.more_items, -digits):,} more {thing}")
    if found.more_seeds is not None:
        parts.append(f"{found.more_seeds:,} more seed{'s' if found.more_seeds > 1 else ''} of each")
    return " and ".join(parts)


def value(metric: str, run: Answers) -> float:
    """The metric of one run."""
    if METRICS[metric].mean:
        return float(per_item(metric, run).mean())
    kinds = _Kinds([run])
    return float(_by_class(metric, kinds, 0)(kinds.counts[None])[0])


def per_item(metric: str, run: Answers) -> Floats:
    """The number of each item [n] whose mean the metric is."""
    return run.correct().astype(np.float64) if metric == "accuracy" else run.loss


def interval(metric: str, runs: Sequence[Answers]) -> tuple[float, float]:
    """95 % interval of the mean of runs on the same items, over items."""
    if metric == "accuracy" and len(runs) == 1:
        return evidence.wilson(int(runs[0].correct().sum()), len(runs[0]))
    if METRICS[metric].mean:
        found = evidence.paired(np.zeros(len(runs[0])), np.mean([per_item(metric, run) for run in runs], axis=0))
    else:
        kinds = _Kinds(runs)
        parts = [_by_class(metric, kinds, place) for place in range(len(runs))]
        found = evidence.bootstrap(kinds.counts, lambda drawn: np.mean([part(drawn) for part in parts], axis=0))
    return found.low, found.high


# --- over items ------------------------------------------------------------------------------------

Pairs = Sequence[tuple[Sequence[Answers], Sequence[Answers]]]


def _test_of_items(pairs: Pairs, metric: str) -> str:
    single = len(pairs) == len(pairs[0][0]) == len(pairs[0][1]) == 1
    if metric == "accuracy" and single:
        return "McNemar's test (mid-p)"
    return "paired t test over items" if METRICS[metric].mean else "paired bootstrap over items"


def _over_items(pairs: Pairs, metric: str, level: float) -> tuple[Difference, int | None]:
    """The difference on items like these, and how many more items would tell at that level."""
    count = sum(len(left[0]) for left, _ in pairs)
    if not METRICS[metric].mean:
        found = _resampled(pairs, metric)
        deviation = (found.high - found.low) / (2 * 1.96) * math.sqrt(count)
        return found, _more(evidence.needed(found.value, deviation, level=level), count)
    if metric == "accuracy" and len(pairs) == len(pairs[0][0]) == len(pairs[0][1]) == 1:
        a, b = pairs[0][0][0].correct(), pairs[0][1][0].correct()
        both, only_a, only_b = (int(part.sum()) for part in (a & b, a & ~b, b & ~a))
        found = evidence.newcombe(both, only_a, only_b, len(a) - both - only_a - only_b)
        return found, _more(evidence.items_to_tell(only_a, only_b, len(a), level=level), count)
    found, deviation = _clustered(pairs, metric)
    return found, _more(evidence.needed(found.value, deviation, level=level), count)


def _clustered(pairs: Pairs, metric: str) -> tuple[Difference, float]:
    """The mean difference, and its standard deviation over items. An item that several seeds were tested on counts as
    one."""
    parts = [_mean(metric, right) - _mean(metric, left) for left, right in pairs]
    values = np.concatenate(parts)
    if len(pairs) == 1:
        found = evidence.paired(np.zeros(len(values)), values)
        return found, float(values.std())
    uris = np.concatenate([np.asarray(left[0].uris.to_pylist(), dtype=object) for left, _ in pairs])
    _, place = np.unique(uris.astype(str), return_inverse=True)
    left_over = np.bincount(place, weights=values - values.mean())
    scaled = left_over * len(left_over) / len(values)  # so that its mean has the variance of the mean of all
    found = evidence.paired(np.zeros(len(scaled)), scaled + values.mean())
    return found, float(scaled.std())


def _mean(metric: str, runs: Sequence[Answers]) -> Floats:
    return np.asarray(np.mean([per_item(metric, run) for run in runs], axis=0))


def _more(wanted: int | None, have: int) -> int | None:
    return None if wanted is None else max(1, wanted - have)


class _Kinds:
    """Items with the same label and the same answers of all runs are of one kind: how many there are of each, and what
    they have in common."""

    def __init__(self, runs: Sequence[Answers]) -> None:
        codes = np.stack([runs[0].labels, *(run.predicted for run in runs)], axis=1)
        kinds, counts = np.unique(codes, axis=0, return_counts=True)
        self.counts = counts.astype(np.int64)
        classes, places = np.unique(kinds, return_inverse=True)
        places = places.reshape(kinds.shape)
        self.classes, self.labels, self.answers = len(classes), places[:, 0], places[:, 1:]


def _by_class(metric: str, kinds: _Kinds, run: int) -> Any:
    """A function: how often each kind was drawn [R, kinds] -> the metric of that run [R]."""
    every = np.arange(len(kinds.labels))
    support, said, right = (np.zeros((len(every), kinds.classes)) for _ in range(3))
    support[every, kinds.labels] = said[every, kinds.answers[:, run]] = 1
    right[every, kinds.labels] = kinds.labels == kinds.answers[:, run]

    def found(drawn: Floats) -> Floats:
        hits, of = drawn @ right, drawn @ support
        if metric == "macro_f1":
            hits, of = 2 * hits, of + drawn @ said
        there = of > 0
        shares = np.divide(hits, of, out=np.zeros_like(hits), where=there)
        return np.asarray(shares.sum(axis=1) / np.maximum(there.sum(axis=1), 1))

    return found


def _resampled(pairs: Pairs, metric: str) -> Difference:
    """The paired bootstrap; seeds with items of their own are drawn each from theirs, and averaged."""
    every = [_Kinds([*left, *right]) for left, right in pairs]
    ends = np.cumsum([len(kinds.counts) for kinds in every])[:-1]
    sides = [
        ([_by_class(metric, kinds, run) for run in range(len(left) + len(right))], len(left))
        for kinds, (left, right) in zip(every, pairs, strict=True)
    ]

    def difference(drawn: Floats) -> Floats:
        found = []
        for part, (runs, first) in zip(np.split(drawn, ends, axis=1), sides, strict=True):
            values = [run(part) for run in runs]
            found.append(np.mean(values[first:], axis=0) - np.mean(values[:first], axis=0))
        return np.asarray(np.mean(found, axis=0))

    return evidence.bootstrap(np.concatenate([kinds.counts for kinds in every]), difference)


# --- over seeds ------------------------------------------------------------------------------------


def _over_seeds(pairs: Pairs, metric: str, level: float) -> tuple[Difference | None, int | None, str]:
    """The difference for seeds like these, how many more of each would tell at that level, and the name of the test."""
    left = [[value(metric, run) for run in pair[0]] for pair in pairs]
    right = [[value(metric, run) for run in pair[1]] for pair in pairs]
    if len(pairs) > 1:  # each seed has test items of its own, which both sides share
        a, b = [fmean(values) for values in left], [fmean(values) for values in right]
        wanted = evidence.needed(fmean(b) - fmean(a), stdev(y - x for x, y in zip(a, b, strict=True)), level=level)
        found = evidence.paired(np.array(a), np.array(b))
        return found, _more(wanted, len(pairs)), "paired t test over seeds"
    if len(left[0]) == len(right[0]) == 1:
        return None, None, ""
    wanted = evidence.seeds_to_tell(left[0], right[0], level=level)
    return evidence.welch(left[0], right[0]), _more(wanted, min(len(left[0]), len(right[0]))), "Welch's test over seeds"


def _both(items: Difference, seeds: Difference) -> Difference:
    return Difference(
        value=seeds.value,
        low=min(items.low, seeds.low),
        high=max(items.high, seeds.high),
        p=max(items.p, seeds.p),
    )
