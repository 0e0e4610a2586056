"""Which setting of a sweep mattered, and where it was best: importances with their errors, and what the page draws.

Permutation importance (Breiman 2001) of a random forest that learns the objective from the settings: by how much worse
it predicts trials that it has not seen when the values of one setting are shuffled among them. Where it can't predict
unseen trials at all, no importance is claimed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame import plugins
from inflame.errors import UserError, did_you_mean
from inflame.factory import page
from inflame.factory.trials import Sweep, Trial
from inflame.records import Record

FEWEST = 8  # trials with a value, below which nothing is said
TREES, FOLDS, REPEATS = 200, 5, 20
BUDGET = "time given"  # how long a trial was trained, where that differs: it is no setting, but explains a lot
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Param(Record):
    """A varied setting: `kind` "number" or "choice", whether its axis is logarithmic, the choices. `importance` is by
    how much unseen trials are predicted worse without it, in shares of their spread (it may be above 1), `error` its
    standard error over folds; None where nothing can be said. `best` is in words."""

    name: str
    kind: str
    log: bool = False
    choices: tuple[str, ...] = ()
    importance: float | None = None
    error: float | None = None
    best: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why(Record):
    """The answer. `predicted` is the share of the spread of unseen trials that the settings explain (R², 5 folds);
    `points` are the trials: number, state, value, settings in the order of `params`, run, reason, seconds."""

    sweep: str
    objective: str
    direction: str
    method: str
    scored: int
    predicted: float | None
    params: tuple[Param, ...]
    points: tuple[dict[str, Any], ...] = field(repr=False, default=())
    note: str = ""


def why(sweep: Sweep, trials: Sequence[Trial], objective: str = "") -> Why:
    """What the trials say. An objective that the sweep doesn't have: UserError; without scikit-learn: MissingExtra."""
    if objective and objective not in sweep.objectives:
        raise UserError(
            f'The sweep {sweep.name} has no objective "{objective}".{did_you_mean(objective, sweep.objectives)}',
            remedy=f"Use one of: {', '.join(sweep.objectives)}",
        )
    place = sweep.objectives.index(objective) if objective else 0
    scored = [trial for trial in trials if _value(trial, place) is not None]
    params = _params(sweep, trials)
    known = [trial for trial in scored if all(name in trial.settings for name in params if name != BUDGET)]
    note, predicted = "", None
    if len(known) < FEWEST:
        note = f"{len(known)} trials have a value; from {FEWEST} on, importances are told"
    else:
        y = np.array([_value(trial, place) for trial in known], dtype=np.float64)
        x = np.array([[_coded(param, _setting(trial, param.name)) for param in params.values()] for trial in known])
        predicted, found = _importances(x, y)
        better = 1 if sweep.directions[place] == "maximize" else -1
        weighed = zip(params.items(), found, x.T, strict=True)
        params = {name: _weighed(param, told, column, better * y) for (name, param), told, column in weighed}
        if predicted is None:
            note = "the settings don't predict the objective of unseen trials: none is known to matter"
    stopped = sum(trial.state != "done" for trial in scored)
    return Why(
        sweep=sweep.name,
        objective=sweep.objectives[place],
        direction=sweep.directions[place],
        method=f"permutation importance of a random forest, {FOLDS} folds",
        scored=len(scored),
        predicted=predicted,
        params=tuple(sorted(params.values(), key=lambda param: -(param.importance or 0.0))),
        points=tuple(_point(trial, place, params) for trial in trials),
        note="; ".join(filter(None, (note, f"{stopped} of them were stopped early" if stopped else ""))),
    )


def html(found: Why) -> str:
    """The page: importances, parallel coordinates and slices, which can be touched."""
    return page.render("why", found=found, told=page.data(found.to_json()))


# --- what was varied -------------------------------------------------------------------------------


def _params(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Param]:
    """Settings that have more than one value among the trials."""
    found: dict[str, Param] = {}
    for name in dict.fromkeys(name for trial in trials for name in trial.settings):
        values = [trial.settings[name] for trial in trials if name in trial.settings]
        if len({str(value) for value in values}) > 1:
            found[name] = _param(name, values, sweep.space.get(name))
    budgets = [trial.budget for trial in trials if trial.budget is not None]
    if len(set(budgets)) > 1:
        found[BUDGET] = _param(BUDGET, budgets, None)
    return found


