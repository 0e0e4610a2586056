"""Which point of a space is tried next.

A grid, random and quasi-random points are functions of (seed, number): a sweep that was killed goes on with the very
points it would have tried. `tpe`, `gp` and `nsga` are Optuna's, and are told of the trials so far each time.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from inflame import plugins
from inflame.config.axes import Axis
from inflame.errors import UserError, did_you_mean
from inflame.factory.trials import Trial

SAMPLERS = ("grid", "random", "qmc", "tpe", "gp", "nsga")
_LEARNING = ("tpe", "gp", "nsga")
_FIRST = 10  # points before a sampler that learns has anything to learn from
_POPULATION = 16  # of nsga: sweeps are small


def size(axes: Sequence[Axis]) -> float:
    """How many points there are; infinite where an axis can't be counted."""
    return math.prod(len(axis.values) if axis.finite else math.inf for axis in axes)


def choose(name: str, axes: Sequence[Axis], objectives: int, most: int | None) -> str:
    """The sampler: the one that was asked for, or the one that suits. Unknown or unfit: UserError."""
    count = size(axes)
    if not name:
        if objectives > 1:
            return "nsga"
        return "grid" if count < math.inf and (most is None or count <= most) else "tpe"
    if name not in SAMPLERS:
        raise UserError(
            f'There is no sampler "{name}".{did_you_mean(name, SAMPLERS)}', remedy=f"Use one of: {', '.join(SAMPLERS)}"
        )
    if name == "grid" and count == math.inf:
        endless = next(axis.key for axis in axes if not axis.finite)
        raise UserError(
            f"A grid needs values to choose from, and {endless} has all between two bounds.",
            where=endless,
            remedy=f"Give some: {endless}=a,b,c, or take another sampler: --sampler qmc",
        )
    if name == "gp" and objectives > 1:
        raise UserError("gp looks for one best point, not for a front.", remedy="--sampler nsga")
    return name


def point(name: str, axes: Sequence[Axis], number: int, *, seed: int) -> dict[str, Any] | None:
    """The settings of trial `number` of a sampler that doesn't learn; None when a grid is at its end."""
    if name == "grid":
        return _grid(axes, number)
    if name == "qmc":
        return _at(axes, _halton(number, len(axes), seed))
    drawn = random.Random(f"{seed} {number}")
    return _at(axes, [drawn.random() for _ in axes])


def learns(name: str) -> bool:
    """Whether the sampler must be told what came of earlier trials."""
    return name in _LEARNING


