"""Whatever is typed arrives as it was typed, or is refused in one sentence; nothing else ever comes out."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inflame import config
from inflame.config import Hyperparam, Settings, words
from inflame.errors import SettingError

CODE = "def train(settings):\n    settings.io.training_input, settings.splits\n    settings.hyperparam.{}\n"

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
paths = text.filter(lambda path: path == path.strip() and "://" not in path and path[:1] not in ("'", '"'))
scalars = st.one_of(
    st.integers(-(2**62), 2**62), st.booleans(), text, st.floats(allow_nan=False, allow_infinity=False, width=64)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def make(folder: Path, value: Any) -> Path:
    # TOML writes these kinds as JSON does, but for escapes of control characters, which are left out here.
    (folder / "model-config.toml").write_text(f"[hyperparam]\nthing = {json.dumps(value, ensure_ascii=False)}\n")
    (folder / "train.py").write_text(CODE.format("thing"))
    return folder


def load(folder: Path, word: str) -> Settings | SettingError:
    try:
        return config.load(folder, [word])
    except SettingError as error:
        return error


@quick
@given(value=st.one_of(scalars, st.lists(st.integers(-99, 99), max_size=4)))
def test_a_value_of_the_file_arrives_and_goes_round(folder: Path, value: Any) -> None:
    loaded = config.load(make(folder, value))
    assert loaded.to_json()["hyperparam"]["thing"] == value
    assert Settings.from_json(json.loads(json.dumps(loaded.to_json()))) == loaded
    assert config.load(folder).identity() == loaded.identity()


@quick
@given(path=paths)
def test_a_path_arrives_as_it_was_typed(folder: Path, path: str) -> None:
    make(folder, 1)
    found = load(folder, f"io.training_input={path}")
    if isinstance(found, SettingError):  # only choice(…) and its like ask for several runs
        assert "sweep" in found.remedy
        assert path.endswith(")")
    else:
        assert found.io.training_input == path


@quick
@given(value=st.integers(-(10**9), 10**9))
def test_a_whole_number_arrives(folder: Path, value: int) -> None:
    make(folder, 1)
    assert config.load(folder, [f"hyperparam.thing={value}"]).hyperparam.thing == value


@quick
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_arrives(folder: Path, value: float) -> None:
    make(folder, 0.5)
    found = config.load(folder, [f"hyperparam.thing={value!r}"]).hyperparam.thing
    assert found == value
    assert type(found) is float


@quick
@given(word=st.one_of(text, st.builds(lambda key, value: f"{key}={value}", text, text)))
def test_any_word_is_taken_or_refused_in_one_sentence(folder: Path, word: str) -> None:
    make(folder, 1)
    found = load(folder, word)
    if isinstance(found, SettingError):
        assert found.message
        assert found.remedy
        assert found.where


@quick
@given(weights=st.dictionaries(st.sampled_from(["train", "val", "test", "dev", "é x"]), st.integers(1, 50), min_size=1))
def test_fractions_arrive(folder: Path, weights: dict[str, int]) -> None:
    make(folder, 1)
    total = sum(weights.values())
    word = "splits=" + ",".join(f"{name}:{weight / total!r}" for name, weight in weights.items())
    found = config.load(folder, [word]).splits
    assert found is not None
    assert list(found) == list(weights)
    assert math.isclose(sum(found.values()), 1)


@given(seconds=st.floats(0.001, 1e7))
def test_a_duration_in_seconds_is_itself(seconds: float) -> None:
    assert config.parse_duration(f"{seconds:.6f}s") == pytest.approx(seconds, abs=1e-6)


@given(values=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), scalars, max_size=5))
def test_hyperparam_goes_round(values: dict[str, Any]) -> None:
    h = Hyperparam(**values)
    assert Hyperparam.from_json(h.to_json()) == h
    assert dict(**h) == values


@given(st.one_of(st.text("0123456789+-.eE_", min_size=1, max_size=7), st.floats().map(repr), st.integers().map(str)))
def test_plain_numbers_are_what_hydra_makes_of_them(text: str) -> None:
    """They are read without Hydra, which takes its time."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        expected = True, OverridesParser.create().parse_override(f"key={text}").value()
    except (HydraException, ValueError):
        expected = False, None
    assert repr(words._parsed(words.Word(key="key", text=text))) == repr(expected)
