"""The monitor's settings: defaults, then the file here or at home, then words; what is wrong is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflame import store
from inflame.cli.main import parser
from inflame.errors import SettingError
from inflame.monitor import rules
from inflame.monitor.drift import TOLERANCE

TEXT = """# Who is told, and when
window = 100
tolerance = 0.03
to = ["https://hooks.example.org/a"]

[alert]
unknown = 0.2
silence = "6h"
risk = false
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a folder that one is in; inflame's home is another."""
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "home"))
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / rules.FILE


def test_without_a_file_the_usual_ones_hold(here: Path) -> None:
    assert rules.load() == rules.Rules()
    assert (rules.load().tolerance, rules.load().risk, rules.load().window) == (TOLERANCE, True, 200)


def test_words_win_over_the_file_and_the_file_here_over_that_at_home(here: Path) -> None:
    store.write(store.home() / rules.FILE, "window = 50\ntolerance = 0.1\n")
    assert rules.load().window == 50
    here.write_text(TEXT)
    found = rules.load(["alert.unknown=0.1", "alert.latency=2s", "alert.silence=null"])
    assert (found.window, found.tolerance, found.to) == (100, 0.03, ("https://hooks.example.org/a",))
    assert (found.unknown, found.latency, found.silence, found.risk) == (0.1, 2.0, None, False)


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("[alert]\nunkown = 0.2", 'Did you mean "alert.unknown"', 2),
        ("tolerance = 1.5", "at least 0 and below 1", 1),
        ("window = 3", "at least 10", 1),
        ("\n\n[alert]\nsilence = 'soon'", "a length of time", 4),
        ("to = 'https://x'", "must be a list", 1),
        ("to = ['smtp://me:hush@host/me@x.org']", "come from the environment", 1),
        ("[alarm]\nrisk = true", 'Did you mean "alert.risk"', 2),
        ("window == 3", "not valid TOML", 1),
    ],
)
def test_what_is_wrong_is_said_with_its_line(here: Path, text: str, says: str, line: int) -> None:
    here.write_text(text)
    with pytest.raises(SettingError) as refused:
        rules.load()
    assert says in refused.value.message
    assert refused.value.where == f"{here}:{line}"
    assert "hush" not in refused.value.explain()


def test_a_wrong_word_is_said(here: Path) -> None:
    with pytest.raises(SettingError, match="whole number") as refused:
        rules.load(["window=many"])
    assert refused.value.where == "command line: window=many"


def test_every_setting_is_in_the_help() -> None:
    text = parser("monitor").format_help()
    assert all(name in text for name in rules.KEYS)
