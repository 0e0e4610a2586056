"""What a model expects of its days, as numbers to test later ones against: `expected.npz` of a bundle.

Held-out items in three parts: the first is the reference, the second sets the thresholds, the third verifies them. Of
the reference: sorted statistics of the inputs, of the answers and of the main directions of the embedding (for
Kolmogorov-Smirnov), random Fourier features of these (for the maximum mean discrepancy), the classes it was answered
with. numpy alone; no pickles.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.model.engine.seal import EXPECTED as NAME

Floats = NDArray[np.floating[Any]]
F64 = NDArray[np.float64]

__all__ = ["NAME", "Expected", "Sample", "View", "describe", "joined"]

DIRECTIONS = 24  # of the embedding
FEATURES = 256  # random Fourier features
ANSWERS = ("confidence", "entropy")
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Items as the log keeps them: calibrated probabilities [N, K], embedding [N, D], statistics of the inputs [N, S]
    (NaN: not known), whether the model knew them [N], the types of the files."""

    probabilities: Floats
    embedding: Floats
    seen: Floats
    known: NDArray[np.bool_]
    kinds: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """Some of them."""
        return Sample(
            probabilities=self.probabilities[rows],
            embedding=self.embedding[rows],
            seen=self.seen[rows],
            known=self.known[rows],
            kinds=tuple(self.kinds[row] for row in rows) if self.kinds else (),
        )


