"""What stands before every route: ids, the log, limits, who may ask, and the headers that go with every answer.

Plain ASGI, so that nothing is buffered on the way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from inflame.web import pages, words
from inflame.web.door import COOKIE, TOKEN, Door, Owner, audit, network
from inflame.web.metrics import Metrics
from inflame.web.problems import TYPE, Problem, of
from inflame.web.settings import LOOPBACK, Settings, loopback
from inflame.web.tracing import Spans

log = logging.getLogger("inflame.web")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=(), payment=(), usb=()"),
]
_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_TRACE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORM = 64 * 1024  # what a multipart body has around its files
_CLIENTS = 10_000
_SLOWEST = 1024  # bytes of a body in a second
_VIA = ("x-forwarded-for", "x-real-ip", "forwarded", "via")  # heads that proxies add
ASKED = "/v1/classify"  # where answers are asked for
_MACHINE = Owner("machine")


@final
class Guard:
    """Wraps the application. `door` knows the owner; `full` says of the name of a model ("": the first) what is wrong
    where it takes nothing at present: that is answered before anything is read, for an onslaught costs what its
    refusals cost. `spans`: where requests are traced."""

    def __init__(
        self,
        app: App,
        settings: Settings,
        metrics: Metrics,
        door: Door,
        full: Callable[[str], Problem | None],
        spans: Spans | None = None,
    ) -> None:
        self.app, self.settings, self.metrics, self.door, self._full = app, settings, metrics, door, full
        self._spans = spans
        self._local, self._guarded = settings.local, settings.guarded
        self._buckets = Buckets(settings.rate, settings.burst)
        self._most = settings.files * settings.bytes + _FORM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        heads = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        began, body = time.perf_counter(), list[bool]()  # the latter is filled when it is whole
        span = self._spans.begin(scope, heads) if self._spans is not None else None
        state = self._noted(scope, heads)
        answer = _Answer(send, scope, body)
        try:
            self._admit(scope, heads, state["client"])
            state["owner"] = self._owner(heads, state["client"])
            if (full := self._refused(scope)) is not None:
                state["route"], answer.goes_on = ASKED, True
                raise full
            await self.app(scope, self._limited(receive, body), answer)
        except (Problem, ClientLeft) as error:
            if isinstance(error, Problem) and not answer.status:
                await problem_answer(error, scope, receive, answer)
        except asyncio.CancelledError:
            if not state.get("gone"):
                raise
        except Exception as error:
            log.exception("mistake", extra={"request_id": state["request_id"]})
            if not answer.status:
                await problem_answer(of(error), scope, receive, answer)
        finally:
            told = self._counted(scope, answer.status, time.perf_counter() - began)
            if span is not None:
                span.end(told["route"], answer.status, state.get("problem", ""))
            _note(scope, told, span.trace if span is not None else _trace(heads))

    def _noted(self, scope: Scope, heads: dict[str, str]) -> dict[str, Any]:
        """The state of the request: who asks, and what is done for it."""
        name, own = heads.get("x-request-id", ""), heads.get("x-client-id", "")
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = name if _ID.fullmatch(name) else secrets.token_hex(8)
        state["client"] = self._client(scope, heads)
        state["visitor"] = own if _ID.fullmatch(own) else state["client"]  # for a canary's share, and nothing else
        state["owner"] = None  # until that is known
        if self.settings.proxy and heads.get("x-forwarded-proto", "").lower() == "https":
            scope["scheme"] = "https"
        state["task"] = asyncio.current_task()  # ended by the server when the client has gone
        return state

    def _admit(self, scope: Scope, heads: dict[str, str], client: str) -> None:
        settings, host = self.settings, heads.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self._local and name not in (*LOOPBACK, settings.host, *settings.hosts):
            raise Problem(
                "forbidden", "This site doesn't go by that name.", f"Open http://{settings.host}:{settings.port}/"
            )
        if scope["method"] not in _SAFE:
            origin, site = heads.get("origin", ""), heads.get("sec-fetch-site", "")
            # Browsers say where a request comes from; Origin is also "null" where they keep it to themselves.
            strange = site not in ("same-origin", "none") if site else origin and urlsplit(origin).netloc != host
            if strange:
                raise Problem("forbidden", "Another site may not do that here.", "Open this site itself.")
        if client not in LOOPBACK and (wait := self._buckets.ask(network(client))):
            often = "You ask more often than this site allows."
            raise Problem("busy", often, "Wait a moment.", wait=wait, reason="rate")
        length = heads.get("content-length", "0")
        if not length.isdigit():
            raise Problem("bad_request", "Content-Length is no number.", "Send it right, or not at all.")
        if int(length) > self._most:
            raise _too_large(self._most)

    def _refused(self, scope: Scope) -> Problem | None:
        asks = scope["path"] == ASKED and scope["method"] == "POST"
        return self._full(_model(scope)) if asks else None

    def _limited(self, receive: Receive, done: list[bool]) -> Receive:
        """`receive`, with an end: of bytes and of patience. A body that comes a byte at a time has an end as well."""
        got, began = 0, time.monotonic()

        async def limited() -> Message:
            nonlocal got
            left = began + self.settings.body_time + got / _SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(self.settings.body_time, left)) if not done else None):
                    message = await receive()
            except TimeoutError:
                wait = "The body came too slowly, or not at all."
                raise Problem("slow", wait, "Try a better connection, or a smaller picture.") from None
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if not message.get("more_body"):
                    done.append(True)
                if got > self._most:
                    raise _too_large(self._most)
            elif not done:
                raise ClientLeft
            return message

        return limited

    def _client(self, scope: Scope, heads: dict[str, str]) -> str:
        if self.settings.proxy and (via := heads.get("x-forwarded-for", "")):
            return _address(via.rpartition(",")[2].strip())
        return str((scope.get("client") or ("",))[0])

    def _owner(self, heads: dict[str, str], client: str) -> Owner | None:
        """Who the owner is, where the request carries the token, or the cookie of who has signed in; where nobody can,
        whether it comes from this machine, by no detour. Raises Problem for who guesses."""
        if not self._guarded:
            here = self._local and loopback(client) and not any(name in heads for name in _VIA)
            return _MACHINE if here else None
        scheme, _, given = heads.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return TOKEN if self.door.opens(client, given.strip()) else None
        cookies = dict(part.strip().partition("=")[::2] for part in heads.get("cookie", "").split(";"))
        return self.door.knows(cookies.get(COOKIE, ""))

    def _counted(self, scope: Scope, status: int, seconds: float) -> dict[str, Any]:
        """What came of the request, counted."""
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "") or state.get("route", "other")
        self.metrics.requests.labels(route, status).inc()
        self.metrics.latency.labels(route).observe(seconds)
        if reason := state.get("problem", ""):
            self.metrics.rejected.labels(reason).inc()
        return {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 1)}


def _note(scope: Scope, told: dict[str, Any], trace: str) -> None:
    """The line of the request, and another where it was the owner's act."""
    state = scope["state"]
    named = {"request_id": state["request_id"], **({"trace": trace} if trace else {})}
    log.info("request", extra={**told, **named})
    if state.get("act"):
        reason = state.get("problem", "")
        outcome = reason or ("done" if told["status"] else "left")
        audit.log(logging.WARNING if reason else logging.INFO, "audit", extra=_done(scope, outcome) | named)


