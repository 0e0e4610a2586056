"""What the model saw and said on held-out items, as numbers to compare later days with (`reference.json`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

QUANTILES = 101  # every percent: enough for a Kolmogorov-Smirnov test, small enough for JSON


def reference(
    *,
    classes: Sequence[str],
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    embedding: NDArray[np.floating[Any]],
    inputs: Mapping[str, NDArray[Any]],
    split: str = "val",
) -> dict[str, Any]:
    """Statistics of held-out items, fit for JSON.

    labels [n], calibrated probabilities [n, K], embedding [n, D]; inputs, by the names of model.onnx, may be of fewer
    items: pictures uint8 [m, H, W, C], or ids and counts [m, L] of texts. Quantiles are those at 0, 1, … 100 %.
    Brightness and contrast are mean and deviation of a picture's grey, 0 to 1.
    """
    p, vectors = np.asarray(probabilities, dtype=np.float64), np.asarray(embedding, dtype=np.float64)
    return {
        "split": split,
        "n": len(p),
        "classes": _frequencies(np.asarray(labels), classes),
        "predicted": _frequencies(p.argmax(axis=1), classes),
        "confidence": _quantiles(p.max(axis=1)),
        "entropy": _quantiles(-(p * np.log(np.clip(p, 1e-12, None))).sum(axis=1)),
        "embedding": {
            "mean": _rounded(vectors.mean(axis=0)) if len(vectors) else [],
            "std": _rounded(vectors.std(axis=0)) if len(vectors) else [],
            "norm": _quantiles(np.linalg.norm(vectors, axis=1)),
        },
        **_seen(inputs),
    }


def _seen(inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Statistics of the inputs themselves."""
    if "counts" in inputs:
        different = (inputs["counts"] > 0).sum(axis=1)
        return {"texts": {"n": len(different), "entries": _quantiles(different.astype(np.float64))}}
    pictures = inputs["pictures"]
    return {"pictures": {"n": len(pictures), **light(pictures)}}


def light(pictures: NDArray[np.uint8]) -> dict[str, list[float]]:
    """Quantiles of the brightness and contrast of pictures, uint8 [N, H, W, C]."""
    grey = [picture.mean(axis=-1, dtype=np.float32) / 255 for picture in pictures]  # one by one: memory stays small
    return {
        "brightness": _quantiles(np.array([picture.mean() for picture in grey])),
        "contrast": _quantiles(np.array([picture.std() for picture in grey])),
    }


def _frequencies(indices: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(indices.astype(np.int64), minlength=len(classes)) / max(len(indices), 1)
    return dict(zip(classes, _rounded(counts), strict=True))


def _quantiles(values: NDArray[Any]) -> list[float]:
    return _rounded(np.quantile(values, np.linspace(0, 1, QUANTILES))) if len(values) else []


def _rounded(values: NDArray[Any]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
