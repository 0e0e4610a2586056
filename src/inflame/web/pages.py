"""The pages. Each works without scripts; with them, the same answers come as parts of a page and are put into place."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

import inflame
from inflame.artifact import texts
from inflame.web import cards, examples, snippets, tracing, uploads, words
from inflame.web.answers import Answer
from inflame.web.api import owner
from inflame.web.problems import Problem
from inflame.web.served import Served
from inflame.web.service import Service

PAGES = Path(__file__).parent / "pages"
_TOP = 5
_NEAR = 6
_LETTERS = 300  # of a text that was asked about

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "pretty": words.pretty,
    "percent": lambda p: f"{100 * p:.1f}" if 0.001 <= p < 0.9995 else ("< 0.1" if p < 0.001 else "> 99.9"),
    "share": lambda p: f"{100 * p:.2f}",
    "day": lambda when: datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC"),
}


def routes(service: Service) -> APIRouter:
    """All pages over one service."""
    router = APIRouter(include_in_schema=False)
    shown = {name: examples.Following(slot) for name, slot in service.slots.items()}
    known = cards.library(service.settings.cards)
    _classify(router, service, shown, known)
    _reasons(router, service, shown)
    _about(router, service)
    _opinions(router, service)
    _sharing(router, service)
    return router


def page(request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template in the visitor's language."""
    language, speak = words.of(request), speaking(request)
    asked = [(key, value) for key, value in request.query_params.multi_items() if key != "lang"]
    around = {
        "t": speak,
        "language": language,
        "languages": words.languages(),
        "spoken": lambda code: f"?{urlencode([*asked, ('lang', code)])}",
        "program": inflame.__version__,
        "path": request.url.path,
        "kept": kept(request.app.state.service, request.query_params.get("model", "")),
        "owner": getattr(request.state, "owner", None),
        "sentence": lambda answer: words.sentence(speak, answer.level, answer.rivals),
        "HOW": words.HOW,
    }
    answer = HTMLResponse(_environment.get_template(name).render({**around, **values}), status)
    if request.query_params.get("lang", "") == language:
        answer.set_cookie(words.COOKIE, language, max_age=31_536_000, samesite="lax", httponly=True)
    return answer


def kept(service: Service, model: str) -> str:
    """What stands behind the addresses of other pages, for them to be about that model; empty for the only one."""
    return f"?{urlencode({'model': model})}" if model in service.slots and len(service.slots) > 1 else ""


def speaking(request: Request) -> words.Say:
    """The words in the visitor's language."""
    return words.say(words.of(request))


def problem(request: Request, found: Problem) -> HTMLResponse:
    """The page that says what went wrong and what to do; a part of one where a script asked."""
    name = "_problem.html" if _part(request) else "problem.html"
    answer = page(request, name, status=found.status, problem=found, models=[])
    answer.headers.update(found.headers())
    return answer


def wanted(request: Request) -> bool:
    """Whether a person asks, not a program."""
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith(("/v1/", "/v2", "/static/"))


def _part(request: Request) -> bool:
    return "x-part" in request.headers


def _front(request: Request, service: Service, model: Served, shown: examples.Examples, **values: Any) -> HTMLResponse:
    """The page to ask on, with answers on it or without."""
    around: dict[str, Any] = {
        "model": model,
        "models": list(service.slots),
        "examples": shown,
        "drawing": examples.drawing(model, shown),
        "limits": service.settings,
        "heic": uploads.heic(),
    }
    return page(
        request, "index.html", **around, **{"answers": [], "csv": "", "why": None, "facts": [], "given": "", **values}
    )


