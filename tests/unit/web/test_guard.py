"""Who is the owner, what is noted of what he does, and what is counted of what is refused: over a real server."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from inflame.web import words
from inflame.web.door import AGE, COOKIE, FREE, Door
from inflame.web.guard import Guard, _address
from inflame.web.metrics import Metrics
from inflame.web.settings import Settings
from inflame.web.trials import Plan

Serve = Callable[..., httpx.Client]
Audit = Callable[[int], list[dict[str, Any]]]
TOKEN = "0123456789abcdef-secret"
MINE = {"Authorization": f"Bearer {TOKEN}"}


def sign_in(client: httpx.Client, token: str = TOKEN, **heads: str) -> httpx.Response:
    return client.post("/token", data={"token": token}, headers=heads)


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Audit:
    """So many lines of the audit log: who, what, to what, and what came of it. They are written after the answer."""
    caplog.set_level(logging.INFO, "inflame.audit")

    def lines(count: int) -> list[dict[str, Any]]:
        end = time.monotonic() + 20
        while True:
            told = [vars(record) for record in caplog.records if record.name == "inflame.audit"]
            if len(told) >= count or time.monotonic() > end:
                break
            time.sleep(0.005)
        assert TOKEN not in str(told)
        return [{name: one.get(name, "") for name in ("who", "act", "about", "outcome")} for one in told]

    return lines


# --- who the owner is ----------------------------------------------------------------------------


def test_without_a_token_only_this_machine_is_the_owner(serve: Serve) -> None:
    client = serve()
    assert client.get("/metrics").status_code == 200
    for head in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"):  # somebody else's request, that a proxy passes on
        assert client.get("/metrics", headers={head: "203.0.113.9"}).status_code == 403


@pytest.mark.parametrize(
    ("client", "heads", "owner"),
    [
        ("127.0.0.1", {}, True),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.9"}, False),
        ("203.0.113.9", {}, False),
        ("", {}, False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
    ],
)
def test_behind_a_proxy_nobody_is_the_owner_by_chance(client: str, heads: dict[str, str], owner: bool) -> None:
    """Also where such settings come to be: they are refused."""
    for proxy in (False, True):
        settings = Settings()
        object.__setattr__(settings, "proxy", proxy)
        guard = Guard(None, settings, Metrics(), Door(settings), lambda _: None)  # type: ignore[arg-type]
        seen = guard._client({"client": (client, 1)}, heads)
        assert bool(guard._owner(heads, seen)) == owner


def test_a_proxy_tells_who_asks_with_a_port_or_without() -> None:
    given = ("10.0.0.1", "10.0.0.1:5000", "2001:db8::1", "[2001:db8::1]:5000", "[2001:db8::1]", "a\nb", "x" * 500)
    assert [_address(one) for one in given] == [
        *("10.0.0.1", "10.0.0.1", "2001:db8::1", "2001:db8::1", "2001:db8::1", "a·b", "x" * 64)
    ]


def test_the_cookie_is_no_token_and_goes_by_https_alone_where_that_is_spoken(serve: Serve) -> None:
    client = serve(token=TOKEN, proxy=True)
    by_http, by_https = sign_in(client), sign_in(client, **{"X-Forwarded-Proto": "https"})
    for reply in (by_http, by_https):
        assert reply.status_code == 303
        assert TOKEN not in reply.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", f"Max-Age={AGE}"} <= set(reply.headers["set-cookie"].split("; "))
    assert "Secure" in by_https.headers["set-cookie"].split("; ")
    assert "Secure" not in by_http.headers["set-cookie"].split("; ")
    stolen = client.cookies[COOKIE]
    client.cookies.clear()
    assert client.get("/metrics", headers={"Cookie": f"{COOKIE}={stolen}"}).status_code == 200
    assert client.get("/metrics", headers={"Authorization": f"Bearer {stolen}"}).status_code == 403
    assert client.get("/metrics", headers={"Cookie": f"{COOKIE}={TOKEN}"}).status_code == 403
    other = serve(token=TOKEN)
    plain = sign_in(other, **{"X-Forwarded-Proto": "https"})  # nobody said that there is a proxy
    assert "Secure" not in plain.headers["set-cookie"].split("; ")


def test_five_wrong_tokens_shut_the_door_for_a_while(serve: Serve) -> None:
    """For who guessed, this machine as well, whatever he says next; not for who is in, and not for others."""
    client = serve(token=TOKEN, proxy=True)
    assert sign_in(client).status_code == 303
    inside = dict(client.cookies)
    client.cookies.clear()
    assert [sign_in(client, f"guess {n}").status_code for n in range(2)] == [403] * 2
    guesses = [client.get("/metrics", headers={"Authorization": f"bearer guess {n}"}) for n in range(2, FREE + 1)]
    assert [reply.status_code for reply in guesses] == [403] * (FREE - 1)
    for reply in (client.get("/metrics", headers=MINE), client.get("/livez", headers=MINE), sign_in(client)):
        assert (reply.status_code, reply.json()["code"]) == (429, "busy")
        assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert client.get("/livez").status_code == 200
    assert client.get("/metrics", headers={**MINE, "X-Forwarded-For": "203.0.113.9"}).status_code == 200
    page = client.get("/metrics", headers={"Cookie": f"{COOKIE}={inside[COOKIE]}"}).text
    assert 'inflame_rejected_total{reason="locked"} 3.0' in page


def test_other_ways_to_sign_a_request_are_no_guesses(serve: Serve) -> None:
    """A proxy in front may ask for a password of its own."""
    client = serve(token=TOKEN)
    heads = {"Authorization": "Basic YW5uOmFubg=="}
    assert {client.get("/metrics", headers=heads).status_code for _ in range(FREE + 3)} == {403}
    assert client.get("/metrics", headers=MINE).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_what_the_site_can_do_is_told_to_its_owner(serve: Serve, path: str) -> None:
    assert serve().get(path).status_code == 200
    client = serve(token=TOKEN)
    assert client.get(path).status_code == 403
    assert client.get(path, headers=MINE).status_code == 200
    assert 'href="/docs"' not in client.get("/").text
    assert 'href="/docs"' in client.get("/", headers=MINE).text


def test_what_is_tried_and_what_fails_is_told_to_the_owner(serve: Serve, fruit_bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(fruit_bundle, tmp_path / "other"))
    client = serve(token=TOKEN, plan=Plan(kind="shadow", folder=other))
    service = client.app.state.service  # type: ignore[attr-defined]
    service.slots["fruit"].trouble = "/home/ann/fruit can't be read"
    (seen,) = client.get("/v1/models").json()["models"]
    assert (seen["trial"], seen["trouble"]) == (None, "")
    assert seen["classes"] == ["apple", "lime", "plum"]
    (mine,) = client.get("/v1/models", headers=MINE).json()["models"]
    assert mine["trial"]["kind"] == "shadow"
    assert "/home/ann" in mine["trouble"]
    service.store.broken = "/home/ann/log.db is full"
    told = [client.get("/readyz", headers=heads) for heads in ({}, MINE)]
    assert [reply.status_code for reply in told] == [503] * 2
    assert ["/home/ann" in reply.json()["why"] for reply in told] == [False, True]


# --- what is noted -------------------------------------------------------------------------------


def test_what_the_owner_does_is_noted(
    serve: Serve, fruit_bundle: Path, tmp_path: Path, apple: bytes, audit: Audit
) -> None:
    other = Path(shutil.copytree(fruit_bundle, tmp_path / "other"))
    client = serve(token=TOKEN, log=str(tmp_path / "log.db"), plan=Plan(kind="canary", folder=other, share=0.01))
    (said,) = client.post("/v1/classify", files={"file": apple}, data={"keep": "1"}).json()["results"]
    client.app.state.service.store.settle()  # type: ignore[attr-defined]
    client.get("/metrics", headers=MINE)
    assert audit(0) == []  # nothing was changed
    sign_in(client, "wrong")
    sign_in(client)
    client.post("/review/name", data={"who": "Ann"})
    assert client.post("/review", data={"answer": said["id"], "label": "apple"}).status_code == 303
    assert client.post("/review/undo").status_code == 303
    assert client.post("/review/skip", data={"answer": said["id"]}).status_code == 303
    assert client.post("/v1/models/fruit/rollback").status_code == 200
    assert client.post("/v1/models/fruit/rollback").status_code == 404
    client.cookies.clear()
    assert client.post("/v1/models/fruit%0Anext/rollback").status_code == 403
    assert client.post("/review", data={"answer": said["id"], "label": "plum"}).status_code == 403
    wanted = [
        ("sign in", "", "forbidden"),
        ("sign in", "", "done"),
        ("name a reviewer", "", "done"),
        ("review", said["id"], "done"),
        ("undo a review", said["id"], "done"),
        ("skip", said["id"], "done"),
        ("end trial", "fruit", "done"),
        ("rollback", "fruit", "not_found"),
        ("rollback", "fruit·next", "forbidden"),
        ("review", "", "forbidden"),
    ]
    lines = audit(len(wanted))
    assert [(one["act"], one["about"], one["outcome"]) for one in lines] == wanted
    assert {one["who"] for one in lines} == {"127.0.0.1"}


def test_every_route_that_only_the_owner_may_change_is_noted(serve: Serve, audit: Audit) -> None:
    """Whoever adds one gets its line."""
    client = serve(token=TOKEN)
    app: Any = client.app  # type: ignore[attr-defined]
    routes = [route for part in app.routes for route in getattr(part, "original_router", app).routes]
    refused = 0
    for route in {id(route): route for route in routes}.values():
        for method in (getattr(route, "methods", None) or set()) - {"GET", "HEAD"}:
            refused += client.request(method, re.sub(r"{\w+}", "x", route.path)).status_code == 403
    assert refused >= 6  # among them /token, without one
    assert len(audit(refused)) == refused


def test_the_trace_of_a_request_is_in_its_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inflame.web")
    client, trace = serve(), "4bf92f3577b34da6a3ce929d0e0e4736"
    client.get("/livez", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-ID": "with"})
    client.get("/livez", headers={"traceparent": f"00-{trace[:-1]}g-00f067aa0ba902b7-01", "X-Request-ID": "wrong"})
    client.get("/livez")  # the lines of those before it are written
    lines = {vars(one)["request_id"]: vars(one) for one in caplog.records if one.getMessage() == "request"}
    assert lines["with"]["trace"] == trace
    assert "trace" not in lines["wrong"]


# --- what is counted -----------------------------------------------------------------------------


def test_refusals_are_counted_by_reason(serve: Serve, apple: bytes) -> None:
    """Of the guard, and of what is sent: by /metrics as by the status of the answer."""
    client = serve(files=2, bytes=100_000, body_time=0.2)
    wanted = {"bad_request": 0, "forbidden": 0, "too_large": 0, "unsupported": 0, "slow": 0, "unprocessable": 0}

    def count(code: str, reply: httpx.Response) -> None:
        assert reply.json()["code"] == code
        wanted[code] += 1

    count("bad_request", client.post("/v1/classify"))
    count("bad_request", client.post("/v1/feedback", content=b"{"))
    count("forbidden", client.post("/v1/classify", headers={"Origin": "https://evil.example"}))
    count("forbidden", client.get("/livez", headers={"Host": "evil.example"}))
    count("too_large", client.post("/v1/classify", files={"file": bytes(500_000)}))
    count("too_large", client.post("/v1/classify", files={"file": apple + bytes(100_000)}))
    count("too_large", client.post("/v1/classify", files=[("file", apple)] * 3))
    count("unsupported", client.post("/v1/classify", content=b"x", headers={"Content-Type": "application/pdf"}))
    count("unsupported", client.post("/v1/classify", files={"file": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}))
    count("unprocessable", client.post("/v1/classify", files={"file": apple[: len(apple) // 2]}))
    with socket.create_connection((client.base_url.host, client.base_url.port)) as link:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nContent-Type: image/png\r\n"
        link.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        link.settimeout(20)
        assert link.recv(12) == b"HTTP/1.1 408"
    wanted["slow"] += 1
    page = client.get("/metrics").text
    found = dict(re.findall(r'inflame_rejected_total{reason="(\w+)"} (\d+)\.0', page))
    assert {code: int(number) for code, number in found.items()} == wanted


def test_people_are_refused_by_a_page_and_programs_by_json(serve: Serve) -> None:
    client = serve(token=TOKEN, proxy=True, rate=0.001, burst=2)
    person = {"X-Forwarded-For": "9.9.9.9", "Accept": "text/html", "Accept-Language": "de"}
    assert [client.get("/about", headers=person).status_code for _ in range(2)] == [200, 200]
    page = client.get("/about", headers=person)
    assert page.status_code == 429
    assert int(page.headers["retry-after"]) > 1
    assert page.headers["content-type"].startswith("text/html")
    often = words.say("de")("You ask more often than this site allows.")
    assert often.startswith("Sie")
    assert f"<h1>{often}</h1>" in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    part = client.get("/about", headers=person | {"X-Part": "1"})
    assert part.status_code == 429
    assert part.text.startswith('<div class="problem"')
    for path, heads in (("/about", {"Accept": "*/*"}), ("/v1/models", {})):
        told = client.get(path, headers=person | heads)
        assert (told.status_code, told.json()["code"]) == (429, "busy")
    with socket.create_connection((client.base_url.host, client.base_url.port)) as link:
        told_length = b"Content-Length: 1000000000000\r\nAccept: text/html"
        link.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + told_length + b"\r\n\r\n")
        link.settimeout(10)
        large = link.makefile("rb").read()
    assert large.startswith(b"HTTP/1.1 413")
    assert b"<html" in large


def test_what_belongs_to_every_page_is_kept_by_browsers_and_answers_are_not(serve: Serve) -> None:
    client = serve()
    first = client.get("/static/site.css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/site.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"]
    for path in ("/static/nothing.css", "/", "/v1/models"):
        assert client.get(path).headers["cache-control"] == "no-store"
