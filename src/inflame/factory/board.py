"""The leaderboard: runs that were judged on the same items, seeds of a recipe together, ranked as far as can be told.

`board` reads the index of runs; the answers themselves are read for the best `top` only. What can't be told apart from
the best (paired tests, Holm) shares its rank; the same for the next, and so on.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np

from inflame.errors import InflameError, UserError, did_you_mean
from inflame.factory import evidence, folder
from inflame.factory.answers import Answers, Reader, demand_same
from inflame.factory.costs import Costs, costs
from inflame.factory.judge import METRICS, SURE, Side, Verdict, interval, judge, lacking, per_item
from inflame.records import Record
from inflame.runs import index

TOP = 20  # entries that are tested against each other
BY = "test.accuracy"
_SCORES = tuple(f"{part}.{metric}" for part in ("test", "val") for metric in METRICS)
_Z = 1.959964
_ASIDE = ("seed", "split_seed", "code", "model", *folder.ASIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A recipe with its seeds, or a single run. `value` is the mean of `values`, one for each run, with its 95 %
    interval; `rank` None where it was not tested; `cost` the sum over the runs."""

    name: str
    runs: tuple[str, ...]
    folders: tuple[str, ...]
    items: tuple[str, ...]  # which items judged each run
    model: str
    seeds: tuple[int | None, ...]
    value: float
    values: tuple[float, ...]
    low: float | None
    high: float | None
    n: int | None
    cost: dict[str, float]
    version: str
    code: tuple[str, ...]
    rank: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # those in which the best ones differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Record):
    """Entries that were judged on the same items, the best first. `tried` counts runs; `unscored` of them have no
    such number (failed, stopped, at work). `expected`: what the best is likely to give on items that it
    was not chosen by. `advice`: what would tell the first two apart that share a rank."""

    dataset: str
    items: tuple[str, ...]
    n: int | None
    entries: tuple[Entry, ...]
    tried: int
    unscored: int
    tested: int
    expected: float | None = None
    verdicts: tuple[Verdict, ...] = ()
    advice: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board(Record):
    """All tables, the one with the most runs first."""

    by: str
    better: int
    tables: tuple[Table, ...]
    cost: dict[str, float]
    assumed: dict[str, Any]


def board(
    rows: Sequence[Mapping[str, Any]], *, by: str = BY, top: int = TOP, each: bool = False, tried: int | None = None
) -> Board:
    """Ranks what `index.rows(where, extra=fields(by))` gives. each: every run for itself, seeds are not put together.
    tried: how many trials there were in all, where that is more than there are runs (a sweep)."""
    part, metric = measured(by)
    prices, better = costs(), METRICS[metric].better
    scored = [row for row in rows if isinstance(row[_column(by)], (int, float))]
    missing = Counter(row["dataset"] for row in rows) - Counter(row["dataset"] for row in scored)
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in scored:
        alone = each or not row["recipe"]
        groups.setdefault((row["dataset"], row["folder"] if alone else (row["recipe"], row["content"])), []).append(row)
    tables: dict[Any, list[Entry]] = {}
    for (dataset, _), runs in groups.items():
        entry = _entry(runs, by, part, prices)
        tables.setdefault((dataset, tuple(sorted(set(entry.items)))), []).append(entry)
    found = [
        _table(str(dataset or ""), entries, by, top, missing[dataset], tried)
        for (dataset, _), entries in tables.items()
    ]
    found.sort(key=lambda table: -table.tried)
    return Board(by=by, better=better, tables=tuple(found), cost=_sum(rows, prices), assumed=prices.to_json())


def measured(by: str) -> tuple[str, str]:
    """ "test.accuracy" as ("test", "accuracy"). One that no run reports: UserError."""
    name = by if "." in by else f"test.{by}"
    if name not in _SCORES:
        raise UserError(
            f'No run reports "{by}".{did_you_mean(name, _SCORES)}', remedy=f"Use one of: {', '.join(_SCORES)}"
        )
    part, _, metric = name.partition(".")
    return part, metric


def fields(by: str) -> tuple[str, ...]:
    """The paths into a status that the index has no column for, and `board` needs."""
    part, metric = measured(by)
    return (f"{part}.low", f"{part}.high", f"{part}.n", *(() if metric == "accuracy" else (f"scores.{part}.{metric}",)))


