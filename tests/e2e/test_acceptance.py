"""Five sentences that other projects of this kind broke, each shown to hold on a real training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from inflame import config
from inflame.artifact import loader, packed
from inflame.model.auto import train as auto
from inflame.model.engine import checkpoint, pace
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.mnist import train as mnist
from inflame.plugins import model_folder
from inflame.records import Dataset, Preprocess

BASE = ("hyperparam.num_epochs=2", "io.training_input=digits", "limit=260", "hyperparam.batch_size=32")


def run(module: Any, name: str, *words: str) -> dict[str, Any]:
    settings = config.load(model_folder(name), words)
    found: dict[str, Any] = module.train(settings)
    return found


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(Path(result["bundle"]) / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module", autouse=True)
def _one_way() -> Iterator[None]:
    """No choice by the clock: on a busy machine one training may be found quickest in bf16, the next in fp32."""

    def plain(net: Any, x: Any, y: Any, criterion: Any, *, name: str = "auto", **_: Any) -> pace.Pace:
        return pace.Pace(device=One(name, "fp32"), batch_size=len(y), seconds=0.01, why="as ever")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "choose", plain)
        yield


# 1. Every setting in model-config.toml reaches the thing it names.

OTHER = {
    "num_epochs": 1,
    "batch_size": 16,
    "learning_rate": 0.02,
    "weight_decay": 0.05,
    "warmup": 0.6,
    "label_smoothing": 0.3,
    "shift": 1,
    "ema": 0.9,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFLAME_HOME", str(tmp_path_factory.mktemp("base")))
        first, second = (weights(run(mnist, "mnist", *BASE, "fresh=true")) for _ in range(2))
    assert same(first, second), "the comparison below needs a training that repeats itself"
    return first


def test_every_setting_of_mnist_is_tried() -> None:
    settings = config.load(model_folder("mnist"))
    assert set(settings.hyperparam.to_json()) == {*OTHER, "patience"}  # that ends a training: unit/engine/test_trend.py


@pytest.mark.parametrize("key", OTHER)
def test_a_setting_changes_the_training(key: str, base: dict[str, torch.Tensor]) -> None:
    changed = run(mnist, "mnist", *BASE, f"hyperparam.{key}={OTHER[key]}")
    assert not same(base, weights(changed)), f"hyperparam.{key} has no effect"


def test_seed_limit_and_data_change_the_training(base: dict[str, torch.Tensor]) -> None:
    for word in ("seed=1", "limit=200"):
        assert not same(base, weights(run(mnist, "mnist", *BASE, word)))


@pytest.mark.parametrize(
    "word",
    [
        f"hyperparam.{key}={OTHER[key]}"
        for key in ("batch_size", "learning_rate", "weight_decay", "warmup", "label_smoothing")
    ]
    + ["hyperparam.shift_grey=1"],
)
def test_a_setting_of_the_small_road_changes_the_training(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[dict[str, torch.Tensor]] = []
    fit = Learner.fit

    def watched(self: Learner, *words: Any, **named: Any) -> dict[str, float]:
        found = fit(self, *words, **named)
        trained.append({name: value.clone() for name, value in self.net.state_dict().items()})
        return found

    monkeypatch.setattr(Learner, "fit", watched)
    for words in ((), (word,)):
        run(auto, "auto", *BASE, *words)
    assert not same(*trained), f"{word} has no effect"


# 2. Validation never updates a weight.


def test_validation_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate: Callable[..., dict[str, float]] = Learner.evaluate

    def watched(self: Learner, batches: Any) -> dict[str, float]:
        before = {name: value.clone() for name, value in self.scored.state_dict().items()}
        found = evaluate(self, batches)
        seen.append(same(before, self.scored.state_dict()))
        return found

    monkeypatch.setattr(Learner, "evaluate", watched)
    run(mnist, "mnist", *BASE)
    assert seen
    assert all(seen)


# 3. No selection ever sees the test split.


def picture_folder(root: Path, *, poisoned: bool) -> Path:
    """Stripes that lie or stand, in train, val and test; in the poisoned one the test labels are swapped."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 20), ("test", 10)):
        for kind in ("lying", "standing"):
            name = {"lying": "standing", "standing": "lying"}[kind] if poisoned and split == "test" else kind
            for number in range(count):
                pixels = rng.integers(0, 120, (24, 24), dtype=np.uint8)
                (pixels if kind == "lying" else pixels.T)[rng.integers(0, 4) :: 4] = 250
                (root / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / split / name / f"{kind}{number}.png")
    return root


def test_poisoned_test_labels_change_the_final_report_only(tmp_path: Path) -> None:
    clean, poisoned = (
        run(
            auto,
            "auto",
            f"io.training_input={picture_folder(tmp_path / name / 'stripes', poisoned=name == 'b')}",
            "hyperparam.num_epochs=6",
            "hyperparam.batch_size=16",
        )
        for name in ("a", "b")
    )
    assert same(weights(clean), weights(poisoned))
    assert clean["val"] == poisoned["val"]
    for name in ("calibration.json", "classes.json", "preprocess.json", "reference.json"):
        assert (Path(clean["bundle"]) / name).read_bytes() == (Path(poisoned["bundle"]) / name).read_bytes()
    assert clean["test"]["accuracy"] == pytest.approx(1 - poisoned["test"]["accuracy"])
    assert clean["test"]["accuracy"] > 0.8


# 4. "Best" is the best ever of the run, also after a resume.


def test_best_is_the_best_ever_also_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def stop(self: Learner, event: str, tell: Callable[..., None] = Learner.tell) -> None:
        nonlocal rounds
        tell(self, event)
        rounds += event == "after_epoch"
        if rounds == 3 and event == "pause":
            rounds += 1
            raise KeyboardInterrupt

    words = (*BASE, "hyperparam.num_epochs=6", "hyperparam.learning_rate=0.4", "hyperparam.warmup=0.9")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "tell", stop)
        with pytest.raises(KeyboardInterrupt):
            run(mnist, "mnist", *words)
    result = run(mnist, "mnist", *words)
    folder = Path(result["run"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    best = checkpoint.load(folder / "best")
    assert best is not None
    assert best["score"][0] == pytest.approx(max(row["val_accuracy"] for row in rows))


# 5. Class names travel with the model: a split that lacks a class can't shift a label.


@given(missing=st.sets(st.sampled_from("abcdef"), max_size=5), split=st.sampled_from(["val", "test"]))
def test_a_split_that_lacks_a_class_shifts_no_label(
    missing: set[str], split: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    classes = tuple("abcdef")
    rows = [
        (index, label, part)
        for part in ("train", "val", "test")
        for index, label in enumerate(classes)
        if not (part == split and label in missing)
    ]
    root = tmp_path_factory.mktemp("set")
    pixels = np.stack([np.full((8, 8), index, dtype=np.uint8) for index, _, _ in rows])
    whole = packed.write(root, (pixels, [label for _, label, _ in rows], [part for _, _, part in rows]))
    dataset: Dataset = dataclasses.replace(whole, classes=classes)
    found = loader.load(dataset, Preprocess(size=8, resize=8, channels=1, mean=(0.0,), std=(1.0,)))
    for part in found.values():
        assert part.labels.tolist() == part.pixels[:, 0, 0, 0].tolist()
    shutil.rmtree(root)
