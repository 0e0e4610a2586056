import inspect
import pickle

import pytest

from inflame import errors
from inflame.errors import InflameError, MissingExtra, RunError, SettingError, UserError, did_you_mean, nearest

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, InflameError)]


def test_the_remedy_is_compulsory() -> None:
    with pytest.raises(TypeError, match="remedy"):
        UserError("it is wrong")  # type: ignore[call-arg]


def test_people_see_what_where_and_what_to_do() -> None:
    error = SettingError("seed=abc: seed must be a whole number.", where="command line: seed=abc", remedy="seed=1")
    assert error.explain() == (
        "error: seed=abc: seed must be a whole number.\n  where: command line: seed=abc\n  do: seed=1"
    )
    assert "where" not in UserError("No.", remedy="Do.").explain()
    assert error.to_json() == {"error": error.message, "where": error.where, "remedy": error.remedy}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_survives_a_trip_between_processes(kind: type[InflameError]) -> None:
    there = kind("what", remedy="way", where="place")
    back = pickle.loads(pickle.dumps(there))
    assert type(back) is kind
    assert (str(back), back.remedy, back.where, back.code) == ("what", "way", "place", there.code)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not InflameError])
def test_the_exit_code_says_whose_fault_it_is(kind: type[InflameError]) -> None:
    assert issubclass(kind, UserError) != issubclass(kind, RunError)
    assert kind("what", remedy="way").code == (2 if issubclass(kind, UserError) else 1)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.isidentifier() and word[0].isupper()}
    assert {kind.__name__ for kind in KINDS} <= drawn


def test_a_missing_extra_says_the_line_that_installs_it() -> None:
    assert MissingExtra("No torch.", extra="train").remedy == "pip install 'inflame[train]'"


@pytest.mark.parametrize(
    ("word", "guess"), [("mnits", "mnist"), ("CIFAR10", "cifar10"), ("zzz", None), ("", None), ("mnist", "mnist")]
)
def test_nearest(word: str, guess: str | None) -> None:
    assert nearest(word, ["mnist", "cifar10", "fowl"]) == guess
    assert did_you_mean(word, ["mnist", "cifar10", "fowl"]) == (f' Did you mean "{guess}"?' if guess else "")
