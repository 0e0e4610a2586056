"""The parts of `auto`: the recipe that depends on the time, unequal classes, the mean of two nets, mixed batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inflame import config, plugins
from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.errors import SettingError
from inflame.model.auto import balance, ladder, mixing, pairs, plan, recipe, small, soup, tail
from inflame.model.auto.cutting import Cut
from inflame.model.auto.recipe import Recipe
from inflame.model.engine import nets
from inflame.model.engine.conclude import Model
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.reasons import Reasons
from inflame.records import Preprocess


def settings(*words: str) -> Settings:
    return config.load(plugins.model_folder("auto"), words)


# --- the recipe -----------------------------------------------------------------------------------------

MADE = (recipe.small, recipe.whole)


@pytest.mark.parametrize("made", MADE)
def test_a_short_training_is_held_back_by_little_and_a_long_one_by_more(made: Any) -> None:
    h = settings().hyperparam
    short, long = made(3.0, h), made(200.0, h)
    assert (short.mixup, short.cutmix, short.cutout) == (0.0, 0.0, 0.0)
    assert long.label_smoothing >= short.label_smoothing
    assert (long.words() != short.words()) == (made is recipe.small)
    assert "3 epochs" in short.why
    assert "200 epochs" in long.why


@given(st.floats(0.1, 500), st.floats(0.1, 500), st.sampled_from(MADE))
def test_more_time_never_takes_anything_away(one: float, other: float, made: Any) -> None:
    fewer, more = (made(epochs, settings().hyperparam) for epochs in sorted((one, other)))
    for name in ("label_smoothing", "ema", "mixup", "cutmix", "cutout"):
        assert getattr(more, name) >= getattr(fewer, name)


@pytest.mark.parametrize("made", MADE)
def test_what_the_user_sets_wins_and_is_said(made: Any) -> None:
    given = settings("hyperparam.mixup=0.3", "hyperparam.label_smoothing=0", "hyperparam.ema=auto").hyperparam
    for epochs in (1.0, 300.0):
        found = made(epochs, given)
        assert (found.mixup, found.label_smoothing) == (0.3, 0.0)
        assert "as you set: label_smoothing, mixup" in found.why


def test_a_number_out_of_range_is_refused_and_auto_is_named() -> None:
    with pytest.raises(SettingError, match="or auto"):
        settings("hyperparam.label_smoothing=1.5")
    with pytest.raises(SettingError, match="label_smoothing"):
        settings("hyperparam.label_smoothing=-0.5")


def test_a_recipe_goes_through_json() -> None:
    found = recipe.small(50.0, settings().hyperparam)
    assert Recipe.from_json(found.to_json()) == found


# --- unequal classes ------------------------------------------------------------------------------------


class Silent:
    """A session for a ladder that nobody watches."""

    def __init__(self) -> None:
        self.settings, self.said = settings(), []
        self.run: Any = self
        self.resumed, self.seconds = False, 0.0
        self.reasons = Reasons(self.run)

    def say(self, *words: str) -> None:
        self.said.append(" ".join(words))

    def status(self, **fields: Any) -> None:
        pass

    def read_status(self) -> dict[str, Any]:
        return {}


# --- the batch size -------------------------------------------------------------------------------------


class Timed(Silent):
    """A session with some time left, which says how a batch size would be looked for."""

    def __init__(self, seconds: float, *words: str) -> None:
        super().__init__()
        self.settings, self.each, self.seconds = settings(*words), 1e-4, seconds
        self.asked: dict[str, Any] = {}

    def left(self) -> float:
        return self.seconds

    def sized(self, net: Any, few: Any, criterion: Any, device: Any, **asked: Any) -> Any:
        self.asked = asked
        return few.sized(asked["most"])


@pytest.mark.parametrize(
    ("place", "seconds", "words", "name", "size", "why"),
    [
        ("cpu", 60.0, [], "batch size", 128, "tuned with on a CPU"),
        ("cuda", 60.0, [], "batch size", 600, ""),  # 600,000 pictures in all
        ("cuda", 1e9, [], "batch size", 1024, ""),  # eight times the usual
        ("cuda", 1.0, [], "batch size", 128, ""),
        ("cuda", 60.0, ["hyperparam.batch_size=64"], "batch size", 64, "as you set"),
        ("cuda", 60.0, ["hyperparam.batch_size=64"], "batch size of pairs", 600, ""),
    ],
)
def test_batches_grow_on_a_gpu_as_long_as_steps_are_left(
    place: str, seconds: float, words: list[str], name: str, size: int, why: str
) -> None:
    session, pixels = Timed(seconds, *words), torch.zeros(3000, 1, 1, 1, dtype=torch.uint8)
    pictures = Pictures(pixels=pixels, labels=torch.zeros(3000, dtype=torch.int64), uris=("",) * 3000)
    usual = session.settings.hyperparam.batch_size if name == "batch size" else 0
    few = loader.Batches(pictures, Preprocess(size=1, resize=1, channels=1), batch_size=usual or 128)
    net, device = torch.nn.Identity(), SimpleNamespace(place=torch.device(place))
    found = small._size(session, net, few, net, device, 50_000, name)  # type: ignore[arg-type]
    assert found == size
    assert bool(session.asked) != bool(why)
    assert why in "".join(row["why"] for row in session.reasons.why)


def test_few_pictures_are_one_batch_and_rates_are_those_of_the_usual_one() -> None:
    assert pairs.rates(pairs.BATCH) == {"items": 256, "rate": 0.085, "sgd": 8.3e-4 * 256}
    assert pairs.rates(1024)["rate"] == pytest.approx(0.17)
    assert pairs.rates(1024)["sgd"] == pytest.approx(4 * 8.3e-4 * 256)


def model(counts: Sequence[int], seed: int = 0) -> Model:
    """A linear net that knows two overlapping clouds as well as can be, by how often it met each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    x = rng.normal(size=(len(labels), 2)).astype(np.float32) + 1.6 * np.stack([labels, -labels], 1).astype(np.float32)
    net = nets.Classifier(torch.nn.Identity(), torch.nn.Linear(2, len(counts), bias=False), {"kind": "x"})
    given, truth = torch.from_numpy(np.c_[x]), torch.from_numpy(labels)
    bias = torch.zeros(len(counts), requires_grad=True)
    optimizer = torch.optim.LBFGS([net.head.weight, bias], max_iter=100)  # type: ignore[list-item]

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(given) + bias, truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    head = torch.nn.Linear(2, len(counts))
    with torch.no_grad():
        head.weight.copy_(net.head.weight)  # type: ignore[arg-type]
        head.bias.copy_(bias)
    net = nets.Classifier(torch.nn.Identity(), head, {"kind": "x"})
    with torch.inference_mode():
        logits = net(given).numpy()
    return Model(
        net=net,
        preprocess=Preprocess(size=16, resize=16),
        logits=logits,
        embedding=x,
        labels=labels,
        uris=tuple(map(str, range(len(labels)))),
        splits=("val",) * len(labels),
        how="linear",
    )


