"""Two runs, or two recipes with their seeds, side by side: settings, scores with intervals and a verdict, the items
that one gets right and the other wrong, curves, cost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inflame.errors import DataError, UserError
from inflame.factory import chart, folder, page, trials
from inflame.factory.answers import Answers, Reader
from inflame.factory.board import measured
from inflame.factory.costs import costs
from inflame.factory.judge import METRICS, Side, Verdict, judge, lacking
from inflame.records import Record
from inflame.runs import Run, find, index, read_metrics

LISTED, SHOWN = 200, 24  # items of each kind in the JSON, and on the page
_HASH = re.compile(r"[0-9a-f]{40,}")
CURVE = 200  # points of a curve at most
Thumbnail = Callable[[str, str], str]  # the root of the data and a uri -> an image's `data:` address, "" for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Party(Record):
    """One side: its runs, and what they share."""

    name: str
    runs: tuple[str, ...]
    folders: tuple[str, ...]
    model: str
    dataset: str
    seeds: tuple[int | None, ...]
    cost: dict[str, float]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Record):
    """b against a. `settings`: those that differ, as (name, a, b). `items`: how many are right in both, only a, only b,
    neither; `only_a` and `only_b` name them. `curves`: by side and kind ("accuracy", "loss"), a list of points for each
    run. `sentence` is the verdict in words."""

    a: Party
    b: Party
    part: str
    by: str
    sentence: str
    verdicts: tuple[Verdict, ...]
    settings: tuple[tuple[str, Any, Any], ...]
    items: dict[str, int]
    only_a: tuple[dict[str, str], ...]
    only_b: tuple[dict[str, str], ...]
    curves: dict[str, dict[str, list[list[tuple[float, float]]]]]
    thing: str
    root: str

    @property
    def main(self) -> Verdict:
        """The verdict on what was asked for."""
        return next(verdict for verdict in self.verdicts if verdict.metric == self.by)


def compare(a: str, b: str, by: str = "accuracy") -> Comparison:
    """What sets B apart from A. Each is a run, several with commas between, or a sweep whose trials are seeds.

    Not judged on the same items, or an unknown score: UserError.
    """
    part, by = _by(by)
    left, right = _runs(a), _runs(b)
    if {run.path.resolve() for run in left} & {run.path.resolve() for run in right}:
        raise UserError("A and B have a run in common.", where=f"{a} {b}", remedy="Name two that differ.")
    about = [[index.about(run.path) for run in runs] for runs in (left, right)]
    part = part or ("test" if all(row["accuracy"] is not None for rows in about for row in rows) else "val")
    reader = Reader()
    one, other = _party(a, left, about[0]), _party(b, right, about[1])
    first, second = _side(one.name, left, about[0], part, reader), _side(other.name, right, about[1], part, reader)
    verdicts = tuple(judge(first, second, metric) for metric in METRICS)
    data = folder.read_json(left[0].path / "dataset.json")
    thing = {"text": "texts", "image": "pictures"}.get(data.get("kind", ""), "items")
    return Comparison(
        a=one,
        b=other,
        part=part,
        by=by,
        sentence=sentence(next(told for told in verdicts if told.metric == by), one.name, other.name, thing),
        verdicts=verdicts,
        settings=tuple(_differences(left, right, about)),
        **_items(first, second, reader.names),
        curves={name: _curves(runs) for name, runs in zip("ab", (left, right), strict=True)},
        thing=thing,
        root=str(data.get("root", "")),
    )


def sentence(verdict: Verdict, a: str, b: str, thing: str = "items") -> str:
    """`b is better: +3.1 points (0.4 to 5.9)`, or `cannot tell: about 60 more pictures would do (+0.7 points, …)`."""
    metric, found = METRICS[verdict.metric], verdict.difference
    named = "" if verdict.metric == "accuracy" else f" of {verdict.metric.replace('_', ' ')}"
    if verdict.verdict == "worse":
        found = found.mirrored()
    scale, unit, digits = (100, " points", 1) if metric.share else (1, "", 3)
    value, low, high = (f"{scale * number:.{digits}f}" for number in (found.value, found.low, found.high))
    size = f"{'+' if found.value > 0 else ''}{value}{unit}{named}"
    bounds = f"{low} to {high}" if math.isfinite(found.low) else "nothing known of its error"
    if verdict.verdict != "untold":
        return f"{b if verdict.verdict == 'better' else a} is better: {size} ({bounds})"
    wanted = lacking(verdict, thing)
    told = f"{wanted} would do" if wanted else "there is no difference to see" if found.value == 0 else "too few seeds"
    return f"cannot tell: {told} ({size}, {bounds})"


def html(found: Comparison, *, thumbnail: Thumbnail, snippet: Thumbnail) -> str:
    """The page. `thumbnail` and `snippet` show an item of pictures or texts where it still is."""
    show = snippet if found.thing == "texts" else thumbnail
    charts = [
        {
            "name": kind,
            "svg": chart.lines(
                [(side, line) for side in "ab" for line in found.curves[side][kind]],
                label=f"{kind} on held-out items during training, of both",
                across="seconds",
                up=f"held-out {kind}",
                percent=kind == "accuracy",
            ),
        }
        for kind in ("accuracy", "loss")
    ]
    return page.render(
        "compare",
        found=found,
        metrics=METRICS,
        charts=[one for one in charts if one["svg"]],
        albums=[
            (found.a.name, found.b.name, found.only_a[:SHOWN], found.items["only_a"], "a"),
            (found.b.name, found.a.name, found.only_b[:SHOWN], found.items["only_b"], "b"),
        ],
        show=lambda uri: show(found.root, uri),
        finite=math.isfinite,
        prices=costs(),
    )


# --- sides -----------------------------------------------------------------------------------------


def _by(by: str) -> tuple[str, str]:
    if "." in by:
        return measured(by)
    return "", measured(f"test.{by}")[1]


def _runs(word: str) -> list[Run]:
    """The runs that a word means."""
    found: list[Run] = []
    for name in filter(None, word.split(",")):
        try:
            found.append(find(name))
        except DataError as error:
            try:
                sweep = trials.find(name)
            except DataError:
                raise error from None
            found += [
                Run(path=Path(trial.run)) for trial in trials.trials(sweep) if trial.run and trial.state == "done"
            ]
    if not found:
        raise UserError(f'"{word}" names no run.', remedy="inflame compare RUN RUN")
    return list({run.path.resolve(): run for run in found}.values())


def _side(name: str, runs: Sequence[Run], about: Sequence[Mapping[str, Any]], part: str, reader: Reader) -> Side:
    blocks: dict[str, list[Answers]] = {}
    for run, row in zip(runs, about, strict=True):
        key = str(row[f"{part}_items"] or row["version"] or run.path)
        blocks.setdefault(key, []).append(reader.read(run.path, part))
    return Side(name=name, blocks=blocks)


def _party(name: str, runs: Sequence[Run], about: Sequence[Mapping[str, Any]]) -> Party:
    used = {
        "cpu_s": sum(row["cpu_s"] or 0.0 for row in about),
        "gpu_s": sum(row["gpu_s"] or 0.0 for row in about),
        "wall_s": sum(row["wall_s"] or 0.0 for row in about),
    }
    prices = costs()
    several = len({row["recipe"] for row in about}) > 1
    return Party(
        name=runs[0].name
        if len(runs) == 1
        else name
        if len(name) <= 40
        else f"{runs[0].name} and {len(runs) - 1} more",
        runs=tuple(run.name for run in runs),
        folders=tuple(str(run.path) for run in runs),
        model=str(about[0]["model"] or ""),
        dataset=str(about[0]["dataset"] or ""),
        seeds=tuple(row["seed"] for row in about),
        cost={**used, "money": prices.money(used), "energy_wh": prices.energy(used)},
        note="its runs differ in more than the seed" if several else "",
    )


# --- what differs ----------------------------------------------------------------------------------


def _differences(
    left: Sequence[Run], right: Sequence[Run], about: Sequence[Sequence[Mapping[str, Any]]]
) -> list[tuple[str, Any, Any]]:
    """Settings that are not the same on both sides (None: not there), then the versions of code and data."""
    a, b = ([folder.settings(run.path) for run in runs] for runs in (left, right))
    names = dict.fromkeys(name for settings in (*a, *b) for name in settings)
    rows: list[tuple[str, Any, Any]] = []
    for name in names:
        one, other = (_values(side, name) for side in (a, b))
        drawn = name in ("seed", "split_seed") and max(len(a), len(b)) > 1
        if one != other and name not in folder.ASIDE and not drawn:
            title = "code of the model's folder" if name == "code" else name
            rows.append((title, *(_joined(side) for side in (one, other))))
    for name in ("code", "version"):
        one, other = (sorted({str(row[name] or "–") for row in rows_of}) for rows_of in about)
        if one != other:
            title = "version of the code" if name == "code" else "version of the data"
            rows.append((title, ", ".join(one)[:80], ", ".join(other)[:80]))
    return rows


def _joined(values: Sequence[Any]) -> Any:
    short = [value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else value for value in values]
    return short[0] if len(short) == 1 else ", ".join(map(str, short))


def _values(side: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The different values of a setting, each once."""
    found = {json.dumps(settings.get(name), sort_keys=True): settings.get(name) for settings in side}
    return [found[key] for key in sorted(found)]