def _classify(router: APIRouter, service: Service, shown: dict[str, examples.Following], known: cards.Library) -> None:
    @router.get("/")
    async def front(request: Request) -> HTMLResponse:
        model = service.model(request.query_params.get("model", ""))
        return _front(request, service, model, await asyncio.to_thread(shown[model.name]))

    @router.post("/")
    async def classify(request: Request) -> HTMLResponse:
        model = service.model(request.query_params.get("model", ""))
        with tracing.stage("read"):
            asked = await uploads.read(request, service.settings, text=model.text)
        items = _items(asked, await asyncio.to_thread(shown[model.name]))
        if not items:
            what = "a text" if model.text else "a picture"
            raise Problem("bad_request", f"There was {what} missing.", f"Choose {what} first.")
        contents = [content for _, content in items]
        consent = asked.flag("keep") and bool(asked.items)  # an example is known already
        found = await service.classify(
            contents, model=model.name, source="page", client=request.state.visitor, consent=consent
        )
        if len(found) == 1 and isinstance(found[0], Problem):
            raise found[0]
        side = 360 if len(found) == 1 else 96
        small = await service.small(contents, side, model=model.name)
        told = [texts.decode(content)[0] if model.text else "" for content in contents]
        answers = [
            _shown(name, one, thumb, text)
            for (name, _), one, thumb, text in zip(items, found, small, told, strict=True)
        ]
        values: dict[str, Any] = {"answers": answers, "csv": _csv(answers), "model": model, "why": None, "facts": []}
        values["given"], one = told[0] if len(told) == 1 and asked.items else "", found[0]
        if len(found) == 1 and isinstance(one, Answer):
            values["code"] = _code(_host(request, service), model, asked, items[0][0], told[0])
            names = one.rivals if one.level == "unsure" else one.rivals[:1]
            values["facts"] = (
                [] if one.unlike else cards.at_a_glance(names, cards.fitting(model.classes, known, words.of(request)))
            )
        if _part(request):
            return page(request, "_answers.html", **values)
        if len(found) == 1:
            values["why"] = _why(await service.explain(contents[0], model=model.name, near=_NEAR))
        del values["model"]
        return _front(request, service, model, await asyncio.to_thread(shown[model.name]), **values)


def _reasons(router: APIRouter, service: Service, shown: dict[str, examples.Following]) -> None:
    @router.post("/explain")
    async def explain(request: Request) -> HTMLResponse:
        model = service.model(request.query_params.get("model", ""))
        with tracing.stage("read"):
            asked = await uploads.read(request, service.settings, text=model.text)
        items = _items(asked, await asyncio.to_thread(shown[model.name]))
        if len(items) != 1:
            raise Problem("bad_request", "One thing at a time can be explained.", "Send one.")
        found = await service.explain(items[0][1], model=model.name, label=asked.fields.get("label", ""), near=_NEAR)
        return page(request, "_why.html", why=_why(found), model=model)

    @router.get("/examples/{model}/{number}")
    async def example(model: str, number: int) -> Response:
        items = (await asyncio.to_thread(shown[service.model(model).name])).items
        if not 0 <= number < len(items):
            raise Problem("not_found", "There is no such example.")
        content = items[number].content
        kind = "image/png" if content[:1] == b"\x89" else "image/jpeg"
        if service.model(model).text:
            kind, content = "text/plain", texts.decode(content)[0].encode(errors="replace")
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def _items(asked: uploads.Asked, shown: examples.Examples) -> list[tuple[str, bytes]]:
    """What was sent, or the example that was chosen."""
    if asked.items or "example" not in asked.fields:
        return list(asked.items)
    one = shown.items[asked.number("example", 0, least=0, most=len(shown.items) - 1)]
    return [(one.name, one.content)]


def _about(router: APIRouter, service: Service) -> None:
    @router.get("/about")
    async def about(request: Request) -> HTMLResponse:
        model = service.model(request.query_params.get("model", ""))
        return page(request, "about.html", model=model, models=list(service.slots))

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        owner(request)
        host = _host(request, service)
        asks = [
            snippets.of_text(host, name, "The match ended in a draw.")
            if slot.current.text
            else snippets.of_picture(host, name, "photo.jpg")
            for name, slot in service.slots.items()
        ]
        lines = [languages[0][1] for languages in asks]
        return page(request, "docs.html", api=request.app.openapi(), host=host, lines=lines, models=[])

    @router.get("/openapi.json")
    async def described(request: Request) -> JSONResponse:
        owner(request)
        return JSONResponse(request.app.openapi())


def _opinions(router: APIRouter, service: Service) -> None:
    @router.post("/feedback")
    async def feedback(request: Request) -> HTMLResponse:
        async with request.form(max_files=0, max_fields=10) as form:
            told = {key: str(form.get(key, ""))[:2000] for key in ("id", "verdict", "label", "comment")}
        if told["label"] and told["label"] == (await asyncio.to_thread(service.result, told["id"])).label:
            told |= {"verdict": "right", "label": ""}  # the label that was meant where nothing like it was seen
        made = await asyncio.to_thread(service.judge, told["id"], told["verdict"], told["label"], told["comment"])
        name = "_thanks.html" if _part(request) else "thanks.html"
        return page(request, name, feedback=made, told=told, models=[], undone=False)

    @router.post("/feedback/undo")
    async def undo(request: Request) -> HTMLResponse:
        async with request.form(max_files=0, max_fields=10) as form:
            name = str(form.get("feedback", ""))
        if not await asyncio.to_thread(service.store.unjudge, name):
            raise Problem("not_found", "There is no such feedback.", "It may have been taken back already.")
        name = "_thanks.html" if _part(request) else "thanks.html"
        return page(request, name, feedback="", told={}, models=[], undone=True)