def select(folders: Iterable[str] | None = None, where: str = "", by: str = BY) -> list[dict[str, Any]]:
    """The rows of the index for a board; those of these folders alone where some are named."""
    rows = index.rows(where, extra=fields(by))
    if folders is None:
        return rows
    wanted = set(folders)
    return [row for row in rows if row["folder"] in wanted]


# --- entries ---------------------------------------------------------------------------------------


def _column(by: str) -> str:
    part, metric = measured(by)
    if metric == "accuracy":
        return "accuracy" if part == "test" else "val"
    return f"scores.{part}.{metric}"


def _items(row: Mapping[str, Any], part: str) -> str:
    """Which items judged the run: their hash; of runs of old the version of the data, or nothing but the run itself."""
    version = f"version {row['version']}" if row["version"] else f"run {row['folder']}"
    return str(row[f"{part}_items"] or version)


def _entry(runs: Sequence[Mapping[str, Any]], by: str, part: str, prices: Costs) -> Entry:
    runs = sorted(runs, key=lambda row: (row["seed"] is None, row["seed"], row["name"]))
    values = [float(row[_column(by)]) for row in runs]
    low, high = _interval(runs, values, part) if measured(by)[1] == "accuracy" else (None, None)
    first, n = runs[0], runs[0][f"{part}.n"]
    return Entry(
        name=first["name"],
        runs=tuple(row["name"] for row in runs),
        folders=tuple(row["folder"] for row in runs),
        items=tuple(_items(row, part) for row in runs),
        model=str(first["model"] or ""),
        seeds=tuple(row["seed"] for row in runs),
        value=fmean(values),
        values=tuple(values),
        low=low,
        high=high,
        n=n,
        cost=_sum(runs, prices),
        version=str(first["version"] or ""),
        code=tuple(sorted({str(row["code"]) for row in runs if row["code"]})),
    )


def _interval(
    runs: Sequence[Mapping[str, Any]], values: Sequence[float], part: str
) -> tuple[float | None, float | None]:
    """Of one run its own; of several, what items and seeds together leave open."""
    if len(runs) == 1:
        return runs[0][f"{part}.low"], runs[0][f"{part}.high"]
    mean, n = fmean(values), runs[0][f"{part}.n"]
    if not n:
        return None, None
    sets = len({_items(row, part) for row in runs})
    over_items = _Z * math.sqrt(mean * (1 - mean) / (n * sets))
    over_seeds = _reach(len(values) - 1) * math.sqrt(variance(values) / len(values))
    reach = math.hypot(over_items, over_seeds)
    return max(0.0, mean - reach), min(1.0, mean + reach)


@cache
def _reach(freedom: int) -> float:
    return evidence.student_quantile(0.975, freedom)


def _sum(rows: Sequence[Mapping[str, Any]], prices: Costs) -> dict[str, float]:
    used = {
        "cpu_s": sum(row["cpu_s"] or 0.0 for row in rows),
        "gpu_s": sum(row["gpu_s"] or 0.0 for row in rows),
        "wall_s": sum(row["wall_s"] or 0.0 for row in rows),
    }
    return {**used, "money": prices.money(used), "energy_wh": prices.energy(used)}


# --- tables ----------------------------------------------------------------------------------------


def _table(dataset: str, entries: list[Entry], by: str, top: int, missing: int, tried: int | None) -> Table:
    part, metric = measured(by)
    better = METRICS[metric].better
    entries = sorted(entries, key=lambda entry: (-better * entry.value, entry.name))
    runs = sum(len(entry.runs) for entry in entries)
    shared = Table(
        dataset=dataset,
        items=tuple(sorted(set(entries[0].items))),
        n=entries[0].n,
        entries=tuple(entries),
        tried=max(runs + missing, tried or 0),
        unscored=missing,
        tested=0,
    )
    return _ranked(shared, part, metric, top) if len(entries) > 1 else _alone(shared)


def _alone(table: Table) -> Table:
    return replace(table, entries=(replace(table.entries[0], rank=1),), tested=1)


