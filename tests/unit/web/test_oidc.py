"""Signing in through a provider of OpenID Connect: a real one on this machine, right and wrong in every way."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import openid_provider
import pytest
from openid_provider import CLIENT, SECRET

from inflame.cli.main import main
from inflame.errors import UserError
from inflame.web import oidc
from inflame.web.door import COOKIE, Door, Owner
from inflame.web.oidc import Provider
from inflame.web.settings import Settings

Serve = Callable[..., httpx.Client]
PAGE = {"Accept": "text/html"}


@pytest.fixture
def there() -> Iterator[openid_provider.Provider]:
    with openid_provider.running() as made:
        yield made


@pytest.fixture
def trusted(there: openid_provider.Provider) -> Provider:
    owners = ("Anna@example.org", "sub:0815", "groups:owners")
    return Provider(issuer=there.url, client=CLIENT, secret=SECRET, owners=owners, site="http://localhost:7")


def back(client: httpx.Client, wanted: str = "") -> tuple[str, dict[str, str]]:
    """What the provider sends the browser back with, and where to."""
    begun = client.get("/token/openid", params={"next": wanted} if wanted else {})
    assert begun.status_code == 303, begun.text
    there = httpx.get(begun.headers["location"], trust_env=False)
    assert there.status_code == 302
    where = urlsplit(there.headers["location"])
    return f"{where.scheme}://{where.netloc}{where.path}", {
        key: value[0] for key, value in parse_qs(where.query).items()
    }


def signed_in(client: httpx.Client, wanted: str = "") -> httpx.Response:
    return client.get("/token/back", params=back(client, wanted)[1], headers=PAGE)


# --- right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("basic", [True, False])
def test_who_is_named_is_the_owner(
    serve: Serve, there: openid_provider.Provider, trusted: Provider, caplog: pytest.LogCaptureFixture, basic: bool
) -> None:
    caplog.set_level(logging.INFO)
    there.basic = basic
    client = serve(oidc=trusted)
    assert client.get("/metrics").status_code == 403  # this machine or not
    where, said = back(client, "/monitor?model=fruit")
    assert where == "http://localhost:7/token/back"
    reply = client.get("/token/back", params=said, headers=PAGE)
    assert reply.status_code == 200
    assert "anna@example.org" in reply.text
    assert reply.headers["refresh"] == "0;url=/monitor?model=fruit"
    assert client.get("/metrics").status_code == 200
    again = client.get("/token/back", params=said)  # the cookie of the flow has gone, and the code was good for once
    assert again.status_code == 403
    assert client.post("/token/out").headers["location"] == "/token"
    assert client.get("/metrics").status_code == 403
    time.sleep(0.05)
    lines = [vars(line) for line in caplog.records if line.name == "inflame.audit"]
    assert [(one.get("person"), one.get("way"), one["act"]) for one in lines] == [
        ("anna@example.org", "openid", act) for act in ("sign in", "sign out")
    ]
    told = " ".join(f"{line.getMessage()} {vars(line)}" for line in caplog.records if line.name.startswith("inflame"))
    assert not [word for word in (SECRET, said["code"], said["state"], "an access") if word in told]


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ({"sub": "0815"}, "0815"),
        ({"sub": "1", "groups": ["birds", "owners"]}, "1"),
        ({"sub": "1", "groups": "owners", "email": "me@example.org", "email_verified": True}, "me@example.org"),
        ({"sub": "1", "email": "ANNA@example.org", "email_verified": True}, "ANNA@example.org"),
        ({"sub": "1", "email": "anna@example.org", "email_verified": False}, ""),
        ({"sub": "1", "email": "anna@example.org", "email_verified": "true"}, ""),
        ({"sub": "1", "email": "anna@example.org"}, ""),
        ({"sub": "1", "email": "anna@example.com", "email_verified": True}, ""),
        ({"sub": "1", "email": "bob@example.org", "email_verified": True, "groups": ["birds"]}, ""),
        ({"sub": "08150", "groups": "owners and birds"}, ""),
        ({"sub": "owners"}, ""),
        ({"sub": ""}, ""),
    ],
)
def test_who_may_be_the_owner(trusted: Provider, person: dict[str, Any], name: str) -> None:
    assert trusted.owner(person) == name


def test_any_replica_ends_what_another_began(serve: Serve, trusted: Provider) -> None:
    one, other = serve(oidc=trusted), serve(oidc=trusted)
    _, said = back(one)
    other.cookies.set(oidc.COOKIE, one.cookies[oidc.COOKIE])
    assert other.get("/token/back", params=said).status_code == 200
    one.cookies.set(COOKIE, other.cookies[COOKIE])
    assert one.get("/metrics").status_code == 200


def test_a_cookie_goes_with_the_provider_the_secret_and_the_list(trusted: Provider) -> None:
    def door(**changed: Any) -> Door:
        return Door(Settings(oidc=dataclasses.replace(trusted, **changed)))

    anna = Owner("openid", "anna@example.org")
    cookie = door().cookie(anna)
    assert door().knows(cookie) == anna
    changes = (
        {"owners": ("sub:0815",)},
        {"secret": "another"},
        {"client": "another"},
        {"issuer": "https://other.example"},
    )
    assert [door(**changed).knows(cookie) for changed in changes] == [None] * 4
    assert door().knows(cookie.replace("openid", "password")) is None
    assert Door(Settings(token="0123456789abcdef")).knows(cookie) is None


def test_the_keys_of_the_provider_may_change(
    serve: Serve, there: openid_provider.Provider, trusted: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(oidc=trusted)
    assert signed_in(client).status_code == 200
    there.rotate()
    assert signed_in(client).status_code == 403  # not asked for again at once: somebody could make it ask without end
    monkeypatch.setattr(oidc, "_ROTATED", 0.0)
    assert signed_in(client).status_code == 200
    there.key, there.alg = openid_provider.other_key("EC"), "ES256"
    there.published = there.key
    assert signed_in(client).status_code == 200


# --- wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"claims": {"aud": "another"}},
        {"claims": {"aud": None}},
        {"claims": {"aud": [CLIENT, "another"]}},  # without azp
        {"claims": {"azp": "another"}},
        {"claims": {"exp": 1_000_000_000}},
        {"claims": {"exp": None}},
        {"claims": {"iat": 9_000_000_000}},
        {"claims": {"nonce": "another"}},
        {"claims": {"nonce": None}},
        {"claims": {"iss": "https://other.example"}},
        {"claims": {"sub": None}},
        {"claims": {"at_hash": "another"}},
        {"alg": "none"},
        {"alg": "HS256"},
        {"key": openid_provider.other_key()},
        {"person": {"sub": "0816", "email": "bob@example.org", "email_verified": True}},
        {"person": {"sub": "0816", "email": "anna@example.org", "email_verified": False}},
    ],
    ids=lambda wrong: "key" if "key" in wrong else str(wrong),
)
def test_what_is_wrong_is_not_believed(
    serve: Serve, there: openid_provider.Provider, trusted: Provider, wrong: dict[str, Any]
) -> None:
    client = serve(oidc=trusted)
    for name, value in wrong.items():
        setattr(there, name, value)
    reply = signed_in(client)
    assert reply.status_code == 403
    assert COOKIE not in client.cookies
    assert client.get("/metrics").status_code == 403


def test_a_flow_belongs_to_the_browser_that_began_it(
    serve: Serve, there: openid_provider.Provider, trusted: Provider
) -> None:
    client, victim = serve(oidc=trusted), serve(oidc=trusted)
    _, said = back(client)
    mine = client.cookies[oidc.COOKIE]
    assert victim.get("/token/back", params=said).status_code == 403  # led there without a cookie
    back(victim)
    assert victim.get("/token/back", params=said).status_code == 403  # and with one of another flow
    for seen in (f"9{mine}", mine[:-1], "", "..", f"{mine}.", "é"):
        client.cookies.clear()
        raw = {b"Cookie": f"{oidc.COOKIE}={seen}".encode()}
        assert client.get("/token/back", params=said, headers=raw).status_code == 403
    assert there.seen == []  # nothing of it was worth a word with the provider, and none of it is counted as a guess
    heads = {"Cookie": f"{oidc.COOKIE}={mine}"}
    wrong = ({**said, "iss": "https://other.example"}, {**said, "code": "another"}, {**said, "error": "no\nwords"})
    assert [client.get("/token/back", params=one, headers=heads).status_code for one in wrong] == [403] * 3
    assert client.get("/token/back", params=said, headers=heads).status_code == 200
    client.cookies.clear()
    assert client.get("/token/back", params=said, headers=heads).status_code == 403  # once more: the code was used


def test_a_flow_ends(serve: Serve, trusted: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(oidc=trusted)
    monkeypatch.setattr(oidc, "FLOW", 0)
    _, said = back(client)
    monkeypatch.setattr(oidc, "FLOW", 600)
    assert client.get("/token/back", params=said).status_code == 403


def test_who_tries_codes_is_not_heard(serve: Serve, there: openid_provider.Provider, trusted: Provider) -> None:
    client = serve(oidc=trusted)
    for _ in range(5):
        _, said = back(client)
        assert client.get("/token/back", params={**said, "code": "guess"}).status_code == 403
    assert client.get("/token/openid").status_code == 429
    assert len(there.seen) == 5


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "https://evil.example/", "/\\evil.example", "/a//b", "monitor", "/a\r\nb"]
)
def test_it_leads_to_pages_of_this_site_alone(serve: Serve, trusted: Provider, wanted: str) -> None:
    client = serve(oidc=trusted, token="0123456789abcdef")
    assert signed_in(client, wanted).headers["refresh"] == "0;url=/about"
    reply = client.post("/token", data={"token": "0123456789abcdef", "next": wanted})
    assert reply.headers["location"] == "/about"
    assert 'name="next"' not in client.get("/token", params={"next": wanted}).text


# --- away ----------------------------------------------------------------------------------------


def test_a_provider_that_is_away_costs_a_sign_in_and_nothing_else(
    serve: Serve, there: openid_provider.Provider, trusted: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "_PAUSE", 0.0)
    there.status = 500
    client = serve(oidc=trusted)
    assert client.get("/readyz").status_code == 200
    reply = client.get("/token/openid", headers=PAGE)
    assert reply.status_code == 503
    assert "doesn&#39;t answer" in reply.text
    assert client.get("/token/openid").json()["code"] == "unreachable"
    there.status, there.issuer = 200, "https://other.example"
    assert client.get("/token/openid").status_code == 503
    there.issuer = there.url
    _, said = back(client)
    there.status = 502
    assert client.get("/token/back", params=said).status_code == 503  # the cookie is still good
    there.status = 200
    assert client.get("/token/back", params=said).status_code == 403  # and the code isn't


def test_a_provider_that_hangs_is_not_waited_for(
    serve: Serve, there: openid_provider.Provider, trusted: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "_PATIENCE", 0.3)
    there.gate.clear()
    client = serve(oidc=trusted)
    assert client.get("/token/openid").status_code == 503
    began = time.perf_counter()
    assert [client.get("/token/openid").status_code for _ in range(5)] == [503] * 5  # none of them asked again
    assert time.perf_counter() - began < oidc._PAUSE


def test_nobody_listens_to_the_port(serve: Serve, trusted: Provider) -> None:
    client = serve(oidc=dataclasses.replace(trusted, issuer="http://127.0.0.1:9"))
    assert client.get("/token/openid").status_code == 503


def test_a_wrong_secret_is_the_sites_fault(serve: Serve, trusted: Provider) -> None:
    assert signed_in(serve(oidc=dataclasses.replace(trusted, secret="wrong"))).status_code == 503


# --- settings ------------------------------------------------------------------------------------

GOOD = {
    "INFLAME_OIDC_ISSUER": "https://id.example/realms/birds",
    "INFLAME_OIDC_CLIENT": "inflame",
    "INFLAME_OIDC_SECRET": "hush-hush",
    "INFLAME_OIDC_OWNERS": "anna@example.org, groups:owners",
}


def test_the_variables_say_who_is_trusted() -> None:
    made = Provider.told(GOOD, "birds.example")
    assert (made.site, made.owners) == ("https://birds.example", ("anna@example.org", "groups:owners"))
    assert Provider.told({**GOOD, "INFLAME_OIDC_SITE": "http://localhost:8000/"}).site == "http://localhost:8000"
    assert "hush-hush" not in repr(Settings(oidc=made))
    Settings(oidc=made, host="0.0.0.0", proxy=True)


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"SECRET": ""}, "INFLAME_OIDC_SECRET"),
        ({"OWNERS": " "}, "INFLAME_OIDC_OWNERS"),
        ({"OWNERS": "anna"}, "INFLAME_OIDC_OWNERS"),
        ({"OWNERS": "groups:"}, "INFLAME_OIDC_OWNERS"),
        ({"OWNERS": "preferred_username:anna"}, "INFLAME_OIDC_OWNERS"),
        ({"OWNERS": "email:anna@example.org"}, "INFLAME_OIDC_OWNERS"),
        ({"OWNERS": "iss:https://id.example/realms/birds"}, "INFLAME_OIDC_OWNERS"),
        ({"ISSUER": "http://id.example"}, "INFLAME_OIDC_ISSUER"),
        ({"ISSUER": "https://id.example?x"}, "INFLAME_OIDC_ISSUER"),
        ({"ISSUER": "https://["}, "INFLAME_OIDC_ISSUER"),
        ({"SITE": "http://birds.example"}, "INFLAME_OIDC_SITE"),
    ],
)
def test_what_can_not_be_trusted_is_refused(changed: dict[str, str], where: str) -> None:
    with pytest.raises(UserError) as told:
        Provider.told({**GOOD, **{f"INFLAME_OIDC_{key}": value for key, value in changed.items()}}, "birds.example")
    assert told.value.where == where
    assert "hush-hush" not in told.value.explain()


def test_the_verb_says_what_is_missing(
    fruit_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("INFLAME_OIDC_ISSUER", "https://id.example")
    assert main(["serve", str(fruit_bundle), "--port", "0", "--name", "birds.example"]) == 2
    assert "INFLAME_OIDC_CLIENT" in capsys.readouterr().err
