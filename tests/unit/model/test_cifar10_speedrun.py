"""The speed run: its net, its looks, its clocks, and the whole road on a few photos."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from inflame import config, plugins
from inflame.artifact import loader
from inflame.model.cifar10_speedrun import clocks, net, train
from inflame.model.engine import nets


@pytest.fixture
def tiny() -> nets.Classifier:
    torch.manual_seed(0)
    return net.build(5, (12, 8, 8)).eval()


@pytest.mark.parametrize("side", [24, 28, 32])
def test_the_net_takes_pictures_as_they_grow(tiny: nets.Classifier, side: int) -> None:
    assert tiny(torch.randn(2, 3, side, side)).shape == (2, 5)


def test_filters_begin_as_copies_and_scales_stay_one(tiny: nets.Classifier) -> None:
    first = tiny.body[2].weight  # type: ignore[index]
    assert torch.equal(first[:8, :, 1, 1], torch.eye(12)[:8])
    norms = [module for module in tiny.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 4
    assert not any(norm.weight.requires_grad for norm in norms)
    assert all(norm.bias.requires_grad for norm in norms)


def test_a_still_picture_is_looked_at_six_times(tiny: nets.Classifier) -> None:
    flat = torch.ones(2, 3, 32, 32) * torch.tensor([0.3, -1.0])[:, None, None, None]
    with torch.inference_mode():
        assert torch.allclose(net.looks(tiny, flat), tiny(flat), atol=1e-5)
        x = torch.randn(4, 3, 32, 32)
        assert not torch.allclose(net.looks(tiny, x), tiny(x), atol=1e-4)


def test_six_looks_go_to_the_least_sure_and_to_nobody_else(tiny: nets.Classifier) -> None:
    x = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        once, full, found = tiny(x), net.looks(tiny, x), net.selective(tiny, x, 0.25)
        everybody, nobody = net.selective(tiny, x, 1.0), net.selective(tiny, x, 0.0)
    least = once.softmax(1).amax(1).argsort()[:10]
    others = torch.ones(40, dtype=torch.bool).index_fill(0, least, False)
    assert torch.allclose(found[least], full[least], atol=1e-5)
    assert torch.equal(found[others], once[others])
    assert torch.allclose(everybody, full, atol=1e-5)
    assert torch.equal(nobody, once)


def test_the_first_run_is_the_first_and_later_ones_are_cold(tmp_path: Path) -> None:
    watch = clocks.Clocks(torch.device("cpu"))
    with watch.running():
        time.sleep(0.01)
    file = tmp_path / "kept.json"
    first, second, third = (watch.read(file, seconds) for seconds in (90.0, 12.0, None))
    assert (first["first"], first["cold"]) == (90.0, None)
    assert (second["first"], second["cold"]) == (90.0, 12.0)
    assert (third["first"], third["cold"]) == (90.0, None)
    assert first["warm"] >= 0.01
    assert clocks.said(first).endswith("cold with cached compile not seen, first ever 90.00 s")


def test_a_clock_that_goes_on_counts_what_was_before(tmp_path: Path) -> None:
    watch, again = clocks.Clocks(torch.device("cpu")), clocks.Clocks(torch.device("cpu"))
    with watch.running():
        time.sleep(0.01)
        state = watch.state_dict()
    again.load_state_dict(state)
    assert 0.01 <= again.warm <= watch.warm
    assert again.read(tmp_path / "none.json", None) == {"warm": again.warm, "cold": None, "first": None}


def test_the_whole_road(tmp_path: Path, photos: Path) -> None:
    words = [
        f"io.training_input={photos}",
        f"output={tmp_path / 'run'}",
        "hyperparam.num_epochs=3",
        "hyperparam.batch_size=8",
        "hyperparam.widths=[12,8,16]",
        "hyperparam.learning_rate=0.1",
    ]
    result = train.train(config.load(plugins.model_folder("cifar10_speedrun"), words))
    assert result["selective"]["n"] == result["test"]["n"]
    assert result["clocks"]["warm"] > 0
    assert result["clocks"]["cold"] is None
    assert result["clocks"]["first"] > 0
    about = json.loads((tmp_path / "run/bundle/bundle.json").read_text())
    assert about["net"]["kind"] == "paired"
    assert about["net"]["mirrored"]
    assert nets.build(about["net"])(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epoch"] == 3
    said = (tmp_path / "run/log.txt").read_text()
    assert "clocks   warm" in said
    assert "not served" in said


def test_the_stem_is_whitened_from_wherever_the_pictures_are(tiny: nets.Classifier) -> None:
    pixels = torch.randint(0, 256, (50, 32, 32, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    x = loader.normalise(pixels, train.PICTURES)
    nets.whiten(tiny, x, floor=0.0)
    stem = tiny.body[0]  # type: ignore[index]
    answers = stem(x)[:, :6].permute(1, 0, 2, 3).reshape(6, -1)
    assert torch.allclose(answers @ answers.T / answers.shape[1], torch.eye(6), atol=0.05)
