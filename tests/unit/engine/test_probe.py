"""The probe finds what can be found, is honest about held-out items, and computes features once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from inflame.model.engine import nets, probe


def blobs(count: int = 120, width: int = 20, classes: int = 3, noise: float = 1.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width)) * 2
    labels = np.arange(count) % classes
    return (centres[labels] + noise * rng.normal(size=(count, width))).astype(np.float32), labels.astype(np.int64)


def test_it_is_the_logistic_regression_of_scikit_learn() -> None:
    x, y = blobs(noise=3.0)
    found = probe.fit([x], y, classes=3, strengths=(1e-2,))
    scaled = nets.Hellinger()(torch.from_numpy(x)).numpy()
    theirs = LogisticRegression(C=1 / (1e-2 * len(x)), max_iter=1000, tol=1e-8).fit(scaled, y)
    mine = torch.softmax(torch.from_numpy(found.logits(x)), dim=1).numpy()
    assert np.abs(mine - theirs.predict_proba(scaled)).max() < 5e-3


def test_with_fewer_items_than_features_the_answer_is_the_same() -> None:
    x, y = blobs(count=30, width=100, noise=2.0)
    found = probe.fit([x], y, classes=3, strengths=(1e-1,))
    scaled = nets.Hellinger()(torch.from_numpy(x)).numpy()
    theirs = LogisticRegression(C=1 / (1e-1 * len(x)), max_iter=1000, tol=1e-8).fit(scaled, y)
    assert np.abs(found.weight - found.weight.mean(0) - theirs.coef_).max() < 2e-2


def test_of_many_items_a_sample_chooses_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(count=2000, noise=4.0)
    whole = probe.fit([x], y, classes=3)
    monkeypatch.setattr(probe, "ENOUGH", 500)
    found = probe.fit([x], y, classes=3)
    assert found.held.shape == (2000, 3)
    assert found.strength < max(probe.STRENGTHS)
    assert abs(found.loss - whole.loss) < 0.01


def test_held_out_answers_are_held_out() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(90, 60)).astype(np.float32), rng.integers(0, 3, 90)
    found = probe.fit([x], y, classes=3)
    assert found.accuracy < 0.55  # labels are dice: an answer that had seen them would be near 1
    assert found.held.shape == (90, 3)


def test_groups_stay_in_one_fold() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(30), 4)
    own = rng.normal(size=(30, 40))  # each group has looks of its own, and a label by dice
    x = (own[group] + 0.01 * rng.normal(size=(120, 40))).astype(np.float32)
    y = rng.integers(0, 2, 30)[group].astype(np.int64)
    assert probe.fit([x], y, classes=2).accuracy > 0.9  # twins give the label away
    assert probe.fit([x], y, classes=2, groups=group).accuracy < 0.75


def test_two_views_are_two_chances_to_learn_and_one_to_answer() -> None:
    x, y = blobs()
    found = probe.fit([x, x + np.float32(0.1)], y, classes=3)
    assert found.held.shape == (len(y), 3)
    assert found.accuracy > 0.95
    assert found.strength in probe.STRENGTHS


def test_its_head_says_the_same() -> None:
    x, y = blobs()
    found = probe.fit([x], y, classes=3)
    with torch.inference_mode():
        assert torch.allclose(found.head()(torch.from_numpy(x)), torch.from_numpy(found.logits(x)), atol=1e-4)


def test_features_are_computed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path))
    calls: list[int] = []

    class Body:
        preprocess = nets  # anything with to_json

        def __call__(self, pixels: Any) -> Any:
            calls.append(len(pixels))
            return pixels.reshape(len(pixels), -1).astype(np.float32)

    body = Body()
    body.preprocess = type("P", (), {"to_json": staticmethod(lambda: {"size": 4})})()  # type: ignore[assignment]
    pixels = np.random.default_rng(0).integers(0, 255, (40, 4, 4, 3), dtype=np.uint8)
    hashes = [str(number) for number in range(40)]
    told: list[int] = []
    first = probe.features(body, pixels, hashes=hashes, key="a", progress=lambda done, _: told.append(done))  # type: ignore[arg-type]
    again = probe.features(body, pixels, hashes=hashes, key="a")  # type: ignore[arg-type]
    assert calls == [32, 8]
    assert told == [32, 40]
    assert np.array_equal(first, again)
    turned = probe.features(body, pixels, hashes=hashes, key="a", mirrored=True)  # type: ignore[arg-type]
    assert not np.array_equal(first, turned)
    assert np.array_equal(turned.reshape(40, 4, 4, 3)[:, :, ::-1], pixels)
    other = probe.features(body, pixels, hashes=[*hashes[:-1], "changed"], key="a")  # type: ignore[arg-type]
    assert len(calls) == 6
    assert np.array_equal(other, first)
