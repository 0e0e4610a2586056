"""The HTTP API: /v1 for programs, and what balancers and Prometheus ask."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from inflame.web import tracing, uploads
from inflame.web.problems import Problem
from inflame.web.schemas import UPLOAD, Kept, Models, Opinion, Result, Results, problems
from inflame.web.service import Service

_COMMON = problems("forbidden", "busy", "internal", "not_ready", "draining", "storage")


def routes(service: Service) -> APIRouter:
    """All of it, over one service."""
    router = APIRouter()
    _classify(router, service)
    _results(router, service)
    _models(router, service)
    _health(router, service)
    return router


def owner(request: Request, act: str = "") -> None:
    """Refuses all but the owner of the site. What changes something is noted in the audit log, as `act`, or by the name
    of its route. Raises Problem."""
    if request.method not in ("GET", "HEAD"):
        request.state.act = act or request.scope["route"].name
    if not request.state.owner:
        raise stranger()


def stranger() -> Problem:
    """What is said to whoever isn't the owner."""
    way = "Sign in at /token; programs send the token: Authorization: Bearer …"
    return Problem("forbidden", "Only the owner of this site may see that.", way)


def _classify(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/classify",
        tags=["answers"],
        summary="Name what is on pictures, or in texts",
        openapi_extra=UPLOAD,
        responses={
            200: {"model": Results},
            **problems("bad_request", "not_found", "slow", "too_large", "unsupported", "unprocessable", "late"),
            **_COMMON,
        },
    )
    async def classify(request: Request) -> JSONResponse:
        """1 to N files. What can't be read stands as a problem in its place; alone, it is the answer."""
        name = request.query_params.get("model", "")
        with tracing.stage("read"):
            asked = await uploads.read(request, service.settings, text=service.model(name).text)
        model = asked.fields.get("model", "")
        top = asked.number("top_k", 5, least=1, most=1000)
        found = await service.classify(
            asked.contents, model=model, client=request.state.visitor, consent=asked.flag("keep")
        )
        if len(found) == 1 and isinstance(found[0], Problem):
            raise found[0]
        told = []
        for name, content, one in uploads.paired(asked, found):
            if isinstance(one, Problem):
                told.append({"file": name, **one.told(request.url.path, request.state.request_id)})
                continue
            said = {**one.told(), "file": name}
            said["top"] = said["top"][:top]
            if asked.flag("explain"):
                said["explanation"] = (await service.explain(content, model=model))["said"]
            told.append(said)
        return JSONResponse({"results": told})


def _results(router: APIRouter, service: Service) -> None:
    @router.get(
        "/v1/results/{result}",
        tags=["answers"],
        summary="An answer that was given",
        responses={200: {"model": Result}, **problems("not_found"), **_COMMON},
    )
    def result(result: str) -> JSONResponse:
        """The answer, and what was said of it; pictures aren't kept."""
        found = service.result(result)
        return JSONResponse({**found.told(), "feedback": service.store.judged(result)})

    @router.post(
        "/v1/feedback",
        tags=["answers"],
        summary="Say that an answer is right or wrong",
        status_code=201,
        responses={201: {"model": Kept}, **problems("bad_request", "not_found", "unprocessable"), **_COMMON},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Opinion.model_json_schema()}},
            }
        },
    )
    async def feedback(request: Request) -> JSONResponse:
        """Kept on disk when this answers; a second word about a result replaces the first."""
        told = uploads.as_object(await request.body())
        values = [uploads.text_of(told, name) for name in ("id", "verdict", "label", "comment")]
        from asyncio import to_thread

        return JSONResponse({"feedback": await to_thread(service.judge, *values)}, 201)

    @router.delete(
        "/v1/feedback/{feedback}",
        tags=["answers"],
        summary="Take that back",
        status_code=204,
        responses={**problems("not_found"), **_COMMON},
    )
    def undo(feedback: str) -> Response:
        """Undo."""
        if not service.store.unjudge(feedback):
            raise Problem("not_found", "There is no such feedback.", "It may have been taken back already.")
        return Response(status_code=204)


def _models(router: APIRouter, service: Service) -> None:
    @router.get(
        "/v1/models", tags=["models"], summary="What answers here", responses={200: {"model": Models}, **_COMMON}
    )
    def models(request: Request) -> JSONResponse:
        """Names, versions, classes; and for the owner what is tried, and why the newest bundle isn't served."""
        mine = request.state.owner
        told = [
            {
                "name": slot.name,
                "version": slot.current.version,
                "created": slot.current.created,
                "kind": "text" if slot.current.text else "image",
                "classes": list(slot.current.classes),
                "runtime": slot.current.runtime,
                "before": slot.before.version if slot.before else None,
                "trouble": slot.trouble if mine else "",
                "trial": service.trials[slot.name].told() if mine and slot.name in service.trials else None,
            }
            for slot in service.slots.values()
        ]
        return JSONResponse({"models": told})

    @router.post(
        "/v1/models/{model}/rollback",
        tags=["models"],
        summary="End its trial, or go back to the version before (owner)",
        responses={**problems("not_found"), **_COMMON},
    )
    def rollback(request: Request, model: str) -> JSONResponse:
        """At once; requests that are being answered end with the version they began with."""
        owner(request)
        service.model(model)
        trial = service.trials.get(model)
        if trial is not None and not trial.ended:
            request.state.act = "end trial"
            trial.end("taken back")
        elif not service.slots[model].rollback():
            raise Problem("not_found", "There is no version before.", "A rollback needs one that was served here.")
        return JSONResponse({"model": model, "version": service.slots[model].current.version})


def _health(router: APIRouter, service: Service) -> None:
    @router.get("/livez", tags=["health"], summary="Whether the server runs", response_class=PlainTextResponse)
    async def livez() -> PlainTextResponse:
        """That the event loop turns."""
        return PlainTextResponse("ok")

    @router.get("/readyz", tags=["health"], summary="Whether requests should come here")
    @router.get("/healthz", include_in_schema=False)
    async def readyz(request: Request) -> JSONResponse:
        """Models loaded, canaries answered rightly and lately, results kept."""
        why = service.unready()
        why = why if request.state.owner else why.partition(":")[0]  # where the log is, is for the owner
        told: dict[str, Any] = {"ready": not why, "why": why}
        told["models"] = {slot.name: slot.current.version for slot in service.slots.values()}
        return JSONResponse(told, 503 if why else 200)

    @router.get("/metrics", tags=["health"], summary="Numbers for Prometheus (owner)", response_class=PlainTextResponse)
    def metrics(request: Request) -> PlainTextResponse:
        """The text format."""
        owner(request)
        return PlainTextResponse(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
