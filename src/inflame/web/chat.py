"""The chatbot: facts from cards, quoted with their sources; or worded by an endpoint, checked against the same facts.

It has no tools, fetches nothing and remembers nothing: a question has nothing to gain by giving orders.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from inflame import plugins
from inflame.errors import InflameError, UserError
from inflame.web import cards, helped, pages, uploads, words
from inflame.web.answers import Answer
from inflame.web.budget import Budget
from inflame.web.door import network
from inflame.web.monitoring import of_log
from inflame.web.problems import Problem
from inflame.web.remote import Remote
from inflame.web.retrieval import Found, Retrieval
from inflame.web.schemas import problems
from inflame.web.service import Service

log = logging.getLogger("inflame.web")

LONGEST = 500  # letters of a question
HOURLY = 60  # worded answers for each visitor
_HEARTBEAT = 1.0  # seconds in which nothing came
_SECONDS = 25.0  # for a worded answer, then the facts answer
_TALKS = 8  # worded at a time; more are answered offline

Event = tuple[str, dict[str, Any]]

_ENOUGH = "You have had many worded answers in this hour. Here are the facts themselves."

# What can be asked of a thing, by slot.
_SUGGESTED = {
    "look": "What does the {name} look like?",
    "like": "What is the {name} mistaken for?",
    "range": "Where does the {name} live?",
    "diet": "What does the {name} eat?",
    "season": "When can the {name} be seen?",
    "life": "How does the {name} grow up?",
    "use": "What is the {name} used for?",
    "name": "Where does the name of the {name} come from?",
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
    """One sentence and the numbers of its sources; none for what the chatbot says of itself. `language`: where it is
    another than that of the answer."""

    text: str
    cites: tuple[int, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer: how sure the picture's answer is, and the facts. `by`: who worded it; "": nobody, these are
    quotes."""

    sentences: tuple[Sentence, ...]
    sources: tuple[Source, ...] = ()
    by: str = ""

    @property
    def topic(self) -> str:
        """What it is about: the best of its sources."""
        return self.sources[0].about if self.sources else ""

    @property
    def hedge(self) -> tuple[Sentence, ...]:
        """What stands before the facts."""
        return tuple(one for one in self.sentences if not one.cites)

    @property
    def facts(self) -> tuple[Sentence, ...]:
        """The facts alone."""
        return tuple(one for one in self.sentences if one.cites)


@final
class Chat:
    """Answers questions about one model's classes. `remote`: who words the answers, if anyone; `budget`: how often for
    one visitor."""

    def __init__(
        self,
        classes: Sequence[str],
        name: str,
        card: str,
        remote: Any = None,
        *,
        budget: Budget | None = None,
        among: cards.Library | None = None,
    ) -> None:
        model = cards.of_model(name, card, classes)
        self._finds = {
            language: Retrieval([*cards.fitting(classes, among, language), model], language)
            for language in words.languages()
        }
        self.find, self.remote = self._finds["en"], remote
        self._budget = budget or Budget(HOURLY)
        self._talking = asyncio.Semaphore(_TALKS)
        self.suggested = _suggestions(tuple(self.find.cards.values()))

    def reply(self, question: str, about: Answer | None, language: str = "en", topic: str = "") -> Reply:
        """The facts themselves, in that language as far as there are any. `topic`: what the answer before was about."""
        say, found = words.say(language), self._finds[language](question, _seen(about), topic=topic)
        if not found:
            return Reply(sentences=(Sentence(text=self._only(say)),))
        hedge = self._hedge(found, about, say)
        told = [_quoted(one.fact, number, language) for number, one in enumerate(found, 1)]
        if "en" in [one.language for one in told]:
            hedge = [Sentence(text=say("The sources are in English.")), *hedge]
        return Reply(sentences=(*hedge, *told), sources=_sources(found))

    async def stream(
        self, question: str, about: Answer | None, language: str, client: str = "", topic: str = ""
    ) -> AsyncIterator[Event]:
        """Events of an answer: sentence …, sources, by, done. Where an endpoint words it and fails, the facts follow;
        after something was said already, `by` and `cut` come before them. To be read in one task: the deadline holds
        in that alone. client: whose budget it is."""
        reply = self.reply(question, about, language, topic)
        if self.remote is None or not reply.sources or self._talking.locked():
            events = _events(reply.sentences, reply.sources)
        elif not self._budget.take(client):
            events = _events((Sentence(text=words.say(language)(_ENOUGH)), *reply.sentences), reply.sources)
        else:
            async for event in self._worded(question, about, reply, language, topic):
                yield event
            return
        for event in events:
            yield event

    async def _worded(
        self, question: str, about: Answer | None, reply: Reply, language: str, topic: str
    ) -> AsyncIterator[Event]:
        found = self._finds[language](question, _seen(about), count=5, topic=topic)
        said, whole = 0, False
        for one in reply.hedge:
            yield _sentence(one)
        try:
            async with asyncio.timeout(_SECONDS), self._talking:
                async for text, numbers in self.remote.answer(question, [one.fact for one in found], language):
                    said += 1
                    yield _sentence(Sentence(text=text, cites=tuple(numbers)))
            whole = True
        except (InflameError, TimeoutError) as error:
            log.warning("chat", extra={"error": f"{type(error).__name__}: {error}"})
        if said and whole:
            events = _events((), _sources(found), by=self.remote.model)
        elif said:
            yield "by", {"model": self.remote.model}
            yield "cut", {}
            events = _events(reply.facts, _sources(found))
        else:
            events = _events(reply.facts, reply.sources)
        for event in events:
            yield event

    def _hedge(self, found: Sequence[Found], about: Answer | None, say: words.Say) -> list[Sentence]:
        """How sure the picture's answer is, where the facts hang on it."""
        if about is None or about.label not in {one.fact.about for one in found}:
            return []
        name, share = words.pretty(about.label), round(100 * about.probability)
        if about.unlike:
            return [
                Sentence(text=say("It is unlike anything I have seen. If it is of the kind {a} nevertheless:", a=name))
            ]
        if about.level in ("almost_certain", "very_likely"):
            return []
        return [Sentence(text=say("If it is of the kind {a}, which is {p} % likely:", a=name, p=share))]

    def _only(self, say: words.Say) -> str:
        names = [words.pretty(about) for about in self.find.cards if about != "this model"]
        listed = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        if not names:
            return say("I only know about this model: how good it is, what it was made from, what its limits are.")
        return say("I only know about these: {names}. And about this model.", names=listed)