def _ranked(table: Table, part: str, metric: str, top: int) -> Table:
    """The table with ranks for its first `top`: who can't be told apart from the best shares its rank."""
    sides, note = _sides(table.entries[:top], part)
    if len(sides) < 2:
        return replace(table, note=note)
    ranks, verdicts = ranked(sides, metric)
    entries = list(table.entries)
    for place, side in sides.items():
        entries[place] = replace(entries[place], rank=ranks[place], **_bounds(entries[place], side, metric))
    tied = [side for place, side in sides.items() if ranks[place] == 1][:2]
    many = SURE / (len(sides) * (len(sides) - 1) / 2)
    return replace(
        table,
        entries=_told_apart(entries, top),
        tested=len(sides),
        verdicts=tuple(verdicts),
        advice=_advice(judge(tied[0], tied[1], metric, sure=many)) if len(tied) > 1 else "",
        expected=_expected(list(sides.values()), metric) if part == "test" else None,
        note=note,
    )


def ranked(sides: Mapping[int, Side], metric: str) -> tuple[dict[int, int], list[Verdict]]:
    """Ranks of sides that are in the order of their scores, and the verdicts on all but the first against the first.

    Each is only tested against the best of its rank; but the best was chosen by looking, so as many questions count as
    there are pairs: without that, 20 equal runs would be told apart in a quarter of all boards.
    """
    ranks: dict[int, int] = {}
    verdicts: list[Verdict] = []
    left, pairs = list(sides), len(sides) * (len(sides) - 1) // 2
    while left:
        leader, *others = left
        found = [judge(sides[leader], sides[other], metric) for other in others]
        verdicts = verdicts or found
        sure = [p < SURE for p in evidence.holm([one.difference.p for one in found], pairs)]
        behind = [
            other for other, one, told in zip(others, found, sure, strict=True) if told and one.verdict == "worse"
        ]
        rank = 1 + len(ranks)
        ranks |= {place: rank for place in left if place not in behind}
        left = behind
    return ranks, verdicts


def _sides(entries: Sequence[Entry], part: str) -> tuple[dict[int, Side], str]:
    """The answers of these entries by their place; of those that can't be had, why."""
    reader, note = Reader(), ""
    found: dict[int, Side] = {}
    first: dict[str, Answers] = {}
    for place, entry in enumerate(entries):
        blocks: dict[str, list[Answers]] = {}
        try:
            for place_of, items in zip(entry.folders, entry.items, strict=True):
                run = reader.read(Path(place_of), part)
                demand_same([first.setdefault(items, run), run], [entries[0].name, entry.name])
                blocks.setdefault(items, []).append(run)
        except InflameError as error:
            note = note or f"{entry.name} is not ranked: {error.message}"
            continue
        found[place] = Side(name=entry.name, blocks=blocks)
    return found, note


def _bounds(entry: Entry, side: Side, metric: str) -> dict[str, Any]:
    if entry.low is not None or len(side.blocks) > 1:
        return {}
    low, high = interval(metric, next(iter(side.blocks.values())))
    return {"low": low, "high": high} if math.isfinite(low) else {}


def _expected(sides: Sequence[Side], metric: str) -> float | None:
    """What the best is likely to give on items that it wasn't chosen by; None where that isn't known."""
    if not METRICS[metric].mean or any(len(side.blocks) > 1 for side in sides):
        return None
    runs = [next(iter(side.blocks.values())) for side in sides]
    values = np.stack([np.mean([per_item(metric, run) for run in of], axis=0) for of in runs])
    better = METRICS[metric].better
    return better * evidence.best_expected(better * values)


def _advice(found: Verdict) -> str:
    """What would tell two apart that these items and seeds don't."""
    if found.verdict == "untold" and found.difference.value == 0:
        return "there is no difference to see"
    wanted = lacking(found)
    return f"{wanted} would tell, if the difference is as large as it looks" if wanted else ""


def _told_apart(entries: Sequence[Entry], top: int) -> tuple[Entry, ...]:
    """The first entries, with the settings in which they differ."""
    read = [folder.settings(Path(entry.folders[0])) for entry in entries[:top]]
    shared = set.intersection(*map(set, read)) - set(_ASIDE)  # other models have other settings
    names = [name for name in read[0] if name in shared and len({json.dumps(one[name]) for one in read}) > 1]
    told = [
        replace(entry, settings={name: settings[name] for name in names})
        for entry, settings in zip(entries, read, strict=False)
    ]
    return (*told, *entries[len(told) :])
