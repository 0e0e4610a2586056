"""How many answers of a window are right, though nobody has looked: a small ridge regression.

It is fitted when the bundle is made, on windows of held-out items that were spoiled on purpose, from what can be seen
without labels: how sure the answers are, how far the embeddings have moved, which classes are answered. Its interval
comes from families of corruption that were left out of the fit. Beyond what it was fitted on it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.expected import Expected, View
from inflame.model.engine.shift import discrepancy
from inflame.records import Record

F64 = NDArray[np.float64]
SIZE = 200  # items of a window that the estimator is fitted on
WINDOWS = 480
FAMILIES = 3  # least, that an estimator is fitted on
HALF = 0.05  # the half width of the interval that labelling is to give
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Record):
    """The estimated accuracy of a window, with its 90 % interval. Not `reliable`: the window is unlike all that the
    estimator was fitted on; `label` items with their classes would say it to 5 points."""

    accuracy: float
    low: float
    high: float
    reliable: bool
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiled:
    """Held-out items after one corruption: how they look to the model, whether it knew them [N], which answers were
    right [N]."""

    family: str
    view: View
    known: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def signs(expected: Expected, view: View, known: NDArray[np.bool_]) -> F64:
    """What of a window tells its accuracy [9]. One item at least."""
    inputs = len(expected.names)
    sure, entropy, away = (
        (view.values[:, place], expected.ordered[place, : expected.counts[place]]) for place in (inputs, inputs + 1, -1)
    )
    doubt = np.quantile(sure[1], 1 - expected.accuracy)
    moved = discrepancy(expected, view)[0]
    counts, before = np.bincount(view.predicted, minlength=len(expected.classes)), expected.classes
    shares, usual = counts / counts.sum(), before / before.sum()
    chance = np.sqrt(usual * (1 - usual) * (1 / counts.sum() + 1 / before.sum()) * 2 / np.pi).sum() / 2
    return np.array(
        [
            (sure[0] < doubt).mean() - (1 - expected.accuracy),
            sure[0].mean() - sure[1].mean(),
            entropy[0].mean() - entropy[1].mean(),
            moved,
            moved**2,
            max(0.0, np.abs(shares - usual).sum() / 2 - chance),
            away[0].mean() - expected.far,
            (away[0] > np.quantile(away[1], 0.99)).mean(),
            (~known).mean() - expected.unknown,
        ]
    )


def fit(expected: Expected, clean: Spoiled, spoiled: Sequence[Spoiled], rng: np.random.Generator) -> dict[str, Any]:
    """The estimator, as plain numbers; {} where there is too little to fit one on."""
    families = sorted({one.family for one in spoiled})
    if len(families) < FAMILIES or len(clean.correct) < 20:
        return {}
    rows, truth, names = [], [], []
    for number in range(WINDOWS):
        # A sixth of the windows is clean, or of other shares of the classes; a third of the rest is partly clean.
        one = clean if number % 6 == 0 else spoiled[number % len(spoiled)]
        part = float(rng.uniform(0.2, 1)) if number % 3 == 1 else 1.0
        view, known, correct = _window(clean, one, part, rng, even=number % 12 != 0)
        rows.append(signs(expected, view, known))
        truth.append(correct.mean())
        names.append(one.family)
    x, y, which = np.array(rows), np.array(truth) - expected.accuracy, np.array(names)
    centre, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - centre) / scale
    tried = {strength: _left_out(z, y, which, families, strength) for strength in _STRENGTHS}
    strength = min(tried, key=lambda one: float(np.abs(tried[one] - y).mean()))
    residuals = np.abs(tried[strength] - y) / _doubt(tried[strength])
    weights = _ridge(z, y, strength)
    shape = np.linalg.pinv(np.cov(z.T) + 1e-3 * np.eye(z.shape[1]))
    distance = np.sqrt(np.einsum("ij,jk,ik->i", z, shape, z))
    return {
        "centre": _plain(centre),
        "scale": _plain(scale),
        "weights": _plain(weights),
        "shape": [_plain(row) for row in shape],
        "edge": float(np.quantile(distance, 0.99) * 1.5),
        "width": float(np.quantile(residuals, 0.9)),
        "error": float(np.abs(tried[strength] - y).mean()),  # of families left out of the fit
        "families": families,
        "items": len(clean.correct),
        "windows": WINDOWS,
        "strength": strength,
    }


def estimate(expected: Expected, view: View, known: NDArray[np.bool_]) -> Estimate | None:
    """The estimated accuracy of a window; None where the bundle has no estimator."""
    found = expected.estimator
    if not found or not len(view.predicted):
        return None
    z = (signs(expected, view, known) - np.array(found["centre"])) / np.array(found["scale"])
    drop = float(_applied(z[None], np.array(found["weights"]))[0])
    value = min(max(expected.accuracy + drop, 0.0), 1.0)
    n = len(view.predicted)
    spare = max(value * (1 - value), 0.01) * max(0.0, 1 / n - 1 / SIZE)
    half = math.hypot(found["width"] * float(_doubt(np.array(drop))), 1.645 * math.sqrt(spare))
    distance = math.sqrt(max(float(z @ np.array(found["shape"]) @ z), 0.0))
    least = max(value * (1 - value), 0.05)
    return Estimate(
        accuracy=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        reliable=distance <= found["edge"] * max(1.0, math.sqrt(SIZE / n)),
        label=math.ceil(1.96**2 * least / HALF**2),
    )


def _window(
    clean: Spoiled, one: Spoiled, part: float, rng: np.random.Generator, *, even: bool
) -> tuple[View, NDArray[np.bool_], NDArray[np.bool_]]:
    """A window of items: a part of one kind and the rest clean; not even: with other shares of the classes."""
    wanted = max(1, round(part * SIZE))
    weights = None
    if not even:
        drawn = rng.dirichlet(np.full(int(one.view.predicted.max()) + 1, 0.5))[one.view.predicted] + 1e-9
        weights = drawn / drawn.sum()
    rows = rng.choice(len(one.correct), wanted, p=weights)
    rest = rng.integers(0, len(clean.correct), SIZE - wanted)
    view = View(
        values=np.concatenate([one.view.values[rows], clean.view.values[rest]]),
        fourier=np.concatenate([one.view.fourier[rows], clean.view.fourier[rest]]),
        predicted=np.concatenate([one.view.predicted[rows], clean.view.predicted[rest]]),
    )
    known = np.concatenate([one.known[rows], clean.known[rest]])
    return view, known, np.concatenate([one.correct[rows], clean.correct[rest]])


def _left_out(z: F64, y: F64, which: NDArray[np.str_], families: Sequence[str], strength: float) -> F64:
    """What is predicted for each family by a fit without it; for clean windows by a fit without a third of them."""
    found = _applied(z, _ridge(z, y, strength))
    for family in families:
        mine = which == family
        found[mine] = _applied(z[mine], _ridge(z[~mine], y[~mine], strength))
    return found


def _ridge(z: F64, y: F64, strength: float) -> F64:
    """Weights with a constant, which isn't held small."""
    x = np.column_stack([z, np.ones(len(z))])
    penalty = np.diag([strength] * z.shape[1] + [0.0])
    return np.asarray(np.linalg.solve(x.T @ x + penalty, x.T @ y))


def _applied(z: F64, weights: F64) -> F64:
    return np.asarray(z @ weights[:-1] + weights[-1])


def _doubt(drop: F64) -> F64:
    """How the error grows with what is estimated: large drops are known less well."""
    return np.asarray(0.02 + 0.2 * np.minimum(np.abs(drop), 0.5))


def _plain(values: F64) -> list[float]:
    return [float(f"{value:.8g}") for value in values]
