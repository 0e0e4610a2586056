"""The chatbot: facts from cards, quoted with their sources; or worded by an endpoint, checked against the same facts.

It has no tools, fetches nothing and remembers nothing: a question has nothing to gain by giving orders.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from inflame import plugins
from inflame.errors import InflameError
from inflame.web import cards, pages, uploads, words
from inflame.web.answers import Answer
from inflame.web.problems import Problem
from inflame.web.remote import Remote
from inflame.web.retrieval import Found, Retrieval
from inflame.web.schemas import problems
from inflame.web.service import Service

log = logging.getLogger("inflame.web")

LONGEST = 500  # letters of a question
_HEARTBEAT = 15.0
_SECONDS = 25.0  # for a worded answer, then the facts answer
_TALKS = 8  # worded at a time; more are answered offline

# What can be asked of a thing, by slot.
_SUGGESTED = {
    "look": "What does a {name} look like?",
    "like": "What is a {name} mistaken for?",
    "range": "Where does a {name} live?",
    "diet": "What does a {name} eat?",
    "season": "When can a {name} be seen?",
    "life": "How does a {name} grow up?",
    "use": "What is a {name} used for?",
    "name": "Where does the name of {name} come from?",
    "model": "How good is this model?",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a number in an answer stands for."""

    number: int
    about: str
    source: str
    licence: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence and the numbers of its sources; none for what the chatbot says of itself."""

    text: str
    cites: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer, without an endpoint."""

    sentences: tuple[Sentence, ...]
    sources: tuple[Source, ...] = ()


@final
class Chat:
    """Answers questions about one model's classes. `remote`: who words the answers, if anyone."""

    def __init__(
        self, classes: Sequence[str], name: str, card: str, remote: Any = None, own: Path | None = None
    ) -> None:
        known = [*cards.fitting(classes, own), cards.of_model(name, card, classes)]
        self.find, self.remote = Retrieval(known), remote
        self._talking = asyncio.Semaphore(_TALKS)
        self.suggested = _suggestions(known)

    def reply(self, question: str, about: Answer | None, say: words.Say) -> Reply:
        """The facts themselves."""
        found = self.find(question, _seen(about))
        if not found:
            return Reply(sentences=(Sentence(text=self._only(say)),))
        hedge = self._hedge(found, about, say)
        told = [Sentence(text=one.fact.text, cites=(n,)) for n, one in enumerate(found, 1)]
        return Reply(sentences=(*hedge, *told), sources=_sources(found))

    async def stream(self, question: str, about: Answer | None, language: str) -> AsyncIterator[tuple[str, Any]]:
        """Events of an answer: sentence …, sources, by, done."""
        say = words.say(language)
        reply = self.reply(question, about, say)
        if self.remote is not None and reply.sources and not self._talking.locked():
            told = 0
            found = self.find(question, _seen(about), count=5)
            hedge = self._hedge(found, about, say)
            try:
                async with asyncio.timeout(_SECONDS), self._talking:
                    for one in hedge:
                        yield "sentence", {"text": one.text, "cites": []}
                    async for text, numbers in self.remote.answer(question, [one.fact for one in found], language):
                        told += 1
                        yield "sentence", {"text": text, "cites": numbers}
            except (InflameError, TimeoutError) as error:
                log.warning("chat", extra={"error": type(error).__name__ + ": " + str(error)})
            if told:
                yield "sources", {"sources": [_plain(one) for one in _sources(found)]}
                yield "by", {"model": self.remote.model}
                yield "done", {}
                return
            reply = Reply(sentences=reply.sentences[len(hedge) :], sources=reply.sources)
        for one in reply.sentences:
            yield "sentence", {"text": one.text, "cites": list(one.cites)}
        yield "sources", {"sources": [_plain(one) for one in reply.sources]}
        yield "by", {"model": ""}
        yield "done", {}

    def _hedge(self, found: Sequence[Found], about: Answer | None, say: words.Say) -> list[Sentence]:
        """How sure the picture's answer is, where the facts hang on it."""
        if about is None or about.label not in {one.fact.about for one in found}:
            return []
        name, share = words.pretty(about.label), round(100 * about.probability)
        if about.unlike:
            return [
                Sentence(text=say("Your picture is unlike anything I have seen. If it is a {a} nevertheless:", a=name))
            ]
        if about.level in ("almost_certain", "very_likely"):
            return []
        return [Sentence(text=say("If your picture shows a {a}, which is {p} % likely:", a=name, p=share))]

    def _only(self, say: words.Say) -> str:
        names = [words.pretty(about) for about in self.find.cards if about != "this model"]
        listed = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        if not names:
            return say("I only know about this model: how good it is, what it was made from, what its limits are.")
        return say("I only know about these: {names}. And about this model.", names=listed)


def endpoint() -> Any:
    """Who words the answers, as the environment says; None: nobody. INFLAME_CHAT names a plugin (default: openai)."""
    url = os.environ.get("INFLAME_CHAT_URL", "")
    if not url:
        return None
    made = plugins.load("chat", os.environ.get("INFLAME_CHAT", "openai"))
    return made(url, os.environ.get("INFLAME_CHAT_MODEL", "default"), os.environ.get("INFLAME_CHAT_KEY", ""))


