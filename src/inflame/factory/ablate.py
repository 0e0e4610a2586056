"""Which parts of a recipe earn their place: each that can be switched off is, in turn, with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inflame.config import axes, neutral
from inflame.config.axes import Axis
from inflame.errors import SettingError, UserError
from inflame.factory import evidence, objectives
from inflame.factory.sweep import LEAST, SEED, Wish, identity, title, workers
from inflame.factory.trials import Sweep, Trial
from inflame.records import Record

SURE = 0.05  # the share of parts that are said to matter, or to harm, and don't


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Record):
    """A setting that was switched off. `gain` is how much better the objective is with it, with its 95 % interval and
    the p of "no difference" after Holm; `more` how many seeds would tell where these don't."""

    key: str
    on: Any
    off: Any
    without: float
    gain: float
    low: float
    high: float
    p: float
    verdict: str  # "earns its place", "harms", "can't tell" or "does nothing"
    more: int | None
    seeds: int


def plan(wish: Wish, seeds: int, switched: Sequence[str] = ()) -> tuple[Sweep, list[Axis]]:
    """The sweep that tries the recipe whole and without each of its parts; `switched`: `key=value` of parts that are
    switched off by a value that only the user knows. A recipe without parts: UserError."""
    if seeds < 2:
        raise UserError("One seed tells nothing about the spread of the results.", remedy="--seeds 5")
    told = axes.read(wish.model, [*wish.words, f"{SEED}=range(0,{seeds})"])
    if len(told.axes) > 1:
        several = next(axis.key for axis in told.axes if axis.key != SEED)
        raise SettingError(
            f"{several} has several values; a recipe has one.",
            where=several,
            remedy="Give one, or try them all: inflame sweep",
        )
    given = [axes.read(wish.model, [*told.fixed, f"{word},{word.partition('=')[2]}"]) for word in switched]
    off = _switchable(told) | {one.axes[0].key: one.axes[0].values[0] for one in given if one.axes}
    if not off:
        raise UserError(
            "This recipe has no part that can be switched off.",
            where=str(wish.model),
            remedy="Say what switches one off: --off hyperparam.NAME=VALUE",
        )
    names, directions = objectives.understand([wish.objective], wish.model)
    points = [{SEED: seed, **part} for seed in range(seeds) for part in ({}, *({key: off[key]} for key in off))]
    values = {SEED: tuple(range(seeds)), **{key: (value,) for key, value in off.items()}}
    varied = [Axis(key=key, values=choices) for key, choices in values.items()]
    made = Sweep(
        name=wish.name or f"ablate-{title(told)}",
        folder="",
        model=str(wish.model.resolve()),
        fixed=told.fixed,
        objectives=names,
        directions=directions,
        space={axis.key: {**axis.to_json(), "on": _on(told, axis.key)} for axis in varied},
        points=tuple(points),
        sampler="points",
        budget=wish.budget,
        workers=wish.workers or workers(told.settings.devices),
        where=wish.where,
        job=wish.job,
        price=wish.price,
        max_money=wish.max_money,
        devices=told.settings.devices,
        stopping=False,
        storage=wish.storage,
        hang=wish.hang,
        words=wish.words,
        **_each(wish, told, len(points)),
    )
    return replace(made, identity=identity(made, told.settings.code)), varied


def parts(sweep: Sweep, trials: Sequence[Trial]) -> tuple[float, list[Part]]:
    """The mean of the whole recipe, and its parts, those that matter most first. The same seed is the same order
    and start, so that differences are taken seed by seed (Student), and Holm's correction is for all parts together."""
    done = [trial for trial in trials if trial.state == "done"]
    whole = {trial.settings[SEED]: trial.values[0] for trial in done if set(trial.settings) == {SEED}}
    found = []
    for key, axis in sweep.space.items():
        without = {trial.settings[SEED]: trial.values[0] for trial in done if key in trial.settings and key != SEED}
        seeds = sorted(whole.keys() & without.keys())
        if seeds:
            pairs = [without[seed] for seed in seeds], [whole[seed] for seed in seeds]
            found.append(_part(key, axis, *pairs, larger=sweep.directions[0] == "maximize"))
    adjusted = evidence.holm([part.p for part in found])
    judged = [replace(part, p=p, verdict=_verdict(part, p)) for part, p in zip(found, adjusted, strict=True)]
    mean = sum(whole.values()) / len(whole) if whole else math.nan
    return mean, sorted(judged, key=lambda part: -part.gain)


def _part(key: str, axis: dict[str, Any], off: list[float], on: list[float], *, larger: bool) -> Part:
    sign = 1.0 if larger else -1.0
    found = evidence.paired(np.array(off) * sign, np.array(on) * sign)
    differences = np.array(on) - np.array(off)
    spread = float(differences.std(ddof=1)) if len(on) > 1 else math.nan
    return Part(
        key=key,
        on=axis.get("on"),
        off=axis["values"][0],
        without=sum(off) / len(off),
        gain=found.value,
        low=found.low,
        high=found.high,
        p=found.p,
        verdict="",
        more=evidence.needed(found.value, spread) if spread > 0 else None,
        seeds=len(on),
    )


def _verdict(part: Part, p: float) -> str:
    if part.low == part.high == part.gain == 0:
        return "does nothing"
    if p >= SURE:
        return "can't tell"
    return "earns its place" if part.gain > 0 else "harms"


def _switchable(told: axes.Axes) -> dict[str, Any]:
    """The settings of the recipe that are on and can be switched off, with the value that does it."""
    given = {word.partition("=")[0] for word in told.fixed}
    found = {}
    for name, value in told.settings.hyperparam.to_json().items():
        off = neutral.off(name, value)
        if off is not None and f"hyperparam.{name}" not in given:
            found[f"hyperparam.{name}"] = off
    return found


def _on(told: axes.Axes, key: str) -> Any:
    table, _, name = key.rpartition(".")
    return told.settings.hyperparam.get(name) if table == "hyperparam" else getattr(told.settings, name, None)


def _each(wish: Wish, told: axes.Axes, count: int) -> dict[str, Any]:
    """The time of each run, where the recipe has none of its own and all together have one."""
    h = told.settings.hyperparam
    if told.settings.budget is not None:
        return {"unit": "seconds", "rungs": (told.settings.budget,)}
    if wish.budget is None or h.get("num_epochs") or "num_epochs" not in h:
        return {}
    each = 0.9 * wish.budget / math.ceil(count / (wish.workers or workers()))
    if each < LEAST + 1:
        raise UserError(
            f"{count} runs in {wish.budget:g} s would have {each:.1f} s each, and any takes {LEAST:g} s at least.",
            where="--in",
            remedy=f"--in {math.ceil((LEAST + 1) * wish.budget / each)}s or more, or fewer --seeds",
        )
    return {"unit": "seconds", "rungs": (float(f"{each:.4g}"),)}