class Learned:
    """A sampler of Optuna's. `propose` gives the point for trial `number` after all the `trials` so far. own: the
    recipe's own settings, which are the first point where they are one: what is found is measured against them."""

    def __init__(
        self,
        name: str,
        axes: Sequence[Axis],
        directions: Sequence[str],
        *,
        seed: int,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.axes, self.directions, self.seed = name, axes, directions, seed
        self._own = dict(own) if own and len(own) == len(axes) else None
        self._optuna: Any = plugins.need("optuna", "sweep", f"The sampler {name}")
        self._space = {axis.key: distribution(self._optuna, axis) for axis in axes}

    def propose(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        """A function of its arguments and of the seed."""
        if number == 0 and self._own is not None:
            return self._own
        if number < _FIRST:
            found = point("qmc", self.axes, number, seed=self.seed)
            assert found is not None
            return found
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna says of most samplers that they are experimental
            self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
            study = self._optuna.create_study(directions=self.directions, sampler=self._sampler(number))
            study.add_trials([one for trial in trials if (one := self._told(trial)) is not None])
            asked = study.ask(self._space)
        by_key = {axis.key: axis for axis in self.axes}
        return {key: _value(by_key[key], value) for key, value in asked.params.items()}

    def _sampler(self, number: int) -> Any:
        samplers, seed = self._optuna.samplers, (self.seed * 1_000_003 + number) % 2**32
        if self.name == "tpe":
            several = len(self.axes) > 1
            return samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=several, constant_liar=True)
        if self.name == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=1)
        return samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)

    def _told(self, trial: Trial) -> Any:
        """The trial as Optuna knows it: what is at work or waits counts by what is known of it."""
        states = self._optuna.trial.TrialState
        if trial.state == "failed" or set(trial.settings) != set(self._space):
            return None
        whole = len(trial.values) == len(self.directions)
        if trial.state != "done" and (not whole or len(self.directions) > 1):
            state = states.RUNNING if not trial.ended else states.FAIL
        else:
            state = states.COMPLETE if trial.state == "done" else states.PRUNED
        step = int(1000 * (trial.budget or 1))
        several = len(self.directions) > 1
        return self._optuna.trial.create_trial(
            state=state,
            params={key: plain(value) for key, value in trial.settings.items()},
            distributions=self._space,
            values=list(trial.values) if state == states.COMPLETE and several else None,
            value=trial.values[0] if state == states.COMPLETE and not several else None,
            intermediate_values={step: trial.values[0]} if state == states.PRUNED else None,
            system_attrs={"NSGAIISampler:generation": trial.number // _POPULATION} if self.name == "nsga" else None,
        )


def distribution(optuna: Any, axis: Axis) -> Any:
    """The axis as Optuna knows it."""
    kinds = optuna.distributions
    if axis.finite:
        return kinds.CategoricalDistribution([plain(value) for value in axis.values])
    kind = kinds.IntDistribution if axis.whole else kinds.FloatDistribution
    return kind(axis.low, axis.high, log=axis.log)


def plain(value: Any) -> Any:
    """The value as a choice of Optuna's, which takes no lists."""
    return repr(list(value)) if isinstance(value, (list, tuple)) else value


def _value(axis: Axis, chosen: Any) -> Any:
    if axis.finite:
        return next(value for value in axis.values if plain(value) == chosen)
    return chosen if axis.whole else min(max(float(f"{chosen:.6g}"), axis.low), axis.high)


def _grid(axes: Sequence[Axis], number: int) -> dict[str, Any] | None:
    """The last axis changes fastest."""
    found: dict[str, Any] = {}
    for axis in reversed(axes):
        number, place = divmod(number, len(axis.values))
        found[axis.key] = axis.values[place]
    return None if number else {axis.key: found[axis.key] for axis in axes}


def _at(axes: Sequence[Axis], unit: Sequence[float]) -> dict[str, Any]:
    """The point at these coordinates in [0, 1)."""
    return {axis.key: _along(axis, u) for axis, u in zip(axes, unit, strict=True)}


def _along(axis: Axis, u: float) -> Any:
    if axis.finite:
        return axis.values[int(u * len(axis.values))]
    low, high = axis.low, axis.high
    if axis.whole:  # each number has the same share, the first and the last too
        low, high = max(low - 0.5, 0.5) if axis.log else low - 0.5, high + 0.5
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if axis.log else low + u * (high - low)
    if axis.whole:
        return min(max(round(value), int(axis.low)), int(axis.high))
    return float(f"{value:.6g}")


def _halton(number: int, dimensions: int, seed: int) -> list[float]:
    """The point of a Halton sequence whose digits are permuted at random (Owen, arXiv 1706.02808), so that another seed
    is another sequence and high dimensions are not correlated."""
    return [_radical_inverse(number, base, f"{seed} {base}") for base in _primes(dimensions)]


def _radical_inverse(number: int, base: int, seed: str) -> float:
    value, scale, digit = 0.0, 1.0 / base, 0
    while scale > 1e-9:
        order = list(range(base))
        random.Random(f"{seed} {digit}").shuffle(order)
        number, last = divmod(number, base)
        value, scale, digit = value + order[last] * scale, scale / base, digit + 1
    return min(value, 1.0 - 1e-9)


def _primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found