def joined(parts: Sequence[Sample]) -> Sample:
    """All of them, one after the other."""
    return Sample(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        embedding=np.concatenate([part.embedding for part in parts]),
        seen=np.concatenate([part.seen for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        kinds=tuple(kind for part in parts for kind in part.kinds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A sample as it is tested: values [N, V] (statistics of inputs, answers, directions of the embedding, distance
    from them), random Fourier features [N, F], the class of each [N], its probabilities [N, K]."""

    values: F64
    fourier: F64
    predicted: NDArray[np.int64]
    soft: F64 = field(default_factory=lambda: np.zeros((0, 0)))

    def take(self, rows: NDArray[np.int64]) -> View:
        """Some of them."""
        soft = self.soft[rows] if len(self.soft) else self.soft
        return View(values=self.values[rows], fourier=self.fourier[rows], predicted=self.predicted[rows], soft=soft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What is expected. `ordered` [V, M]: sorted reference values (NaN last), `counts` how many of them are known;
    `mean` [F] of the Fourier features and traces of powers of their covariance; `classes` [K] predicted counts,
    `unknown` the share of unknown, `accuracy` on held-out items; `thresholds`: p-values below which a window counts,
    {level: p}.

    The estimator of accuracy is in `estimator` (see estimate.py), {} where there was no time to fit one.
    """

    names: tuple[str, ...]  # of the statistics of the inputs
    class_names: tuple[str, ...]
    m: int
    centre: F64
    scale: F64
    basis: F64  # [D, R]
    far: float  # mean log distance from the directions
    ordered: F64
    counts: NDArray[np.int64]
    middle: F64  # medians of the values, and
    reach: F64  # their usual deviation
    waves: F64  # [R, F]
    shifts: F64  # [F]
    mean: F64
    traces: F64  # tr S, tr S^2, tr S^3 of the covariance of the Fourier features
    classes: NDArray[np.int64]
    kinds: dict[str, int]
    unknown: float
    accuracy: float
    labelled: int
    thresholds: dict[str, float]
    verified: dict[str, Any] = field(default_factory=dict)
    estimator: dict[str, Any] = field(default_factory=dict)

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of the columns of `View.values`."""
        directions = tuple(f"direction {number + 1}" for number in range(self.basis.shape[1]))
        return (*self.names, *ANSWERS, *directions, "distance")

    def view(self, sample: Sample) -> View:
        """The sample as it is tested."""
        p = np.asarray(sample.probabilities, np.float64)
        p = p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
        entropy = -(p * np.log(np.clip(p, 1e-9, None))).sum(axis=1)
        z = (np.asarray(sample.embedding, np.float64) - self.centre) / self.scale
        along = z @ self.basis
        rest = np.maximum((z * z).sum(axis=1) - (along * along).sum(axis=1), 0)
        all_there_is = self.basis.shape[0] == self.basis.shape[1]  # then nothing but rounding is left
        away = np.zeros(len(z)) if all_there_is else np.log(rest + 0.01)
        fourier = np.cos(along @ self.waves + self.shifts) * np.sqrt(2 / len(self.shifts))
        values = np.column_stack([sample.seen, p.max(axis=1), entropy, along, away])
        return View(values=values, fourier=fourier, predicted=p.argmax(axis=1), soft=p)

    def to_bytes(self) -> bytes:
        """The content of expected.npz."""
        import json

        arrays: dict[str, Any] = {}
        plain: dict[str, Any] = {"format": FORMAT}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray):
                arrays[one.name] = value.astype(np.float32) if value.dtype == np.float64 else value
            else:
                plain[one.name] = value
        file = io.BytesIO()
        np.savez_compressed(file, plain=np.frombuffer(json.dumps(plain).encode(), np.uint8), **arrays)
        return file.getvalue()

    @classmethod
    def of(cls, content: bytes) -> Expected:
        """What `to_bytes` wrote."""
        import json

        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            plain = json.loads(file["plain"].tobytes())
            arrays = {
                name: file[name].astype(np.float64) if file[name].dtype == np.float32 else file[name]
                for name in file.files
                if name != "plain"
            }
        plain.pop("format")
        plain |= {name: tuple(plain[name]) for name in ("names", "class_names")}
        return cls(**plain, **arrays)


def describe(
    sample: Sample,
    *,
    frame: Floats,
    names: Sequence[str],
    classes: Sequence[str],
    accuracy: float,
    labelled: int,
    thresholds: dict[str, float],
) -> Expected:
    """What is expected, from the reference part of the held-out items.

    frame [M, D]: embeddings of other items, which the directions come from. Directions fitted to the reference itself
    would be nearer to it than to any later item.
    """
    vectors = np.asarray(frame, np.float64)
    centre, scale = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(scale > 1e-6 * (scale.max(initial=0) + 1e-12), scale, 1.0)
    z = (vectors - centre) / scale
    _, sizes, rows = np.linalg.svd(z, full_matrices=False)
    wanted = int(min(DIRECTIONS, (sizes > 1e-6).sum(), max(1, len(z) // 8)))
    basis = rows[:wanted].T
    rng = np.random.default_rng(0)
    some = (z @ basis)[rng.permutation(len(z))[:300]]
    apart = np.sqrt(((some[:, None] - some[None]) ** 2).sum(axis=-1))
    width = float(np.median(apart[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0
    waves = rng.standard_normal((wanted, FEATURES)) / max(width, 1e-6)
    shifts = rng.uniform(0, 2 * np.pi, FEATURES)
    empty = np.zeros(0)
    first = Expected(
        names=tuple(names), class_names=tuple(classes), m=len(sample), centre=centre, scale=scale, basis=basis, far=0.0,
        ordered=empty, counts=np.zeros(0, np.int64), middle=empty, reach=empty, waves=waves, shifts=shifts, mean=empty,
        traces=empty, classes=np.zeros(0, np.int64), kinds={}, unknown=float((~sample.known).mean()),
        accuracy=accuracy, labelled=labelled, thresholds=thresholds,
    )  # fmt: skip
    view = first.view(sample)
    spread = np.linalg.svd(view.fourier - view.fourier.mean(axis=0), compute_uv=False) ** 2 / max(len(sample) - 1, 1)
    quarters = np.stack([_quarters(column) for column in view.values.T], axis=1)
    found = {one.name: getattr(first, one.name) for one in fields(first)}
    return Expected(
        **{
            **found,
            "ordered": np.sort(view.values, axis=0).T,
            "counts": np.isfinite(view.values).sum(axis=0),
            "middle": quarters[1],
            "reach": np.maximum((quarters[2] - quarters[0]) / 1.349, 1e-9),
            "far": float(view.values[:, -1].mean()),
            "mean": view.fourier.mean(axis=0),
            "traces": np.array([spread.sum(), (spread**2).sum(), (spread**3).sum()]),
            "classes": np.bincount(view.predicted, minlength=len(classes)),
            "kinds": {kind: sample.kinds.count(kind) for kind in sorted(set(sample.kinds))},
        }
    )


def _quarters(column: F64) -> F64:
    """The quartiles of what is known of a column; NaN where nothing is."""
    values = column[np.isfinite(column)]
    return np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else np.full(3, np.nan)
