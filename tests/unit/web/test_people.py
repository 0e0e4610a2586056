"""People with passwords: what is kept of them, who is let in, and what guessing costs whom; over a real server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import io
import logging
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from inflame.cli.main import main
from inflame.errors import UserError
from inflame.monitor.log import Log
from inflame.web import door, people
from inflame.web.door import COOKIE, FREE, STRAY, Door, Owner
from inflame.web.people import Hash, People
from inflame.web.problems import Problem
from inflame.web.settings import Settings

Serve = Callable[..., httpx.Client]
ANNA, BOB = "correct horse of Anna", "another horse of Böb"
PAGE = {"Accept": "text/html"}


def light(password: str) -> Hash:
    """One that costs little."""
    blank = Hash(n=2**14, p=1, salt=b"salt of the test", key=b"")
    return dataclasses.replace(blank, key=blank._made(password))


def write(file: Path, **passwords: str) -> Path:
    with people.changed(file) as found:
        found.clear()
        found.update({name: light(password) for name, password in passwords.items()})
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "people", anna=ANNA, bob=BOB)


def sign_in(client: httpx.Client, name: str = "anna", password: str = ANNA, **heads: str) -> httpx.Response:
    return client.post("/token", data={"name": name, "password": password}, headers=heads)


# --- what is kept --------------------------------------------------------------------------------


def test_a_hash_is_text_with_its_cost_and_fits_one_password() -> None:
    made = Hash.of(ANNA)
    text = str(made)
    assert text.startswith("$scrypt$ln=15,r=8,p=3$")
    assert "horse" not in text + repr(made)
    assert str(Hash.of(ANNA)) != text  # salted
    assert Hash.read(text) == made
    assert [made.fits(word) for word in (ANNA, ANNA + " ", ANNA.upper(), "", "\ud800" * 20)] == [True] + [False] * 4
    assert light("Ö" * 12).fits("O\u0308" * 12)  # another keyboard


@pytest.mark.parametrize(
    "text",
    [
        "$scrypt$ln=30,r=8,p=3$agt5uPhpbymkiBmfosCe1A$1HYLSuQCriUAl3fFn/to4QrbqDXUVRwhy3mANiHIOZ8",  # 1 TB
        "$scrypt$ln=15,r=8,p=99$agt5uPhpbymkiBmfosCe1A$1HYLSuQCriUAl3fFn/to4QrbqDXUVRwhy3mANiHIOZ8",
        "$scrypt$ln=10,r=8,p=1$agt5uPhpbymkiBmfosCe1A$1HYLSuQCriUAl3fFn/to4QrbqDXUVRwhy3mANiHIOZ8",
        "$scrypt$ln=15,r=8,p=0$agt5uPhpbymkiBmfosCe1A$1HYLSuQCriUAl3fFn/to4QrbqDXUVRwhy3mANiHIOZ8",
        "$scrypt$ln=15,r=8,p=3$agt5uPhpbymkiBmfosCe1A$short",
        "$scrypt$ln=15,r=8,p=3$$1HYLSuQCriUAl3fFn/to4QrbqDXUVRwhy3mANiHIOZ8",
        "correct horse of Anna",
        "",
    ],
)
def test_a_file_of_something_else_is_refused_without_its_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "people"
    file.write_text(f"bob:{light(BOB)}\nanna:{text}\n")
    with pytest.raises(UserError) as told:
        people.read(file)
    assert "Line 2" in told.value.message
    assert "horse" not in told.value.explain()
    file.write_text(f"bob:{light(BOB)}\n" * 2)
    with pytest.raises(UserError):
        people.read(file)


def test_the_verb_keeps_them_for_its_owners_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "those" / "people"

    def verb(*words: str, typed: str = "") -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return main(["people", *words, "--file", str(file)])

    assert verb() == 0
    assert capsys.readouterr().out == "nobody\n"
    assert verb("add", "bob", typed=BOB + "\n") == 0
    assert verb("add", "anna", typed=ANNA) == 0
    assert capsys.readouterr().out == "bob\nanna\nbob\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert people.read(file)["anna"].fits(ANNA)
    before = file.read_bytes()
    for words, typed in (
        (("add", "anna"), "short"),
        (("add", "a:b"), ANNA),
        (("add", "a b"), ANNA),
        (("add", ""), ANNA),
        (("add",), ANNA),
        (("remove", "ann"), ""),
        (("list", "anna"), ""),
        (("forget", "anna"), ""),
    ):
        assert verb(*words, typed=typed) == 2
    assert 'Did you mean "anna"?' in (told := capsys.readouterr().err)
    assert "horse" not in told
    assert file.read_bytes() == before
    assert verb("remove", "bob") == 0
    assert list(people.read(file)) == ["anna"]
    assert [one.name for one in file.parent.iterdir()] == ["people"]


def test_a_site_needs_people_to_be_there(
    fruit_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for named in (tmp_path / "nowhere", empty):
        assert main(["serve", str(fruit_bundle), "--port", "0", "--people", str(named)]) == 2
        assert "inflame people add NAME" in capsys.readouterr().err


# --- who is let in -------------------------------------------------------------------------------


def test_a_person_is_the_owner_until_the_password_is_another(
    serve: Serve, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client, other = serve(people=file), serve(people=file)
    assert client.get("/metrics").status_code == 403  # this machine or not
    assert sign_in(client, password=BOB).status_code == 403
    reply = sign_in(client)
    assert (reply.status_code, reply.headers["location"]) == (303, "/about")
    assert {"HttpOnly", "SameSite=strict"} <= set(reply.headers["set-cookie"].split("; "))
    assert client.get("/metrics").status_code == 200
    page = client.get("/token", headers=PAGE).text
    assert "You are signed in as anna." in page
    other.cookies.set(COOKIE, client.cookies[COOKIE])
    assert other.get("/metrics").status_code == 200  # another replica of the site
    write(file, anna=ANNA, bob=BOB)  # the same words, by chance with the same salt
    assert client.get("/metrics").status_code == 200
    write(file, anna=ANNA + "!", bob=BOB)
    assert client.get("/metrics").status_code == 403
    assert sign_in(client).status_code == 403
    assert sign_in(client, password=ANNA + "!").status_code == 303
    write(file, bob=BOB)
    assert [one.get("/metrics").status_code for one in (client, other)] == [403, 403]
    assert sign_in(client, password=ANNA + "!").status_code == 403
    file.unlink()
    assert sign_in(client, "bob", BOB).status_code == 403  # nobody is let in by chance
    told = [vars(line) for line in caplog.records if line.name.startswith("inflame")]
    assert "horse" not in str(told)
    signed = [(one.get("person", ""), one["outcome"]) for one in told if one.get("act") == "sign in"]
    assert signed[:2] == [("anna", "forbidden"), ("anna", "done")]


def test_what_is_typed_into_the_wrong_field_is_not_told(
    serve: Serve, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert sign_in(serve(people=file), ANNA, "anna").status_code == 403
    assert "horse" not in str([vars(line) for line in caplog.records if line.name.startswith("inflame")])


def test_a_cookie_is_of_one_person_and_one_way(file: Path) -> None:
    made = Door(Settings(people=file))
    cookie = made.cookie(Owner("password", "anna"), now=1000)
    assert made.knows(cookie, now=1000) == Owner("password", "anna")
    assert made.knows(cookie, now=1000 + door.AGE) is None
    until, way, name, seal = cookie.split(".")
    bob = made.cookie(Owner("password", "bob"), now=1000).split(".")[2]
    forged = ("", f".openid.{name}", f".{way}.{bob}", f".{way}.", f".{way}")
    assert [made.knows(f"{until}{one}.{seal}", now=1000) for one in forged] == [None] * 5
    assert [made.knows(f"{until}.{way}.é.{seal}"), made.knows(f"{until}.{way}.{name}.")] == [None] * 2
    both = Door(Settings(people=file, token="0123456789abcdef"))
    assert both.knows(cookie, now=1000) == Owner("password", "anna")
    assert both.knows(both.cookie(now=1000), now=1000) == Owner("token")
    assert Door(Settings(token="0123456789abcdef")).knows(cookie, now=1000) is None


def test_a_name_that_is_not_there_costs_as_much(file: Path) -> None:
    """By the work that is done, and not by a clock, which says little on a busy machine."""
    asked = People(file)
    known, there = asked.asked("anna")
    unknown, not_there = asked.asked("nobody")
    assert (there, not_there) == (True, False)
    assert (known.n, known.r, known.p) == (unknown.n, unknown.r, unknown.p)
    made = Door(Settings(people=file))
    tried: list[str] = []
    original = Hash.fits

    def fits(self: Hash, password: str) -> bool:
        tried.append(password)
        return original(self, password)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hash, "fits", fits)
        for name in ("anna", "nobody", ANNA, "\ud800", "x" * 5000):
            assert asyncio.run(made.lets_in("10.0.0.1", name, "wrong")) is None
    assert tried == ["wrong"] * 5


# --- guessing ------------------------------------------------------------------------------------


def test_who_guesses_a_password_has_to_wait(serve: Serve, file: Path) -> None:
    client = serve(people=file, token="0123456789abcdef", proxy=True)
    for number in range(FREE + 1):
        name = "anna" if number % 2 else "nobody"
        assert sign_in(client, name, "guess").status_code == 403
    reply = sign_in(client)
    assert (reply.status_code, reply.json()["code"]) == (429, "busy")
    assert client.post("/token", data={"token": "0123456789abcdef"}).status_code == 429
    assert sign_in(client, **{"X-Forwarded-For": "203.0.113.9"}).status_code == 303


def test_many_who_guess_one_name_are_stopped_and_the_person_is_not(file: Path) -> None:
    """Nobody can shut out a person for good: neither where she has been before, nor with a new password."""
    made = Door(Settings(people=file))
    old = made.cookie(Owner("password", "anna"), now=time.time() - 3 * door.AGE)
    assert made.knows(old) is None

    def tries(client: str, name: str, password: str, cookie: str = "") -> str:
        try:
            return "in" if asyncio.run(made.lets_in(client, name, password, cookie)) else "wrong"
        except Problem as problem:
            return problem.reason

    for name in ("anna", "nobody"):  # nothing tells which of them is there
        told = [tries(f"10.{name[0]}.{number}", name, "guess") for number in range(STRAY + 3)]
        assert told == ["wrong"] * (STRAY + 1) + ["locked"] * 2
    assert tries("10.9.9.9", "anna", ANNA) == "locked"
    assert tries("10.9.9.9", "bob", BOB) == "in"
    assert tries("10.9.9.9", "anna", ANNA, old) == "in"
    assert tries("10.9.9.9", "bob", BOB, old) == "in"
    older = made.cookie(Owner("password", "anna"), now=time.time() - door.SEEN - 1)
    assert [tries("10.9.9.9", "anna", ANNA, one) for one in (old[:-1], older)] == ["locked"] * 2
    for number in range(FREE + 1):  # whoever has stolen it doesn't guess without end
        assert tries(f"10.8.0.{number}", "anna", "guess", old) == "wrong"
    assert tries("10.8.1.1", "anna", ANNA, old) == "locked"
    write(file, anna=ANNA + "!", bob=BOB)
    assert tries("10.9.9.9", "anna", ANNA + "!") == "in"


def test_a_flood_stops_nobody_and_takes_no_memory(
    serve: Serve, file: Path, apple: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One password is tried at a time, some wait, and the others are told so; whoever leaves makes no room."""
    at_once, most, held = [0], [0], threading.Event()
    lock, original = threading.Lock(), Hash.fits

    def fits(self: Hash, password: str) -> bool:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        held.wait(20)
        with lock:
            at_once[0] -= 1
        return original(self, password)

    monkeypatch.setattr(Hash, "fits", fits)
    client = serve(people=file, proxy=True, rate=0)

    def one(number: int) -> int:
        try:
            with httpx.Client(base_url=client.base_url, trust_env=False, timeout=20 if number % 4 else 0.5) as mine:
                return sign_in(mine, "anna", "guess", **{"X-Forwarded-For": f"10.0.0.{number}"}).status_code
        except httpx.TimeoutException:
            return 0  # left

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(one, number) for number in range(40)]
        while sum(found.done() for found in asked) < 40 - door._WAITING:
            time.sleep(0.01)
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/classify", files={"file": apple}).status_code == 200
        same = sign_in(client, "anna", "guess", **{"X-Forwarded-For": "10.0.0.250"})
        assert (same.status_code, same.json()["code"]) == (429, "busy")
        held.set()
        told = [found.result() for found in asked]
    assert most == [1]
    assert told.count(429) >= 40 - door._WAITING - 10
    assert set(told) <= {0, 403, 429}
    while client.app.state.service.door._tried:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert sign_in(client, **{"X-Forwarded-For": "203.0.113.9"}).status_code == 303


def test_a_form_without_end_is_not_read(serve: Serve, file: Path) -> None:
    client = serve(people=file)
    assert sign_in(client, password="x" * 10_000).status_code == 413

    def pieces() -> Any:
        yield b"name=anna&password="
        yield b"x" * 10_000

    heads = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/token", content=pieces(), headers=heads).status_code == 413


# --- reviews -------------------------------------------------------------------------------------


def test_a_review_has_the_name_of_who_signed_in(serve: Serve, file: Path, tmp_path: Path, apple: bytes) -> None:
    client = serve(people=file, log=str(tmp_path / "log.db"))
    sign_in(client)
    said = client.post("/v1/classify", files={"file": apple}, data={"keep": "1"}).json()["results"][0]["id"]
    client.app.state.service.store.settle()  # type: ignore[attr-defined]
    assert client.post("/review/name", data={"who": "Bob"}).status_code == 303
    page = client.get("/review").text
    assert "you are anna" in page
    assert "Another name" not in page
    assert client.post("/review", data={"answer": said, "label": "plum"}).status_code == 303
    log: Log = client.app.state.service.store.log  # type: ignore[attr-defined]
    [(_, verdict)] = log.verdicts()
    assert (verdict.who, verdict.label) == ("anna", "plum")
