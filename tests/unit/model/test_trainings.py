"""Every model folder trains on a handful of items, in this process: what it chooses, leaves behind, and scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inflame import plugins
from inflame.model.engine import nets, switchboard
from inflame.model.engine.bundle import Predictor

NET = "test_resnet"  # timm's smallest

Does = Callable[..., dict[str, Any]]


@pytest.fixture
def does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Does:
    """Gives a model the words of a command; what it says last on stdout, with its stderr as `said`."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))  # nothing in it, so that no hub is asked
    monkeypatch.delenv("INFLAME_STARTED", raising=False)

    def call(model: str, *words: str, code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        ended = switchboard.main(plugins.model_folder(model), [*words, "--json"])
        out, err = capsys.readouterr()
        assert ended == code, err
        return {**json.loads(out.splitlines()[-1]), "said": err}

    return call


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Random weights of a tiny net that has names for more than our classes, as a file that looks pretrained."""
    torch.manual_seed(0)
    file = tmp_path / f"{NET}.untrained.safetensors"
    body: Any = nets.from_timm(NET, classes=2).body
    own = {"fc.weight": torch.randn(4, body.num_features), "fc.bias": torch.zeros(4)}
    save_file({**body.state_dict(), **own}, file)
    (tmp_path / "untrained_labels.txt").write_text("apple\nPrunus (plum)\nlime, Citrus\nowl\n")
    return file


def rungs(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ladder = json.loads((Path(found["run"]) / "status.json").read_text())["ladder"]
    return {rung["name"]: rung for rung in ladder}


def scored(does: Does, model: str, data: Path, found: dict[str, Any]) -> None:
    """The bundle alone says of the test split what the training said of it."""
    told = does(model, "score", str(data), f"output={found['run']}")
    assert told["accuracy"] == pytest.approx(found["test"]["accuracy"]), told
    assert told["n"] == found["test"]["n"]


def test_photos_climb_from_a_probe_to_the_whole_network(does: Does, photos: Path, weights: Path) -> None:
    words = ["hyperparam.num_epochs=2", "hyperparam.tail_batch_size=8", "hyperparam.trivial=true"]
    found = does("auto", "train", str(photos), *words, f"weights={weights}", "--explain")
    climbed = rungs(found)
    assert [*climbed][:3] == ["majority", "named", "probe"]
    assert {"tail", "whole"} <= set(climbed)
    assert {"road", "backbone", "size", "rung whole"} <= {row["choice"] for row in found["why"]}
    assert found["val"]["accuracy"] > 0.6  # three colours: random filters are enough
    scored(does, "auto", photos, found)
    answer = Predictor(Path(found["bundle"])).predict([(photos / "lime/lime_03.jpg").read_bytes()])[0]
    assert answer.label in {"apple", "lime", "plum"}


def test_photos_without_weights_get_a_small_net_of_their_own(does: Does, photos: Path) -> None:
    words = ["hyperparam.num_epochs=2", "hyperparam.mixup=0.2", "hyperparam.cutout=0.2", "hyperparam.ema=0.9"]
    found = does("auto", "train", str(photos), *words, "--explain")
    road = next(row for row in found["why"] if row["choice"] == "road")
    assert "a small net from scratch" in road["taken"], road
    scored(does, "auto", photos, found)
    refused = does("auto", "score", "digits", f"resume={found['run']}", code=2)
    assert "knows no class of digits (0, 1, 2 …); its own are apple, lime, plum." in refused["error"]


def test_fine_tuning_in_plain_sight_prunes_and_is_scored(does: Does, photos: Path, weights: Path) -> None:
    small = ["size=32", "num_epochs=1", "batch_size=8", "tune=tail", "prune=0.4"]
    words = [f"net={NET}", f"weights={weights}", *(f"hyperparam.{word}" for word in small)]
    found = does("fowl_classifier", "train", str(photos), *words)
    assert "pruned by 40%" in (Path(found["bundle"]) / "card.md").read_text()
    scored(does, "fowl_classifier", photos, found)


def test_of_a_picture_for_each_class_none_is_held_out_and_the_run_says_so(does: Does, photos: Path) -> None:
    for picture in photos.glob("*/*"):
        if not picture.stem.endswith("_00"):
            picture.unlink()
    small = [f"net={NET}", "hyperparam.size=32", "hyperparam.batch_size=8"]
    for model, words in (("fowl_classifier", small), ("mnist", []), ("cifar10_resnet18", small[:1])):
        found = does(model, "train", str(photos), "hyperparam.num_epochs=2", *words)
        assert "nan" not in found["said"]
        assert "3 items, those that it learned from" in found["said"]
        assert "held out" not in found["said"]


@pytest.mark.parametrize("model", ["mnist", "fowl_classifier"])
def test_texts_are_no_pictures(does: Does, tmp_path: Path, model: str) -> None:
    for name in ("hot", "cold"):
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "letters" / name / f"{number}.txt").write_text(f"{name} {number}")
    refused = does(model, "train", str(tmp_path / "letters"), code=2)
    assert refused["error"] == "letters holds texts, not pictures."
    assert refused["where"].endswith("letters")


def test_a_batch_size_is_found_by_trying_and_the_rate_follows(does: Does, photos: Path) -> None:
    words = [f"net={NET}", "hyperparam.num_epochs=1", "hyperparam.batch_size=auto", "hyperparam.ema=0.9"]
    found = does("cifar10_resnet18", "train", str(photos), *words)
    assert "batches of " in found["said"]
    scored(does, "cifar10_resnet18", photos, found)


def test_the_same_command_goes_on_where_it_was_and_ends_the_same(does: Does, tmp_path: Path) -> None:
    words = ["digits", "limit=300", f"output={tmp_path / 'run'}"]
    does("mnist", "train", *words, "hyperparam.num_epochs=2")
    run = tmp_path / "run"
    done = (run / "bundle/model.safetensors").read_bytes()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))
    again = does("mnist", "train", *words, "hyperparam.num_epochs=2")
    assert "going on where it stopped" in again["said"]
    assert (run / "bundle/model.safetensors").read_bytes() == done
    assert len(json.loads((run / "bundle/classes.json").read_text())) == 10


def test_a_setting_that_is_none_ends_with_a_guess(does: Does) -> None:
    told = does("mnist", "train", "digits", "hyperparam.num_epoch=2", code=2)
    assert "num_epochs" in told["said"]
    assert does("mnist", "train", "digts", code=2)["error"].endswith('Did you mean "digits"?')


def test_texts_are_told_apart_by_their_words(does: Does, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    themes = {"garden": "soil seed rose water spade", "ships": "keel mast sail port anchor"}
    for theme, words in themes.items():
        (tmp_path / "letters" / theme).mkdir(parents=True)
        for number in range(30):
            text = " ".join(rng.choice([*words.split(), "the", "a", "of", "and"], 30)) + f" {number}"
            (tmp_path / "letters" / theme / f"{number}.txt").write_text(text)
    found = does("news_text", "train", str(tmp_path / "letters"))
    assert found["test"]["accuracy"] > 0.8
    scored(does, "news_text", tmp_path / "letters", found)