def openai(url: str, model: str, key: str) -> Remote:
    """The plugin: any endpoint that speaks as OpenAI's."""
    return Remote(url, model, key)


def routes(service: Service) -> APIRouter:
    """The page and the stream."""
    router = APIRouter()
    remote = endpoint()
    talks = {
        name: Chat(slot.current.classes, name, slot.current.card, remote, service.settings.cards)
        for name, slot in service.slots.items()
    }
    _page(router, service, talks)

    @router.post(
        "/v1/chat",
        tags=["chat"],
        summary="Ask about what the model knows",
        responses=problems("bad_request", "forbidden", "slow", "too_large", "unprocessable", "busy"),
    )
    async def ask(request: Request) -> StreamingResponse:
        """Server-sent events: `sentence` {text, cites}, `sources`, `by`, `done`; `bye` when the server stops.
        The body: {"question": …, "about": id of a result, "language": "en"}."""
        told = uploads.as_object(await request.body())
        question = uploads.text_of(told, "question", LONGEST).strip()
        about = _about(service, uploads.text_of(told, "about", 64))
        language = words.chosen(uploads.text_of(told, "language", 10), "")
        if not question:
            raise Problem("bad_request", "There is no question.", '{"question": "…"}')
        talk = talks[about.model if about else next(iter(talks))]
        events = _events(service, talk.stream(question, about, language))
        heads = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=heads)

    @router.post(
        "/v1/chat/feedback",
        tags=["chat"],
        status_code=204,
        summary="Say whether an answer helped",
        responses=problems("bad_request", "forbidden", "slow", "too_large", "unprocessable", "busy"),
    )
    async def helped(request: Request) -> Response:
        """Counted, and noted in the log without the question."""
        told = uploads.as_object(await request.body())
        verdict = uploads.text_of(told, "verdict", 10)
        if verdict not in ("good", "bad"):
            raise Problem("unprocessable", "That is no verdict.", 'Say "good" or "bad".')
        service.metrics.helped.labels(verdict).inc()
        return Response(status_code=204)

    return router


def _page(router: APIRouter, service: Service, talks: dict[str, Chat]) -> None:
    @router.get("/ask", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        question = request.query_params.get("q", "")[:LONGEST].strip()
        about = _about(service, request.query_params.get("about", ""))
        talk = talks[about.model if about else next(iter(talks))]
        language = words.chosen(request.query_params.get("lang", ""), request.headers.get("accept-language", ""))
        reply = talk.reply(question, about, words.say(language)) if question else None
        suggested = talk.suggested
        if about is not None:
            own = [one for one in suggested if words.pretty(about.label) in one]
            suggested = [*own, *(one for one in suggested if one not in own)]
        values: dict[str, Any] = {"question": question, "reply": reply, "about": about, "suggested": suggested[:6]}
        remote = talk.remote.model if talk.remote else ""
        return pages.page(request, "ask.html", facts=len(talk.find.facts), remote=remote, **values)


async def _events(service: Service, events: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[str]:
    """As text, with a heartbeat where nothing comes for long, and a farewell when the server stops."""
    waiting = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=min(_HEARTBEAT, 1.0))
            if service.draining and not done:
                yield "event: bye\ndata: {}\n\n"
                return
            if not done:
                yield ": still here\n\n"
                continue
            if (event := waiting.result()) is None:
                return
            yield f"event: {event[0]}\ndata: {json.dumps(event[1], ensure_ascii=False)}\n\n"
            waiting = asyncio.ensure_future(anext(events, None))
    finally:
        waiting.cancel()


def _about(service: Service, result: str) -> Answer | None:
    return service.store.find(result) if 0 < len(result) <= 64 else None


def _seen(about: Answer | None) -> dict[str, float]:
    return dict(about.top[:3]) if about is not None else {}


def _sources(found: Sequence[Found]) -> tuple[Source, ...]:
    return tuple(
        Source(number=n, about=one.fact.about, source=one.fact.source, licence=one.fact.licence, id=one.fact.id)
        for n, one in enumerate(found, 1)
    )


def _plain(source: Source) -> dict[str, Any]:
    return {
        "number": source.number,
        "about": source.about,
        "source": source.source,
        "licence": source.licence,
        "id": source.id,
    }


def _suggestions(known: Sequence[cards.Card]) -> list[str]:
    """Questions that can be answered, of different kinds and about different things first."""
    by_slot = []
    for turn, (slot, asked) in enumerate(_SUGGESTED.items()):
        fitting = [card for card in known if any(fact.slot == slot for fact in card.facts)]
        if fitting:
            first = turn % len(fitting)
            names = [words.pretty(card.about) for card in [*fitting[first:], *fitting[:first]]]
            by_slot.append([asked.format(name=name) for name in names])
    longest = max(map(len, by_slot), default=0)
    found = [questions[row] for row in range(longest) for questions in by_slot if row < len(questions)]
    return list(dict.fromkeys(found))
