"""The statistics for drift say what was on the pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inflame.model.engine.reference import QUANTILES, light, reference


def test_statistics_by_hand() -> None:
    rng = np.random.default_rng(0)
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.9, 0.1, 0.0]])
    vectors = rng.normal(size=(4, 5))
    pictures = np.stack([np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 51, 102, 255)])
    pictures[3, :4] = 0
    found = reference(
        classes=["a", "b", "c"],
        labels=np.array([0, 1, 1, 0]),
        probabilities=p,
        embedding=vectors,
        inputs={"pictures": pictures},
    )
    assert found["n"] == 4
    assert found["classes"] == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert found["predicted"] == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert (found["confidence"][0], found["confidence"][-1]) == (0.6, 0.9)
    assert len(found["confidence"]) == QUANTILES
    np.testing.assert_allclose(found["embedding"]["mean"], vectors.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["embedding"]["std"], vectors.std(axis=0), rtol=1e-5)
    assert found["pictures"]["brightness"][0] == 0.0
    assert found["pictures"]["brightness"][-1] == pytest.approx(0.5)
    assert found["pictures"]["contrast"][-1] == pytest.approx(0.5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_items() -> None:
    found = reference(
        classes=["a", "b"],
        labels=np.zeros(0, dtype=int),
        probabilities=np.zeros((0, 2)),
        embedding=np.zeros((0, 3)),
        inputs={"pictures": np.zeros((0, 4, 4, 1), dtype=np.uint8)},
    )
    assert found["n"] == 0
    assert found["confidence"] == []
    assert light(np.zeros((0, 4, 4, 1), dtype=np.uint8)) == {"brightness": [], "contrast": []}
