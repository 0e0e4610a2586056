"""How unlike all that was learned a thing is, as one number: by where its embedding lies, and by what a picture itself
is like. No torch.

Of the embedding: how far it goes from the middle of all into the direction of the training items shown in the bundle,
by the third nearest direction. That is the cosine to a near neighbour (Sun et al. 2022, "Out-of-Distribution Detection
with Deep Nearest Neighbors"; the third, because a single item may be odd) times the embedding's length from the middle,
which is small where the net is unsure (Park et al. 2023, "Nearest Neighbor Guidance for Out-of-Distribution Detection",
guide by its confidence); beyond what is usual length counts no more, or a thing would be known for being far away.

Of the picture: Mahalanobis' distance of its light, contrast, sharpness, noise and colour from those of held-out
pictures, as far as it is beyond the usual. A net that learned photos answers a drawing or noise with what it looks like
to it; their pixels give them away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from inflame.artifact.seen import PICTURES
from inflame.model.engine.nearest import Nearest

KNOWN = 0.98  # of the held-out items are told as known
NEIGHBOUR = 3
STEEP = 3.0  # what a picture beyond the usual counts, against an embedding
LEAST = 40  # held-out pictures, to say what pictures are like
FEW = 5  # held-out items, to say anything
INPUTS = PICTURES[:5]
_SPACE = 1.2  # where there are too few to know: the next one may lie a little farther out than the last

# In the old way, for bundles that were made without:
_USUAL = 99  # % of known things are no farther from a training item than the limit
_SHOWN = 20  # training items, to say what is usual

_FAINT = np.array([0.02, 0.005, 0.005, 0.02])  # contrast, sharpness, noise, colour: less is as good as none
_ALIKE = 0.05  # deviation of a statistic at least: of pictures that are all grey a faint colour is not infinitely far

Floats = NDArray[np.floating[Any]]
F64 = NDArray[np.float64]


def record(
    nearest: Nearest, centre: Floats, embedding: Floats, seen: Floats | None, rows: NDArray[np.integer[Any]]
) -> dict[str, Any]:
    """What `Novelty` needs, fit for JSON; {} for too few items. Of held-out items: embedding [N,D], and the statistics
    seen [M,S] of the pictures in `rows` [M] of them, None where they aren't known. centre [D]: the embeddings' mean."""
    if len(embedding) < FEW or len(rows) < FEW:
        return {}
    reach = float(np.median(np.linalg.norm(embedding - centre, axis=1)))
    along = _along(embedding, np.asarray(centre), nearest.directions(centre), reach)
    found: dict[str, Any] = {"reach": reach, "along": _scale(-along)}
    if seen is not None and len(seen) >= LEAST:
        logs = _logs(seen)
        middle, spread = logs.mean(axis=0), np.maximum(logs.std(axis=0), _ALIKE)
        alike = np.cov(((logs - middle) / spread).T)
        np.fill_diagonal(alike, np.maximum(alike.diagonal(), 1) + 0.01)
        axes = np.linalg.cholesky(np.linalg.inv(alike)) / spread[:, None]
        found["inputs"] = {"middle": middle.tolist(), "axes": axes.tolist()}
        found["inputs"]["usual"] = _scale(_away(logs, found["inputs"]))
    told = _strange(found, along[rows], seen)
    enough = len(told) >= _rank(len(told))
    return found | {"n": len(told), "limit": _high(told) * (1 if enough else _SPACE)}


@final
class Novelty:
    """How strange things are, from the statistics of a bundle. `limit`: what nearly all known things stay below; 0
    where that isn't known, and then nothing is strange."""

    def __init__(self, reference: Mapping[str, Any], nearest: Nearest | None) -> None:
        self._nearest = nearest
        self._known: Mapping[str, Any] = reference.get("novelty") or {}
        self._centre = np.asarray((reference.get("embedding") or {}).get("mean", ()), np.float64)
        if nearest is not None and self._known:
            self._directions = nearest.directions(self._centre)
        self.limit = float(self._known.get("limit", 0)) or self._usual(reference)

    def __call__(self, embedding: Floats, seen: Floats) -> NDArray[np.float64]:
        """Of each thing [N] with this embedding [N,D] and these statistics [N,S] (artifact.seen; [N,0]: not known).
        About 0 for what is in the middle of the known."""
        if self._nearest is None:
            return np.zeros(len(embedding))
        if not self._known:
            return self._nearest.distance(embedding).astype(np.float64)
        along = _along(embedding, self._centre, self._directions, self._known["reach"])
        return _strange(self._known, along, seen if seen.shape[1] else None)

    def _usual(self, reference: Mapping[str, Any]) -> float:
        """The limit in bundles that say less: of the distance from the nearest training item."""
        held_out = reference.get("distance") or []
        if len(held_out) == 101:
            return float(held_out[_USUAL]) * _SPACE
        # Made before 0.1: how far training items are from each other. A net of texts has learnt those by heart.
        spread = self._nearest.spread() if self._nearest is not None and not self._nearest.text else np.zeros(0)
        return float(np.quantile(spread, _USUAL / 100)) * _SPACE if len(spread) >= _SHOWN else 0.0


def _along(embedding: Floats, centre: Floats, directions: Floats, reach: float) -> F64:
    """How far each embedding [N,D] goes from the centre [D] into the NEIGHBOUR-th nearest direction: [N]. One that goes
    farther than `reach` counts as if it went so far."""
    found = np.asarray(embedding, np.float32) - centre.astype(np.float32)
    length = np.linalg.norm(found, axis=1)
    place = max(len(directions) - NEIGHBOUR, 0)
    into: F64 = np.partition(found @ directions.T, place, axis=1)[:, place].astype(np.float64)
    into *= np.minimum(1, reach / np.maximum(length, 1e-12))
    return into


def _strange(known: Mapping[str, Any], along: Floats, seen: Floats | None) -> F64:
    """Both as one: 0 for the middle of the known, about 1 where the strange begins."""
    found = _scaled(-along, known["along"])
    if seen is not None and "inputs" in known:
        away = _scaled(_away(_logs(seen), known["inputs"]), known["inputs"]["usual"])
        found = found + STEEP * np.maximum(away - 1, 0)
    return found


def _logs(seen: Floats) -> F64:
    """The statistics [N,5] that say what a picture is like, those that are never below 0 as logarithms."""
    found = np.array(seen[:, : len(INPUTS)], np.float64)
    found[:, 1:] = np.log(np.maximum(found[:, 1:], 0) + _FAINT)
    return found


def _away(logs: F64, inputs: Mapping[str, Any]) -> F64:
    """Mahalanobis' distance [N] from the middle of the known."""
    away: F64 = np.linalg.norm((logs - np.asarray(inputs["middle"])) @ np.asarray(inputs["axes"]), axis=1)
    return away


def _scale(values: Floats) -> list[float]:
    """What is usual, and what nearly all stay below."""
    usual, high = float(np.median(values)), _high(values)
    return [usual, max(high, usual + 0.05 * abs(usual) + 1e-9)]


def _scaled(values: Floats, scale: tuple[float, float]) -> F64:
    usual, high = scale
    return (np.asarray(values, np.float64) - usual) / (high - usual)


def _high(values: Floats) -> float:
    """What a new one stays below at the rate KNOWN, as conformal prediction has it; of too few the highest."""
    return float(np.sort(values)[min(_rank(len(values)), len(values)) - 1])


def _rank(count: int) -> int:
    return int(np.ceil((count + 1) * KNOWN - 1e-9))