@final
class Chats:
    """A chat for each model of the site, about the version that answers now. Raises DataError for a broken card."""

    def __init__(self, service: Service) -> None:
        self._service, self._remote, self._budget = service, endpoint(), Budget(hourly())
        self._cards = cards.library(service.settings.cards)
        self._made: dict[str, tuple[str, Chat]] = {}
        for name in service.slots:
            self(name)

    def __call__(self, name: str = "") -> Chat:
        """That of a model; of the first without a name. Raises Problem."""
        model = self._service.model(name)
        version, found = self._made.get(model.name, ("", None))
        if found is None or version != model.version:
            found = Chat(model.classes, model.name, model.card, self._remote, budget=self._budget, among=self._cards)
            self._made[model.name] = model.version, found
        return found


def endpoint() -> Any:
    """Who words the answers, as the environment says; None: nobody. INFLAME_CHAT names a plugin (default: openai)."""
    url = os.environ.get("INFLAME_CHAT_URL", "")
    if not url:
        return None
    made = plugins.load("chat", os.environ.get("INFLAME_CHAT", "openai"))
    return made(url, os.environ.get("INFLAME_CHAT_MODEL", "default"), os.environ.get("INFLAME_CHAT_KEY", ""))


def hourly() -> int:
    """How many answers each visitor may have worded in an hour, as the environment says. Raises UserError."""
    word = os.environ.get("INFLAME_CHAT_HOURLY", "") or str(HOURLY)
    if not word.isascii() or not word.isdigit():
        raise UserError(
            f'"{word[:40]}" is no number of answers.',
            where="INFLAME_CHAT_HOURLY",
            remedy=f"export INFLAME_CHAT_HOURLY={HOURLY}",
        )
    return int(word)


def openai(url: str, model: str, key: str) -> Remote:
    """The plugin: any endpoint that speaks as OpenAI's."""
    return Remote(url, model, key)


def routes(service: Service) -> APIRouter:
    """The page and the stream."""
    router = APIRouter()
    chats = Chats(service)
    _page(router, service, chats)

    @router.post(
        "/v1/chat",
        tags=["chat"],
        summary="Ask about what the model knows",
        responses=problems("bad_request", "forbidden", "slow", "too_large", "unprocessable", "busy"),
    )
    async def ask(request: Request) -> StreamingResponse:
        """Server-sent events: `sentence` {text, cites; lang: what it is in, if not in the language of the answer},
        `sources`, `by` {model: who worded it; "": nobody, these are quotes}, `done`; `cut` where the model broke off,
        and quotes follow; `bye` when the server stops.
        The body: {"question": …, "about": id of a result, or "model": its name, "topic": what the sources before were
        `about`, for "it" to mean that, "language": "en"}."""
        told = uploads.as_object(await request.body())
        question = uploads.text_of(told, "question", LONGEST).strip()
        about = _about(service, uploads.text_of(told, "about", 64))
        model, topic = uploads.text_of(told, "model", 200), uploads.text_of(told, "topic", 200)
        language = words.chosen(uploads.text_of(told, "language", 10), "")
        if not question:
            raise Problem("bad_request", "There is no question.", '{"question": "…"}')
        talk = chats(about.model if about else model)
        events = _told(service, talk.stream(question, about, language, network(request.state.client), topic))
        heads = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=heads)

    _opinions(router, service)
    return router


