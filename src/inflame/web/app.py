"""The application: routes over a service, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

import inflame
from inflame.errors import InflameError
from inflame.web import api, chat, entrance, monitoring, oip, pages, review, tracing
from inflame.web.guard import ClientLeft, Guard
from inflame.web.problems import TYPE, Problem, of
from inflame.web.served import Served
from inflame.web.service import Service
from inflame.web.settings import Settings
from inflame.web.slots import Where
from inflame.web.trials import Plan

STATIC = Path(__file__).parent / "static"

_CODES = {404: "not_found", 405: "method", 413: "too_large", 415: "unsupported", 422: "unprocessable"}


def make(
    folders: Mapping[str, Where],
    settings: Settings,
    begun: Mapping[str, Served] = MappingProxyType({}),
    plan: Plan | None = None,
) -> FastAPI:
    """The site of these bundles (name → where it is). `app.state.service` is what it stands on; `begun`: models that
    are being loaded already; `plan`: what is tried beside the first. Raises BundleError, and UserError where requests
    are to be traced and can't."""
    spans = tracing.Spans() if tracing.wanted() else None
    service = Service(folders, settings, begun, plan)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()
        if spans is not None:
            await asyncio.to_thread(spans.close)

    app = FastAPI(
        title="inflame",
        version=inflame.__version__,
        summary="Pictures or texts in, honest answers out.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # pages.py tells it, to who may see it
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},  # it tells too much
    )
    app.state.service = service
    app.include_router(api.routes(service))
    app.include_router(oip.routes(service))
    app.include_router(chat.routes(service))
    app.include_router(pages.routes(service))
    app.include_router(entrance.routes(service))
    app.include_router(monitoring.routes(service))
    app.include_router(review.routes(service))
    monitoring.announce(service)
    app.mount("/static", StaticFiles(directory=STATIC))
    for kind in (Problem, InflameError, HTTPException):
        app.add_exception_handler(kind, _problem)
    app.add_middleware(
        Guard, settings=settings, metrics=service.metrics, door=service.door, full=service.full, spans=spans
    )
    return app


async def _problem(request: Request, error: Exception) -> Response:
    problem = _of_http(error) if isinstance(error, HTTPException) else of(error)
    request.state.problem = problem.reason
    if pages.wanted(request):
        return pages.problem(request, problem)
    told: dict[str, Any] = problem.told(request.url.path, request.state.request_id, pages.speaking(request))
    return JSONResponse(told, problem.status, headers=problem.headers(), media_type=TYPE)


def _of_http(error: HTTPException) -> Problem:
    if isinstance(error.__context__, ClientLeft):
        raise error.__context__
    detail = str(error.detail)
    return Problem(
        _CODES.get(error.status_code, "bad_request"), "There is nothing here." if error.status_code == 404 else detail
    )
