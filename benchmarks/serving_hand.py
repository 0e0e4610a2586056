"""What the peers of `benchmarks.serving` answer with: a bundle's net as one would write it by hand, with Pillow and
onnxruntime as they come; or our own Predictor.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image


@final
class Net:
    """Label and probability of each picture. Whole decoding, the same square as the bundle's, no calibration."""

    def __init__(self, bundle: str) -> None:
        import onnxruntime

        folder = Path(bundle)
        plan = json.loads((folder / "preprocess.json").read_bytes())
        self._classes = json.loads((folder / "classes.json").read_bytes())
        self._resize, self._size = plan["resize"], plan["size"]
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def __call__(self, contents: list[bytes]) -> list[dict[str, Any]]:
        """One answer for each file."""
        pictures = np.stack([self._read(content) for content in contents])
        logits = self._session.run(["logits"], {"pictures": pictures})[0]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = shares.argmax(axis=1)
        return [
            {"label": self._classes[place], "probability": float(row[place])}
            for place, row in zip(best, shares, strict=True)
        ]

    def _read(self, content: bytes) -> np.ndarray[Any, Any]:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        whole = np.asarray(image.resize((self._resize, self._resize), Image.Resampling.BILINEAR, box=box))
        edge = (self._resize - self._size) // 2
        return whole[edge : edge + self._size, edge : edge + self._size]


@final
class Ours:
    """The same by our Predictor: calibrated, and with its settings of onnxruntime."""

    def __init__(self, bundle: str) -> None:
        from inflame.model.engine.bundle import Predictor

        self._predictor = Predictor(bundle)

    def __call__(self, contents: list[bytes]) -> list[dict[str, Any]]:
        """One answer for each file."""
        found = self._predictor.predict(contents)
        return [{"label": one.label, "probability": one.probability} for one in found]


ENGINES = {"hand": Net, "predictor": Ours}