def test_unequal_classes_are_corrected_where_held_out_items_say_so() -> None:
    from inflame.model.engine import metrics

    given = model((900, 60))
    watched = ladder.Ladder(Silent())  # type: ignore[arg-type]
    found = balance.balanced(watched, given, given.labels, classes=2)
    assert found is not given
    before, after = (metrics.balanced(given.labels, one.logits.argmax(1)) for one in (given, found))
    assert after > before + 0.02
    with torch.inference_mode():  # what is served is what was measured
        np.testing.assert_allclose(found.net(torch.from_numpy(given.embedding)).numpy(), found.logits, atol=1e-5)
    assert "balanced accuracy" in watched.rungs[-1]["note"]
    assert "unequal classes" in found.how


def test_equal_classes_and_a_model_that_needs_nothing_are_left_alone() -> None:
    watched = ladder.Ladder(Silent())  # type: ignore[arg-type]
    equal = model((300, 200))
    assert balance.balanced(watched, equal, equal.labels, classes=2) is equal
    assert watched.rungs == []
    # Answers that are corrected already: doing it again is worse.
    unequal = model((900, 60))
    once = dataclasses.replace(unequal, logits=unequal.logits + balance.offsets(unequal.labels, 2))
    assert balance.balanced(watched, once, once.labels, classes=2) is once
    assert watched.rungs[-1]["accepted"] is False


def test_a_net_without_a_bias_gets_one_that_its_spec_knows() -> None:
    net = nets.small(size=16, channels=1, classes=3)
    by = np.array([0.5, -1.0, 2.0], np.float32)
    moved, x = balance.shifted(net, by), torch.randn(4, 1, 16, 16)
    net.eval(), moved.eval()
    torch.testing.assert_close(moved(x), net(x) + torch.from_numpy(by))
    again = nets.build(moved.spec)
    again.load_state_dict(moved.state_dict())
    torch.testing.assert_close(again.eval()(x), moved(x))
    assert net.head.bias is None


def test_in_an_even_comparison_the_few_count_as_much_as_the_many() -> None:
    labels = np.array([0] * 190 + [1] * 10)
    often = np.tile([4.0, 0.0], (200, 1))
    fair = often.copy()
    fair[190:] = [0.0, 4.0]  # all of the few are found …
    fair[:20] = [0.0, 4.0]  # … and a few of the many lost
    assert not ladder.compare(often, fair, labels).better
    assert ladder.compare(often, fair, labels, even=True).better


# --- soup and mixing ------------------------------------------------------------------------------------


def test_a_soup_is_the_mean_and_leaves_both_as_they_are() -> None:
    one, other = nets.small(size=16, channels=1, classes=3), nets.small(size=16, channels=1, classes=3)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    both = soup.stirred([one, other]).state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, before[name])
        if value.is_floating_point():
            torch.testing.assert_close(both[name], (value + other.state_dict()[name]) / 2)


