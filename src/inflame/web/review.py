"""The page where the owner's people name what was asked about: one thing at a time, by a click or a key, with undo.

It works without scripts; with them the keys 1 to 9 press the buttons. Who speaks is who has signed in by name; else it
is a name that the browser remembers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlencode

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from inflame.monitor import inbox
from inflame.monitor.inbox import Candidate
from inflame.web.api import owner
from inflame.web.bundles import known
from inflame.web.monitoring import of_log
from inflame.web.pages import page
from inflame.web.problems import Problem
from inflame.web.served import Served
from inflame.web.service import Service

REVIEWER = "inflame_reviewer"  # the cookie with the name
KEYS = 9  # classes that have a key
SIDE = 640  # pixels of a shown picture
LETTERS = 4000  # of a shown text
_LISTED = 20  # disagreements


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A candidate as the page shows it: a picture's `data:` address or the beginning of a text, both empty where it was
    not kept; `keyed`: the likeliest classes with their probabilities, which have keys, and the `others`."""

    one: Candidate
    picture: str
    text: str
    keyed: tuple[tuple[str, float], ...]
    others: tuple[str, ...]


def routes(service: Service) -> APIRouter:
    """All of it, for the owner alone."""
    router = APIRouter(include_in_schema=False)
    _look(router, service)
    _speak(router, service)
    return router


def _look(router: APIRouter, service: Service) -> None:
    @router.get("/review")
    async def look(request: Request) -> Response:
        owner(request)
        model = service.model(request.query_params.get("model", ""))
        who = _who(request)
        first = request.query_params.get("answer", "")[:64]
        found = await of_log(_found, service, model, who, first) if who else {}
        return page(
            request,
            "review.html",
            model=model,
            models=list(service.slots),
            who=who,
            again=bool(first),
            enough=inbox.ENOUGH,
            **{"shown": None, "waits": 0, "unseen": 0, "accepted": 0, "disputed": (), "named": {}, "log": "", **found},
        )

    @router.post("/review/name")
    async def name(request: Request) -> Response:
        owner(request, "name a reviewer")
        told = await _told(request)
        answer = _back(told)
        answer.set_cookie(
            REVIEWER, quote(inbox.reviewer(told["who"])), httponly=True, samesite="strict", max_age=31_536_000
        )
        return answer


def _speak(router: APIRouter, service: Service) -> None:
    log = service.store.log

    @router.post("/review")
    async def say(request: Request) -> Response:
        owner(request, "review")
        told, who = await _told(request), _who(request)
        if not told["label"] and not told["none"] and not told["other"]:
            raise Problem("bad_request", "No class was chosen.", "Choose one, or say that it is none of them.")
        new = bool(told["other"])
        label = "" if told["none"] else told["other"] or told["label"]
        await of_log(partial(inbox.say, new=new), log, told["answer"], label, who, told["comment"])
        return _back(told)

    @router.post("/review/skip")
    async def skip(request: Request) -> Response:
        owner(request, "skip")
        told = await _told(request)
        await of_log(inbox.skip, log, told["answer"], _who(request))
        return _back(told)

    @router.post("/review/undo")
    async def undo(request: Request) -> Response:
        owner(request, "undo a review")
        told = await _told(request)
        taken = await of_log(inbox.undo, log, _who(request))
        if taken is None:
            raise Problem("not_found", "There is nothing to take back.", "Go on with the next one.")
        request.state.about = taken.answer
        return _back({**told, "answer": taken.answer}, again=True)


def _found(service: Service, model: Served, who: str, first: str) -> dict[str, Any]:
    """What the page shows to this reviewer."""
    log = service.store.log
    service.store.settle()
    every = inbox.waiting(log, model.version, who, known(model).expected)
    held = log.held([one.entry.input for one in every])
    seen = [one for one in every if one.entry.input in held]
    seen.sort(key=lambda one: one.entry.id != first)  # what was taken back comes again at once
    labels = inbox.labels(log)
    return {
        "shown": _shown(service, model, seen[0]) if seen else None,
        "waits": len(seen),
        "unseen": len(every) - len(seen),
        "accepted": len(labels.accepted),
        "disputed": labels.disputed[:_LISTED],
        "named": inbox.named(log),
        "log": log.place,
    }


def _shown(service: Service, model: Served, one: Candidate) -> Shown:
    content = service.store.log.kept(one.entry.input) or b""
    picture = text = ""
    if model.text:
        text = content.decode(errors="replace")[:LETTERS]
    else:
        small = model.small_copies([content], SIDE)[0]
        picture = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else ""
    keyed, others = _classes(model.classes, one.entry.probabilities)
    return Shown(one=one, picture=picture, text=text, keyed=keyed, others=others)


def _classes(
    classes: Sequence[str], probabilities: np.ndarray[Any, Any]
) -> tuple[tuple[tuple[str, float], ...], tuple[str, ...]]:
    """The likeliest classes, and the others by name."""
    shares = np.asarray(probabilities, np.float64)
    if len(shares) != len(classes):
        return tuple((name, 0.0) for name in classes[:KEYS]), tuple(classes[KEYS:])
    order = np.argsort(-shares, kind="stable")
    keyed = tuple((classes[row], float(shares[row])) for row in order[:KEYS])
    return keyed, tuple(sorted(classes[row] for row in order[KEYS:]))


def _who(request: Request) -> str:
    """The reviewer's name, "" where nobody has signed in by name and the browser remembers none."""
    if request.state.owner is not None and request.state.owner.name:
        return str(request.state.owner.name)[:80]
    return unquote(request.cookies.get(REVIEWER, ""))[:80]


async def _told(request: Request) -> dict[str, str]:
    async with request.form(max_files=0, max_fields=10) as form:
        names = ("answer", "label", "none", "other", "comment", "who", "model")
        told = {name: str(form.get(name, ""))[:2000] for name in names}
    request.state.about = told["answer"]
    return told


def _back(told: dict[str, str], *, again: bool = False) -> RedirectResponse:
    """To the next one; or to the same one once more."""
    more = {"model": told["model"], **({"answer": told["answer"]} if again else {})}
    return RedirectResponse(f"/review?{urlencode({key: value for key, value in more.items() if value})}", 303)
