from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as theirs

from inflame.factory import judge
from inflame.factory.answers import Answers
from inflame.model.engine import recorded
from inflame.records import Dataset


@dataclass
class Answered:
    uris: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray


def drawn(n: int = 200, classes: int = 4) -> Answered:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, n)  # the last class has no item
    probabilities = rng.dirichlet(np.ones(classes), n)
    return Answered(tuple(f"{row:03}.png" for row in range(n)), labels, probabilities)


def data(order: list[int], split: str = "test", folder: str = "") -> Dataset:
    items = pa.table(
        {
            "uri": [f"{folder}{row:03}.png" for row in order],
            "sha256": [f"hash {row}" for row in order],
            "label": ["ant" if row % 2 else "bee" for row in order],
            "split": [split] * len(order),
        }
    )
    return Dataset(name="d", kind="image", classes=("ant", "bee"), root="", version="v1", items=items)


def test_scores_are_scikit_learns_and_the_factorys() -> None:
    part = drawn()
    said = part.probabilities.argmax(axis=1)
    found = recorded.scores(part.labels, part.probabilities)
    assert found["macro_f1"] == pytest.approx(theirs.f1_score(part.labels, said, average="macro"))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(theirs.balanced_accuracy_score(part.labels, said))
    loss = -np.log(part.probabilities[np.arange(200), part.labels])
    run = Answers(pa.array(part.uris), part.labels, said, loss)
    for metric in ("log_loss", "macro_f1", "balanced_accuracy"):
        assert judge.value(metric, run) == pytest.approx(found[metric])


def test_the_same_items_have_the_same_hash_wherever_they_lie() -> None:
    part = drawn(4)
    first = recorded.facts(data([0, 1, 2, 3]), part, part)["data"]
    again = recorded.facts(data([3, 1, 0, 2], split="train"), part, part)["data"]
    assert first == again
    assert first["test"] == first["val"] == first["content"]
    few = Answered(part.uris[:3], part.labels[:3], part.probabilities[:3])
    other = recorded.facts(data([0, 1, 2, 3]), part, few)["data"]
    assert other["content"] == first["content"]
    assert other["test"] != first["test"]


def test_without_a_test_split() -> None:
    part = drawn(4)
    found = recorded.facts(data([0, 1, 2, 3]), part, None)
    assert set(found["scores"]) == {"val"}
    assert "test" not in found["data"]
