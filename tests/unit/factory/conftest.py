"""Run folders as trainings leave them, made of answers that a test chooses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inflame import store

CLASSES = ("ant", "bee", "cow")
Made = Callable[..., Path]


def wilson(k: int, n: int) -> tuple[float, float]:
    z, rate = 1.959964, k / n
    spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    middle = rate + z * z / (2 * n)
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def answers(labels: Sequence[int], predicted: Sequence[int], split: str = "test") -> dict[str, list[Any]]:
    """Columns of predictions.parquet: the answer has probability 0.8, the other classes share the rest."""
    right = [label == said for label, said in zip(labels, predicted, strict=True)]
    return {
        "uri": [f"{split}/{number:05}.png" for number in range(len(labels))],
        "label": [CLASSES[label] for label in labels],
        "split": [split] * len(labels),
        "predicted": [CLASSES[said] for said in predicted],
        "correct": right,
        "suspect": [0.8 if good else 0.1 for good in right],
        "probabilities": [[0.8 if place == said else 0.1 for place in range(3)] for said in predicted],
    }


@pytest.fixture
def made(home: Path) -> Made:
    """Makes a finished run: its test answers (labels, predicted), and whatever else its status says."""

    def make(
        name: str,
        labels: Sequence[int],
        predicted: Sequence[int],
        *,
        items: str = "items",
        settings: dict[str, Any] | None = None,
        state: str = "done",
        **status: Any,
    ) -> Path:
        folder = store.home() / "runs" / name
        folder.mkdir(parents=True)
        columns = answers(labels, predicted)
        held = answers(labels[:20], predicted[:20], "val")
        table = pa.table({key: columns[key] + held[key] for key in columns})
        pq.write_table(table, folder / "predictions.parquet")
        k, n = sum(columns["correct"]), len(labels)
        low, high = wilson(k, n)
        config = {"model": "tiny", "seed": 0, "hyperparam": {}, **(settings or {})}
        told = {
            "state": state,
            "model": "tiny",
            "dataset": "zoo",
            "test": {"accuracy": k / n, "low": low, "high": high, "n": n},
            "val": {"accuracy": sum(held["correct"]) / 20, "low": 0.0, "high": 1.0, "n": 20},
            "data": {"version": "v" * 64, "content": "c" * 16, "test": items, "val": items},
            "scores": {"test": {"log_loss": float(-np.log(columns["suspect"]).mean())}},
            "recipe": hashlib.sha256(json.dumps({**config, "seed": 0}).encode()).hexdigest()[:16],
            "seed": config["seed"],
            "code": "abc1234",
            "cost": {"cpu_s": 10.0, "gpu_s": 0.0, "wall_s": 6.0},
            "seconds": 6.0,
            "updated": 1.0,
            **status,
        }
        for file, value in {"status.json": told, "config.json": config}.items():
            (folder / file).write_text(json.dumps(value))
        rows = [{"epoch": i, "seconds": i / 2, "val_accuracy": 0.5 + i / 20, "val_loss": 1 / i} for i in range(1, 6)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


@pytest.fixture
def truth() -> list[int]:
    """The labels of 300 items."""
    return np.random.default_rng(0).integers(0, 3, 300).tolist()


@pytest.fixture
def spoilt() -> Callable[[Sequence[int], Sequence[int]], list[int]]:
    """The labels, wrong at these places."""

    def spoil(labels: Sequence[int], places: Sequence[int]) -> list[int]:
        found = list(labels)
        for place in places:
            found[place] = (found[place] + 1) % 3
        return found

    return spoil
