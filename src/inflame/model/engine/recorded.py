"""What a finished run says of itself in its status, so that thousands of runs can be compared without reading more:
which items it was judged on, and its scores on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from inflame.model.engine import metrics
from inflame.records import Dataset

Floats = NDArray[np.floating[Any]]


class Answered(Protocol):
    """Calibrated probabilities [N,K] of items, with their labels [N]."""

    @property
    def uris(self) -> Sequence[str]:
        """Which items."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each."""

    @property
    def probabilities(self) -> Floats:
        """What was answered."""


def facts(dataset: Dataset, held: Answered, tested: Answered | None) -> dict[str, Any]:
    """`data`: hashes of the data set (`version`), of its items whatever their split (`content`), and of those that were
    answered in `test` and `val`. `scores`: of those two, beside the accuracy."""
    parts = {"val": held, **({"test": tested} if tested is not None else {})}
    return {
        "data": {
            "version": dataset.version,
            "content": _hash(dataset.items),
            **{name: _hash(_of(dataset.items, part.uris)) for name, part in parts.items()},
        },
        "scores": {name: scores(part.labels, part.probabilities) for name, part in parts.items()},
    }


def scores(labels: NDArray[np.int64], probabilities: Floats) -> dict[str, float]:
    """`log_loss` in nats; `macro_f1`, the mean F1 of the classes that occur as label or answer; `balanced_accuracy`,
    the mean recall of the classes that have items."""
    classes = probabilities.shape[1]
    found = metrics.per_class(metrics.confusion(labels, probabilities.argmax(axis=1), classes))
    there, said = [one for one in found if one.support], [one for one in found if one.support or one.predicted]
    return {
        "log_loss": metrics.log_loss(probabilities, labels),
        "macro_f1": sum(one.f1 for one in said) / max(len(said), 1),
        "balanced_accuracy": sum(one.recall.value for one in there) / max(len(there), 1),
    }


def _of(items: pa.Table, uris: Sequence[str]) -> pa.Table:
    return items.filter(pc.is_in(items["uri"], value_set=pa.array(uris, pa.string())))


def _hash(items: pa.Table) -> str:
    """The same for the same pictures with the same labels, wherever they lie and in whatever order."""
    rows = pc.binary_join_element_wise(items["sha256"], items["label"], "\0")
    rows = pc.take(rows, pc.sort_indices(rows))
    return hashlib.sha256("\n".join(rows.to_pylist()).encode(errors="backslashreplace")).hexdigest()[:16]