def _opinions(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/chat/feedback",
        tags=["chat"],
        status_code=201,
        summary="Say whether an answer helped",
        responses=problems(
            "bad_request", "forbidden", "not_found", "slow", "too_large", "unprocessable", "busy", "storage"
        ),
    )
    async def say(request: Request) -> JSONResponse:
        """The body: {"verdict": "good" or "bad", "reason": a text, "model": which}; or, for a reason that comes later,
        {"feedback": what this answered, "reason": a text}. Kept without the question and the answer."""
        told = uploads.as_object(await request.body())
        verdict, model = uploads.text_of(told, "verdict", 10), uploads.text_of(told, "model", 200)
        reason = " ".join(uploads.text_of(told, "reason", helped.LETTERS).split())
        if name := uploads.text_of(told, "feedback", 64):
            if not await of_log(helped.explain, service.store.log, name, reason):
                raise Problem("not_found", "There is no such feedback.", "Say first whether the answer helped.")
            return JSONResponse({"feedback": name}, 201)
        if verdict not in helped.VERDICTS:
            raise Problem("unprocessable", "That is no verdict.", 'Say "good" or "bad".')
        thumb = helped.Thumb(verdict=verdict, reason=reason, model=service.model(model).name)
        made = await of_log(helped.keep, service.store.log, thumb)
        service.metrics.helped.labels(verdict).inc()
        return JSONResponse({"feedback": made}, 201)


def _page(router: APIRouter, service: Service, chats: Chats) -> None:
    @router.get("/ask", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        question = request.query_params.get("q", "")[:LONGEST].strip()
        about = _about(service, request.query_params.get("about", ""))
        served = service.model(about.model if about else request.query_params.get("model", ""))
        model, talk = served.name, chats(served.name)
        speak = pages.speaking(request)
        topic = request.query_params.get("topic", "")[:200]
        reply = talk.reply(question, about, words.of(request), topic) if question else None
        suggested = talk.suggested
        if about is not None:
            own = [one for one in suggested if words.pretty(about.label) in one]
            suggested = [*own, *(one for one in suggested if one not in own)]
        values: dict[str, Any] = {"question": question, "reply": reply, "about": about, "suggested": suggested[:6]}
        values["reasons"] = {said: [(why, speak(why)) for why in some] for said, some in helped.REASONS.items()}
        values |= {
            "model": model,
            "models": list(service.slots),
            "kept": pages.kept(service, model),
            "text": served.text,
        }
        values["topic"] = reply.topic or topic if reply else ""
        values["remote"] = talk.remote.model if talk.remote is not None else ""
        return pages.page(request, "ask.html", facts=len(talk.find.facts), **values)


async def _told(service: Service, events: AsyncIterator[Event]) -> AsyncIterator[str]:
    """As text, with a heartbeat where nothing comes, and a farewell when the server stops. When nobody listens any
    more, whoever words the answer is let go."""
    found = asyncio.Queue[Event | None]()
    task = asyncio.create_task(_listen(events, found))
    try:
        while True:
            try:
                event = await asyncio.wait_for(found.get(), _HEARTBEAT)
            except TimeoutError:
                yield "event: bye\ndata: {}\n\n" if service.draining else ": still here\n\n"
                if service.draining:
                    return
                continue
            if event is None:
                return
            yield f"event: {event[0]}\ndata: {json.dumps(event[1], ensure_ascii=False)}\n\n"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _listen(events: AsyncIterator[Event], found: asyncio.Queue[Event | None]) -> None:
    """All in one task, in which a deadline holds."""
    try:
        async for event in events:
            found.put_nowait(event)
    finally:
        found.put_nowait(None)


def _about(service: Service, result: str) -> Answer | None:
    return service.store.find(result) if 0 < len(result) <= 64 else None


def _events(sentences: Sequence[Sentence], sources: Sequence[Source], by: str = "") -> list[Event]:
    """How an answer is told to its end."""
    told = [_sentence(one) for one in sentences]
    return [*told, ("sources", {"sources": [_plain(one) for one in sources]}), ("by", {"model": by}), ("done", {})]


def _sentence(one: Sentence) -> Event:
    return "sentence", {"text": one.text, "cites": list(one.cites)} | ({"lang": one.language} if one.language else {})


def _quoted(fact: cards.Fact, number: int, language: str) -> Sentence:
    other = fact.language if fact.language != language else ""
    return Sentence(text=fact.text, cites=(number,), language=other)


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
