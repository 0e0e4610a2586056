"""Who has the token, what a cookie is good for, and how often a client may guess."""

from __future__ import annotations

import logging

import pytest

from inflame.web import door
from inflame.web.door import AGE, FREE, LONGEST, Door, Guesses, network
from inflame.web.problems import Problem
from inflame.web.settings import Settings

TOKEN = "0123456789abcdef-secret"


def test_a_cookie_is_not_the_token_and_ends() -> None:
    made = Door(Settings(token=TOKEN))
    cookie = made.cookie(now=1000)
    assert TOKEN not in cookie
    assert made.knows(cookie, now=1000)
    assert made.knows(cookie, now=1000 + AGE - 1)
    assert not made.knows(cookie, now=1000 + AGE)
    assert not Settings(token=TOKEN).opens(cookie)


def test_a_cookie_can_not_be_made_longer_and_goes_with_its_token() -> None:
    made = Door(Settings(token=TOKEN))
    until, _, seal = made.cookie(now=1000).partition(".")
    forged = (f"{int(until) + 1}.{seal}", f"0{until}.{seal}", until, f"{until}.", "", ".", TOKEN, f"²3.{seal}")
    assert not any(made.knows(one, now=1000) for one in forged)
    assert not made.knows(f"{'9' * 5000}.{seal}", now=1000)
    assert not made.knows(f"{until}.\udcff{seal}", now=1000)
    assert not Door(Settings(token=TOKEN + "x")).knows(f"{until}.{seal}", now=1000)
    assert Door(Settings(token=TOKEN)).knows(f"{until}.{seal}", now=1000)  # another replica of the site


def test_without_a_token_nothing_opens() -> None:
    made = Door(Settings())
    assert not made.opens("127.0.0.1", "")
    assert not made.knows(made.cookie())


def test_who_guesses_has_to_wait_longer_and_longer() -> None:
    guesses = Guesses()
    for _ in range(FREE):
        assert guesses.wrong("a", now=0) == 0
    assert [guesses.wrong("a", now=0) for _ in range(4)] == [30, 60, 120, 240]
    assert guesses.wait("a", now=100) == 140
    assert guesses.wait("a", now=240) == 0
    assert guesses.wait("b", now=0) == 0
    for _ in range(50):
        last = guesses.wrong("a", now=0)
    assert last == LONGEST
    assert guesses.wrong("a", now=2 * LONGEST + 1) == 0  # forgiven


def test_guesses_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_CLIENTS", 10)
    guesses = Guesses()
    for number in range(1000):
        guesses.wrong(str(number))
    assert len(guesses._wrong) == 10


def test_nobody_is_heard_while_he_waits_and_others_are(caplog: pytest.LogCaptureFixture) -> None:
    made = Door(Settings(token=TOKEN))
    caplog.set_level(logging.INFO, "inflame.audit")
    for number in range(FREE + 1):
        assert not made.opens("10.0.0.1", f"guess {number}")
    with pytest.raises(Problem) as told:
        made.opens("10.0.0.1", TOKEN)
    assert (told.value.status, told.value.reason) == (429, "locked")
    assert 0 < int(told.value.headers()["Retry-After"]) <= 30
    assert made.opens("10.0.0.2", TOKEN)
    lines = [vars(record) for record in caplog.records]
    assert [line["outcome"] for line in lines] == ["forbidden"] * FREE + ["locked out for 30 s"]
    assert {(line["who"], line["act"]) for line in lines} == {("10.0.0.1", "sign in")}
    assert "guess" not in str(lines)


def test_a_network_of_ipv6_is_one_client() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("10.0.0.1") == "10.0.0.1"
    assert network("no:address") == "no:address"