def _items(a: Side, b: Side, names: Sequence[str]) -> dict[str, Any]:
    """Who gets what right; of several runs, most of them."""
    key = next((key for key in a.blocks if key in b.blocks), None)
    left, right = (side.blocks[key] if key else next(iter(side.blocks.values())) for side in (a, b))
    one, other = (np.mean([run.correct() for run in runs], axis=0) > 0.5 for runs in (left, right))
    uris = left[0].uris

    def listed(rows: Any, most: int = LISTED) -> tuple[dict[str, str], ...]:
        doubt = np.abs(np.mean([run.loss for run in left], axis=0) - np.mean([run.loss for run in right], axis=0))
        order = sorted(np.flatnonzero(rows).tolist(), key=lambda row: -doubt[row])[:most]
        return tuple(
            {
                "uri": uris[row].as_py(),
                "label": names[left[0].labels[row]],
                "a": names[left[0].predicted[row]],
                "b": names[right[0].predicted[row]],
            }
            for row in order
        )

    counts = {"both": one & other, "only_a": one & ~other, "only_b": other & ~one, "neither": ~one & ~other}
    return {
        "items": {name: int(rows.sum()) for name, rows in counts.items()},
        "only_a": listed(counts["only_a"]),
        "only_b": listed(counts["only_b"]),
    }


def _curves(runs: Sequence[Run]) -> dict[str, list[list[tuple[float, float]]]]:
    """Held-out accuracy and loss against seconds, of each run."""
    found: dict[str, list[list[tuple[float, float]]]] = {"accuracy": [], "loss": []}
    for run in runs:
        rows = read_metrics(run.path / "metrics.jsonl")
        for kind, lines in found.items():
            points = [
                (float(row.get("seconds", number)), float(row[f"val_{kind}"]))
                for number, row in enumerate(rows, 1)
                if isinstance(row.get(f"val_{kind}"), (int, float))
            ]
            step = max(1, len(points) // CURVE)
            lines.append(points[::step])
    return found