def _trace(heads: dict[str, str]) -> str:
    """The id of the trace that the heads name; empty where they name none."""
    found = _TRACE.fullmatch(heads.get("traceparent", ""))
    return found[1] if found else ""


def _done(scope: Scope, outcome: str) -> dict[str, str]:
    """Who did what as the owner, and to what."""
    state = scope["state"]
    about, owner = state.get("about") or scope.get("path_params", {}).get("model", ""), state["owner"]
    person = {"person": owner.name, "way": owner.way} if owner is not None and owner.name else {}
    return {"who": state["client"], **person, "act": state["act"], "about": _plain(about), "outcome": outcome}


@final
class _Answer:
    """What goes back, with the headers that every answer has. `status` is 0 until it begins; `body` is empty while that
    of the request hasn't been read; then the connection is closed, unless it `goes_on`: the server throws away what
    still comes of it."""

    def __init__(self, send: Send, scope: Scope, body: list[bool]) -> None:
        self._send, self._scope, self._body = send, scope, body
        self.status, self.goes_on = 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._more(message)]}
        await self._send(message)

    def _more(self, message: Message) -> list[tuple[bytes, bytes]]:
        given = {key.lower() for key, _ in message.get("headers", ())}
        more = [pair for pair in _HEADERS if pair[0] not in given]
        more.append((b"x-request-id", self._scope["state"]["request_id"].encode()))
        if not self._body and not self.goes_on and self._scope["method"] not in _SAFE:
            more.append((b"connection", b"close"))  # the rest of the body isn't waited for
        if b"cache-control" not in given:
            # What belongs to every page is kept by browsers, who ask whether it is still the same.
            kept = self._scope["path"].startswith("/static/") and self.status in (200, 304)
            more.append((b"cache-control", b"no-cache" if kept else b"no-store"))
        return more


def _model(scope: Scope) -> str:
    """The model that the query names."""
    query = scope.get("query_string", b"")
    return dict(parse_qsl(query.decode("latin-1"))).get("model", "") if query else ""


def _address(said: str) -> str:
    """The address that a proxy tells, without a port: some add it."""
    bare = said[1:].partition("]")[0] if said.startswith("[") else said
    return _plain(bare.partition(":")[0] if bare.count(":") == 1 else bare)


def _plain(said: str) -> str:
    """What a stranger said, fit for a line of the log."""
    return "".join(letter if letter.isprintable() else "·" for letter in said[:64])


class ClientLeft(Exception):
    """Whoever asked has gone before the request was whole."""


@final
class Buckets:
    """Token buckets by client; a client that was long silent is forgotten."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def ask(self, client: str, now: float | None = None) -> float:
        """0 when the client may go on, else the seconds to wait."""
        if not self.rate:
            return 0.0
        now = time.monotonic() if now is None else now
        left, then = self._left.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.rate)
        granted = left >= 1
        self._left[client] = (left - 1 if granted else left, now)
        while len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if granted else (1 - left) / self.rate


async def problem_answer(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """The page that says so, or for a program the problem document, as the answer to a request."""
    scope.setdefault("state", {})["problem"] = problem.reason
    request = Request(scope)
    if pages.wanted(request):
        await pages.problem(request, problem)(scope, receive, send)
        return
    say = words.say(words.of(request))
    told = problem.told(scope.get("path", ""), scope.get("state", {}).get("request_id", ""), say)
    content = json.dumps(told).encode()
    heads = {"content-type": TYPE, "content-length": str(len(content)), **problem.headers()}
    pairs = [(key.lower().encode(), value.encode()) for key, value in heads.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def _too_large(most: int) -> Problem:
    return Problem("too_large", f"More than {most / 2**20:.0f} MB in one request.", "Send fewer or smaller pictures.")