def batches() -> loader.Batches:
    pixels = torch.randint(0, 256, (40, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = Pictures(pixels=pixels, labels=torch.arange(40) % 4, uris=tuple(map(str, range(40))))
    return loader.Batches(pictures, Preprocess(size=8, resize=8, channels=1), batch_size=8, shuffle=True)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_batches_go_on_where_they_were(mixup: float, cutmix: float) -> None:
    plain = batches()
    mixed = mixing.mixed(plain, classes=4, mixup=mixup, cutmix=cutmix)
    assert len(mixed) == len(plain) == 5
    whole, rest = list(mixed.epoch(3)), list(mixed.epoch(3, 2))
    for (x, y), (u, v) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    for x, y in whole:
        assert y.shape == (len(x), 4)
        torch.testing.assert_close(y.sum(1), torch.ones(len(x)))
    assert any(not torch.equal(x, given) for (x, _), (given, _) in zip(whole, plain.epoch(3), strict=True))


def test_without_mixing_the_loader_stays_itself() -> None:
    plain = batches()
    assert mixing.mixed(plain, classes=4, mixup=0.0, cutmix=0.0) is plain


def test_names_of_a_label_list_are_matched_whole(tmp_path: Path) -> None:
    from inflame.model.auto import naming

    assert "monarch" in naming.names_of("Danaus plexippus (Monarch)")
    assert "tinca tinca" in naming.names_of("tench, Tinca tinca")
    assert "swallowtail" not in naming.names_of("Papilio polyxenes (Black Swallowtail)")
    assert naming.plain("black_swallowtail") == "black swallowtail"


# --- which small net ------------------------------------------------------------------------------------


def road(side: int = 32, channels: int = 3) -> plan.Road:
    return plan.Road(small=True, side=side, channels=channels, middle=side)


def test_the_net_of_the_speed_runs_is_for_many_colour_photos_and_enough_time() -> None:
    assert pairs.suits(road(), 45_000, 6.0)
    assert not pairs.suits(road(), 45_000, 2.0)
    assert not pairs.suits(road(), 2_000, 60.0)
    assert not pairs.suits(road(channels=1), 45_000, 60.0)
    assert not pairs.suits(road(side=64), 45_000, 60.0)


def test_what_was_chosen_is_said_and_a_name_that_does_not_exist_is_refused() -> None:
    session = Silent()
    kind = partial(small._kind, session)  # type: ignore[arg-type]
    assert kind(road(), 45_000, 6.0) == "pairs"
    assert session.reasons.why[-1]["taken"] == "pairs of convolutions, Muon"
    assert kind(road(channels=1), 45_000, 6.0) == "narrow"
    assert kind(road(channels=1), 45_000, 60.0) == "simple"
    assert kind(road(), 45_000, 3.0) == "simple"
    session.settings = settings("hyperparam.small_net=simple")
    assert kind(road(), 45_000, 6.0) == "simple"
    session.settings = settings("hyperparam.small_net=pears")
    with pytest.raises(SettingError, match="pairs"):
        kind(road(), 45_000, 6.0)


def test_it_learns_from_pictures_that_grow() -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (96, 32, 32, 3), dtype=torch.uint8, generator=rng)
    labels = torch.arange(96) % 3
    for label in range(3):
        pixels[labels == label, ..., label] += 90
    pictures = Pictures(pixels=pixels, labels=labels, uris=tuple(map(str, range(96))))
    batches = loader.Batches(pictures, Preprocess(size=32, resize=32), batch_size=48, shuffle=True)
    net, growing, seen = pairs.build(road(), 3), pairs.growing(road()), []
    net.body.register_forward_pre_hook(lambda module, x: seen.append(x[0].shape[-1]))
    learner = Learner(
        net=net,
        criterion=torch.nn.CrossEntropyLoss(),
        optimizer=pairs.optimizer(net),
        train_loader=batches,
        step=growing,
        device=One("cpu", "fp32"),
        hooks=[growing],
    )
    row = learner.fit(4)
    assert sorted(set(seen)) == [24, 28, 32]
    assert seen == sorted(seen)
    assert row["accuracy"] > 0.9


def test_several_tails_only_where_photos_are_few_and_time_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = Silent()
    session.kept = lambda name, decide: decide()
    labels = np.arange(80) % 4
    cut = Cut(activations=np.zeros((1, 80, 2), np.float16), labels=labels, features=np.zeros((1, 80, 2), np.float32))
    val = np.arange(80) >= 60
    monkeypatch.setattr(tail, "_epochs", lambda *given: 1000.0)
    part = tail.parts(session, None, cut, np.arange(80), val)  # type: ignore[arg-type]
    assert sorted(set(part.tolist())) == [0, 1, 2, 3]
    assert np.bincount(part).tolist() == [20, 20, 20, 20]
    monkeypatch.setattr(tail, "_epochs", lambda *given: 10.0)
    part = tail.parts(session, None, cut, np.arange(80), val)  # type: ignore[arg-type]
    assert part.tolist() == [1] * 60 + [0] * 20
