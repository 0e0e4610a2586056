"""The owner's page about the days after deployment, the same as JSON, and its numbers for Prometheus."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from markupsafe import Markup

from inflame.errors import InflameError, RunError
from inflame.monitor import checking, rules
from inflame.monitor import page as shown
from inflame.monitor.drift import RISK
from inflame.monitor.overview import Overview, overview
from inflame.web import helped
from inflame.web.api import owner
from inflame.web.bundles import known
from inflame.web.pages import page, speaking
from inflame.web.problems import Problem
from inflame.web.schemas import problems
from inflame.web.served import Served
from inflame.web.service import Service
from inflame.web.words import Say

DAYS = 7  # that are looked at, where no other number is asked for
MOST = 366
SIDE, LETTERS = 160, 240  # pixels and letters of what is shown
_DAY = 86_400.0
T = TypeVar("T")
_AGE = 15.0  # seconds that a number for Prometheus may be old


def routes(service: Service) -> APIRouter:
    """All of it, for the owner alone."""
    router = APIRouter()
    tolerance = rules.load().tolerance
    _pages(router, service, tolerance)
    _api(router, service, tolerance)
    return router


def _pages(router: APIRouter, service: Service, tolerance: float) -> None:
    @router.get("/monitor", include_in_schema=False)
    async def monitor(request: Request) -> Response:
        owner(request)
        model, days = _asked(request, service)
        found = await of_log(_overview, service, model, days, tolerance)
        body = await of_log(_body, service, model, found, speaking(request))
        around: dict[str, Any] = {"model": model, "models": list(service.slots), "days": days, "body": Markup(body)}
        around["helped"], around["reasons"] = await of_log(helped.told, service.store.log)
        return page(request, "monitor.html", **around)

    @router.get("/monitor.css", include_in_schema=False)
    async def style() -> Response:
        return Response(shown.STYLE.read_text(encoding="utf-8"), media_type="text/css")


def _api(router: APIRouter, service: Service, tolerance: float) -> None:
    @router.get(
        "/v1/monitor",
        tags=["models"],
        summary="What happened after deployment (owner)",
        responses=problems("bad_request", "forbidden", "not_found", "storage"),
    )
    async def told(request: Request) -> JSONResponse:
        """Of `model` in the last `days`: traffic, latency, classes, versions, the latest window, measured accuracy."""
        owner(request)
        found = await of_log(_overview, service, *_asked(request, service), tolerance)
        return JSONResponse(found.to_json())


async def of_log(act: Callable[..., T], *given: Any) -> T:
    """What `act` finds in the log, in a thread. Raises Problem where the log is away."""
    try:
        return await asyncio.to_thread(act, *given)
    except RunError as error:
        raise Problem("storage", error.message, error.remedy, wait=5.0) from error


def _asked(request: Request, service: Service) -> tuple[Served, int]:
    """The model and the days that the query names. Raises Problem."""
    word = request.query_params.get("days", "") or str(DAYS)
    if not word.isascii() or not word.isdigit() or not 1 <= int(word[:6]) <= MOST:
        raise Problem("bad_request", f"days is no number from 1 to {MOST}.", f"Ask for days={DAYS}.")
    return service.model(request.query_params.get("model", "")), int(word)


def _overview(service: Service, model: Served, days: int, tolerance: float) -> Overview:
    service.store.settle()
    facts, log = known(model), service.store.log
    return overview(log, model.version, facts.expected, seconds=days * _DAY, sets=facts.sets, tolerance=tolerance)


def _body(service: Service, model: Served, found: Overview, speak: Say) -> str:
    """The page, with small copies of what was kept: the process of the model reads what strangers sent."""
    contents = [service.store.log.kept(one.input) or b"" for one in found.unlike]
    small = model.small_copies(contents, SIDE) if any(contents) else contents
    unlike = []
    for one, content, copy in zip(found.unlike, contents, small, strict=True):
        picture = f"data:image/jpeg;base64,{base64.b64encode(copy).decode()}" if copy and not model.text else ""
        text = content.decode(errors="replace")[:LETTERS] if model.text else ""
        unlike.append({**shown.entry(one, None), "picture": picture, "text": text})
    return shown.part(found, unlike, speak)


# --- numbers ---------------------------------------------------------------------------------------------------


def announce(service: Service) -> None:
    """Shows on /metrics what the last checked window of the first model said, and how the log is."""
    watch = service.metrics.watch
    slot = next(iter(service.slots.values()))
    last = _Fresh(lambda: _last(service, slot.current.version))
    log = service.store.log
    watch("log_waiting", "Rows of the log that wait on disk", lambda: float(log.state().waiting))
    watch(
        "accuracy_at_risk",
        "Whether the last checked window rang the alarm",
        lambda: float(last().get("level") == RISK),
    )
    watch("estimated_accuracy", "Of the last checked window; NaN where unknown", lambda: _estimate(last()))
    watch("unknown_share", "Of the last checked window", lambda: float(last().get("unknown", float("nan"))))
    watch("window_checked", "When a window was last checked, in Unix time", lambda: float(last().get("checked", 0.0)))


class _Fresh:
    """A value that is asked for anew when it is older than a moment."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self._ask, self._when = ask, float("-inf")
        self._known: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        if time.monotonic() - self._when > _AGE:
            self._known, self._when = self._ask(), time.monotonic()
        return self._known


def _last(service: Service, version: str) -> dict[str, Any]:
    try:
        found = checking.history(service.store.log, version)
    except InflameError:  # the log is away: nothing is known
        return {}
    return found[-1] if found else {}


def _estimate(last: dict[str, Any]) -> float:
    guess = last.get("accuracy")
    return float(guess["accuracy"]) if guess and guess["reliable"] else float("nan")
