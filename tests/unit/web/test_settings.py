"""What a site may not be started with: anything by which strangers would become its owner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inflame.cli.main import main
from inflame.errors import UserError
from inflame.web.settings import Settings, loopback

TOKEN = "0123456789abcdef-secret"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0"),
        ({"proxy": True}, "--proxy"),
        ({"proxy": True, "hosts": ("localhost",)}, "--proxy"),
        ({"hosts": ("localhost", "birds.example")}, "--name birds.example"),
    ],
)
def test_others_need_a_token_to_be_kept_out_by(given: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as told:
        Settings(**given)
    assert told.value.where == where
    assert "INFLAME_WEB_TOKEN" in told.value.remedy
    assert where.split(maxsplit=1)[0] in told.value.remedy
    Settings(**given, token=TOKEN)
    Settings(**given, people=Path("people"))


def test_the_verb_says_so(fruit_bundle: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("INFLAME_WEB_TOKEN", raising=False)
    for words in (["--proxy"], ["--name", "birds.example"]):
        assert main(["serve", str(fruit_bundle), "--port", "0", *words]) == 2
        assert "INFLAME_WEB_TOKEN" in capsys.readouterr().err


def test_names_of_this_machine_need_none() -> None:
    assert Settings(hosts=("localhost", "127.0.0.1", "[::1]")).local


def test_the_token_is_the_only_word_that_opens() -> None:
    made = Settings(token=TOKEN)
    assert made.opens(TOKEN)
    for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\ud800" * len(TOKEN)):
        assert not made.opens(wrong)
    assert not Settings().opens("")


@pytest.mark.parametrize(
    ("address", "here"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True)),
        *(("0.0.0.0", False), ("10.0.0.1", False), ("127.0.0.1.evil.example", False), ("", False), ("::", False)),
    ],
)
def test_what_is_this_machine(address: str, here: bool) -> None:
    assert loopback(address) == here