def _sharing(router: APIRouter, service: Service) -> None:
    @router.post("/share")
    async def share(request: Request) -> HTMLResponse:
        asked = await uploads.read(request, service.settings, text=False)
        if len(asked.items) != 1:
            raise Problem("bad_request", "One answer at a time can be shared.", "Send one picture.")
        answer = await asyncio.to_thread(service.result, asked.fields.get("id", ""))
        import hashlib

        if hashlib.sha256(asked.contents[0]).hexdigest() != answer.sha256:
            raise Problem("unprocessable", "That isn't what the answer was about.", "Ask again, then share.")
        model = service.model(answer.model)
        (small,) = await service.small(asked.contents, 720, model=model.name)
        made, until = await asyncio.to_thread(service.store.share, answer.id, small, service.settings.share_days)
        return page(request, "_shared.html", link=f"{_host(request, service)}/r/{made}", share=made, until=until)

    @router.get("/r/{name}")
    async def shared(request: Request, name: str) -> HTMLResponse:
        found = await asyncio.to_thread(service.store.shared, name) if len(name) <= 64 else None
        if found is None:
            raise Problem("not_found", "This link has ended, or never was one.", "Ask who sent it for another.")
        answer, until, picture = found
        one = _shown("", answer, picture)
        return page(request, "shared.html", one=one, until=until, share=name, models=[])

    @router.post("/r/{name}/end")
    async def end(request: Request, name: str) -> HTMLResponse:
        if len(name) > 64 or not await asyncio.to_thread(service.store.unshare, name):
            raise Problem("not_found", "This link has ended already.")
        return page(request, "_ended.html", models=[])


def _shown(name: str, one: Answer | Problem, thumb: bytes, text: str = "") -> dict[str, Any]:
    """An answer, or a problem, with what is shown around it."""
    picture = f"data:image/jpeg;base64,{base64.b64encode(thumb).decode()}" if thumb else ""
    beginning = text[:_LETTERS] + (" …" if len(text) > _LETTERS else "")
    around = {"name": name, "picture": picture, "text": beginning}
    if isinstance(one, Problem):
        return {**around, "problem": one, "said": None, "top": ()}
    return {**around, "problem": None, "said": one, "top": one.top[:_TOP]}


def _code(host: str, model: Served, asked: uploads.Asked, name: str, text: str) -> snippets.Snippets:
    """The lines that ask this model about this very thing again."""
    if model.text:
        return snippets.of_text(host, model.name, text)
    place = "" if asked.items else f"/examples/{quote(model.name, safe='')}/{int(asked.fields['example'] or 0)}"
    return snippets.of_picture(host, model.name, name, place)


def _why(found: dict[str, Any]) -> dict[str, Any]:
    return {**found["said"], "pieces": found["pieces"]}


def _csv(answers: Sequence[dict[str, Any]]) -> str:
    """The answers as a table in a `data:` address; empty for a single one."""
    if len(answers) < 2:
        return ""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["file", "label", "probability", "level", "known", "model", "version", "problem"])
    for one in answers:
        said, found = one["said"], one["problem"]
        name = one["name"]
        safe = f"'{name}" if name[:1] in "=+-@\t\r" and name else name  # or a spreadsheet would run it
        if said is None:
            writer.writerow([safe, "", "", "", "", "", "", found.detail])
        else:
            known = said.known and not said.unlike
            writer.writerow(
                [safe, said.label, f"{said.probability:.6f}", said.level, known, said.model, said.version, ""]
            )
    return "data:text/csv;base64," + base64.b64encode(file.getvalue().encode()).decode()


def _host(request: Request, service: Service) -> str:
    """The address of this site as the visitor has it; a proxy that is believed says whether it speaks TLS."""
    told = request.headers.get("x-forwarded-proto", "") if service.settings.proxy else ""
    return f"{told if told in ('http', 'https') else request.url.scheme}://{request.url.netloc}"
