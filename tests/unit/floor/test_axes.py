"""Settings with several values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame import plugins
from inflame.config import axes, load, neutral
from inflame.errors import DataError, SettingError

MNIST = plugins.model_folder("mnist")


def one(word: str) -> axes.Axis:
    (axis,) = axes.read(MNIST, [word]).axes
    return axis


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("hyperparam.batch_size=16,32", (16, 32)),
        ("seed=range(0,5)", (0, 1, 2, 3, 4)),
        ("seed=range(0,10,3)", (0, 3, 6, 9)),
        ("hyperparam.learning_rate=choice(1e-3,0.1)", (0.001, 0.1)),
        ("in=5s,1m", (5.0, 60.0)),
        ("io.training_input=mnist,digits", ("mnist", "digits")),
        ("hyperparam.batch_size=16,16,32", (16, 32)),
    ],
)
def test_choices(word: str, values: tuple[object, ...]) -> None:
    assert one(word).values == values


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("hyperparam.learning_rate=range(1e-4,1e-2,log)", (1e-4, 1e-2, True, False)),
        ("hyperparam.learning_rate=tag(log,interval(1e-4,1e-2))", (1e-4, 1e-2, True, False)),
        ("hyperparam.weight_decay=interval(0,1)", (0.0, 1.0, False, False)),
        ("hyperparam.batch_size=range(16,256,log)", (16, 256, True, True)),
    ],
)
def test_intervals(word: str, found: tuple[object, ...]) -> None:
    axis = one(word)
    assert (axis.low, axis.high, axis.log, axis.whole) == found
    assert not axis.finite
    assert axes.Axis.from_json(axis.to_json()) == axis


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("hyperparam.bach_size=16,32", "Did you mean"),
        ("hyperparam.batch_size=16,many", "many: hyperparam.batch_size must be"),
        ("hyperparam.ema=0.5,1.5", "1.5"),
        ("hyperparam.learning_rate=interval(-1,1)", "above 0"),
        ("hyperparam.weight_decay=range(0,1,log)", "no logarithm"),
        ("hyperparam.learning_rate=interval(2,1)", "empty"),
        ("seed=range(5,5)", "no value at all"),
        ("seed=range(0,1000000)", "more than 10,000"),
        ("net=a,b", "no effect"),
        ("io.training_input=interval(0,1)", "is an interval"),
        ("hyperparam.batch_size=glob(*)", "can't be understood|files to look for"),
        ("hyperparam.learning_rate=range(a,1,log)", "can't be understood"),
    ],
)
def test_what_is_refused(word: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        axes.read(MNIST, [word])


def test_one_value_is_fixed_and_the_last_word_wins() -> None:
    told = axes.read(
        MNIST, ["seed=1,2", "hyperparam.ema=0.9", "seed=3", "hyperparam.shift=0,1", "tracker=mlflow,wandb"]
    )
    assert told.fixed == ("hyperparam.ema=0.9", "seed=3", "tracker=mlflow,wandb")
    assert [axis.key for axis in told.axes] == ["hyperparam.shift"]
    assert told.settings.seed == 3


def test_a_path_with_a_comma_is_one(tmp_path: Path) -> None:
    place = tmp_path / "a,b"
    place.mkdir()
    assert axes.read(MNIST, [f"io.training_input={place}"]).axes == ()


@given(st.floats(1e-6, 10), st.integers(1, 10**6), st.integers(0, 2**32 - 1))
def test_a_value_as_a_word_is_read_as_that_value(rate: float, batch: int, seed: int) -> None:
    told = {"hyperparam.learning_rate": rate, "hyperparam.batch_size": batch, "seed": seed}
    settings = load(MNIST, [axes.text(key, value) for key, value in told.items()])
    assert settings.hyperparam.learning_rate == rate
    assert (settings.hyperparam.batch_size, settings.seed) == (batch, seed)


@pytest.mark.parametrize("value", ["/a b/c", "it's", "a,b", "x=1", "plain", "ä/ö", "a:b", "{a}"])
def test_texts_as_words(value: str) -> None:
    assert load(MNIST, [axes.text("io.training_input", value)]).io.training_input == value


def test_what_the_recipe_itself_says_of_the_space() -> None:
    told = axes.read(MNIST, ["hyperparam.learning_rate=range(1e-4,1,log)", "hyperparam.shift=7,8", "seed=0,1"])
    assert told.own == {"hyperparam.learning_rate": 1e-2, "seed": 0}, "a shift of 7 or 8 is not its own"


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lr.yaml"
    file.write_text("hyperparam:\n  learning_rate: range(1e-4,1e-2,log)\n  shift: [0, 1]\nseed: 3\n")
    told = axes.read(MNIST, axes.from_file(file))
    assert [axis.key for axis in told.axes] == ["hyperparam.learning_rate", "hyperparam.shift"]
    assert told.fixed == ("seed=3",)
    for text, says in (("a: [", "not valid YAML"), ("[1, 2]", "holds no settings"), ("", "holds no settings")):
        file.write_text(text)
        with pytest.raises(DataError, match=says):
            axes.from_file(file)


@pytest.mark.parametrize(
    ("name", "value", "off"),
    [
        ("weight_decay", 0.1, 0.0),
        ("tail_weight_decay", 0.05, 0.0),
        ("tail_decay", 0.7, 1.0),
        ("shift", 2, 0),
        ("shift", 0, None),
        ("mirror", True, False),
        ("mirror", False, None),
        ("ema", "auto", 0),
        ("learning_rate", 0.1, None),
        ("batch_size", 32, None),
        ("confidence", 0.95, None),
    ],
)
def test_what_switches_a_part_off(name: str, value: object, off: object) -> None:
    found = neutral.off(name, value)
    assert (found, type(found)) == (off, type(off))