def _param(name: str, values: Sequence[Any], axis: Any) -> Param:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        return Param(name=name, kind="choice", choices=tuple(sorted({_word(value) for value in values})))
    if isinstance(axis, Mapping) and axis.get("high", 0.0) > axis.get("low", 0.0):
        wide = bool(axis.get("log"))
    else:
        wide = min(numbers) > 0 and max(numbers) / min(numbers) >= 30
    return Param(name=name, kind="number", log=wide and min(numbers) > 0)


def _word(value: Any) -> str:
    """A choice as people type it."""
    return value if isinstance(value, str) else json.dumps(value)


def _setting(trial: Trial, name: str) -> Any:
    return trial.budget if name == BUDGET else trial.settings[name]


def _coded(param: Param, value: Any) -> float:
    """The value as a number that a forest can split at."""
    if param.kind == "choice":
        return float(param.choices.index(_word(value)))
    number = float("nan") if value is None else float(value)
    return math.log(number) if param.log and number > 0 else number


def _value(trial: Trial, place: int) -> float | None:
    """What the trial reached, where that is a number."""
    value = trial.values[place] if place < len(trial.values) else None
    good = isinstance(value, (int, float)) and math.isfinite(value) and trial.state != "failed"
    return float(value) if good and value is not None else None


def _point(trial: Trial, place: int, params: Mapping[str, Param]) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "value": _value(trial, place),
        "settings": {name: _drawn(param, trial) for name, param in params.items()},
        "run": trial.run,
        "reason": trial.reason,
        "seconds": round(trial.seconds, 1),
    }


def _drawn(param: Param, trial: Trial) -> Any:
    value = trial.budget if param.name == BUDGET else trial.settings.get(param.name)
    return _word(value) if param.kind == "choice" and param.name in trial.settings else value


# --- what mattered ---------------------------------------------------------------------------------


def _importances(x: Floats, y: Floats) -> tuple[float | None, list[tuple[float, float] | None]]:
    """R² on unseen trials, and for each column the R² that is lost when it is shuffled, with its standard error over
    the folds. None where the forest predicts nothing."""
    forest: Any = plugins.need("sklearn.ensemble", "train", "inflame why")
    spread = float(y.var())
    nothing: list[tuple[float, float] | None] = [None] * x.shape[1]
    if spread == 0:
        return None, nothing
    rng = np.random.default_rng(0)
    order, filled = rng.permutation(len(y)), np.nan_to_num(x, nan=-1.0)
    lost, errors = np.zeros((FOLDS, x.shape[1])), np.zeros(FOLDS)
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        model = forest.RandomForestRegressor(TREES, min_samples_leaf=2, random_state=fold, n_jobs=1)
        model.fit(filled[rest], y[rest])
        errors[fold] = np.square(model.predict(filled[held]) - y[held]).sum()
        for column in range(x.shape[1]):
            shuffled = np.repeat(filled[held][None], REPEATS, axis=0)
            for repeat in shuffled:  # values of all trials, not of the few that are held out
                repeat[:, column] = rng.choice(filled[:, column], len(held))
            said = model.predict(shuffled.reshape(-1, x.shape[1])).reshape(REPEATS, -1)
            lost[fold, column] = np.square(said - y[held]).sum(axis=1).mean() - errors[fold]
    whole = spread * len(y)
    predicted = 1 - float(errors.sum()) / whole
    if predicted <= 0:
        return None, nothing
    shares = lost * FOLDS / whole
    reach = shares.std(axis=0, ddof=1) / math.sqrt(FOLDS)
    return predicted, [(float(mean), float(error)) for mean, error in zip(shares.mean(axis=0), reach, strict=True)]


def _weighed(param: Param, told: tuple[float, float] | None, column: Floats, gain: Floats) -> Param:
    """The setting with its importance, and where the best trials have it."""
    most = max(3, len(gain) // 5)
    top = column[np.argsort(-gain, kind="stable")[:most]]
    if param.kind == "choice":
        names, counts = np.unique(top, return_counts=True)
        likely = param.choices[int(names[counts.argmax()])]
        best = f"{likely} in {counts.max()} of the best {most}"
    else:
        low, high = (float(value) for value in (np.nanmin(top), np.nanmax(top)))
        low, high = (math.exp(low), math.exp(high)) if param.log else (low, high)
        best = f"{low:.3g} to {high:.3g} in the best {most}" if low < high else f"{low:.3g} in the best {most}"
    importance, error = told if told is not None else (None, None)
    return Param(
        name=param.name,
        kind=param.kind,
        log=param.log,
        choices=param.choices,
        importance=importance,
        error=error,
        best=best,
    )
