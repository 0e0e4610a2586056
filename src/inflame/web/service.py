"""What the website does, without HTTP: answers, explanations, opinions. Pages, API and other protocols stand on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

from inflame.artifact import seen
from inflame.artifact.preprocess import PictureError
from inflame.errors import InflameError
from inflame.monitor.entries import SHADOW, Entry
from inflame.web import memory, tracing
from inflame.web.answers import Answer
from inflame.web.batching import Batcher, Refused
from inflame.web.door import Door
from inflame.web.metrics import Metrics
from inflame.web.problems import Problem, of
from inflame.web.served import Served
from inflame.web.settings import Settings
from inflame.web.slots import Slot, Where, opened, unknown
from inflame.web.store import Store
from inflame.web.trials import Plan, Trial

log = logging.getLogger("inflame.web")

_CANARY = object()  # waits in a queue as contents do: the model answers its canaries

CANARY = 15.0  # seconds between canaries
AGAIN = 2.0  # and after a round that went wrong
STALE = 45.0  # without an answered canary for so long the server isn't ready


@final
class Service:
    """The models of one site, and all that goes around their answers. `start` and `stop` belong to the event loop."""

    def __init__(
        self,
        folders: Mapping[str, Where],
        settings: Settings,
        begun: Mapping[str, Served] = MappingProxyType({}),
        plan: Plan | None = None,
    ) -> None:
        self.settings = settings
        self.slots = opened(folders, settings, begun)
        first = next(iter(self.slots))
        try:
            self.trials = {first: Trial(first, plan, settings)} if plan is not None else {}
        except InflameError:
            for slot in self.slots.values():
                slot.close()
            raise
        self._mirrored = set[asyncio.Task[None]]()
        self.store = Store(settings.log, self._again, settings.keep_days)
        for one in self._all():
            self._register(one)
        self.metrics, self.door = Metrics(), Door(settings)
        self._explaining = asyncio.Semaphore(settings.workers)
        self._queues = {name: self._queue(slot) for name, slot in self.slots.items()}
        self._answered = time.monotonic()  # when a canary was, lately: the models have just been loaded
        self._unkept = ""  # why a row could not be written to the log's database, when that was last tried
        self._probing: asyncio.Task[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.draining = False
        self.metrics.watch("queue_depth", "Items that wait", lambda: sum(q.depth for q in self._queues.values()))
        self.metrics.watch("pending", "Items in work", lambda: sum(q.pending for q in self._queues.values()))
        self.metrics.watch("dropped", "Items nobody waited for", lambda: sum(q.dropped for q in self._queues.values()))
        self.metrics.watch("deaths", "Processes of models that died", self._deaths)
        self.metrics.watch("ready", "Whether /readyz says so", lambda: float(not self.unready()))
        for slot in self.slots.values():
            self._announce(slot.current)

    # --- answers -------------------------------------------------------------------------------------

    def model(self, name: str = "") -> Served:
        """The version that answers now under that name; the first model without one. Raises Problem."""
        chosen = name or next(iter(self.slots))
        if chosen not in self.slots:
            raise Problem("not_found", unknown(chosen, list(self.slots)).message, f"One of: {', '.join(self.slots)}")
        return self.slots[chosen].current

    def full(self, model: str = "") -> Problem | None:
        """What is wrong where that model takes nothing at present: so that nobody reads what it would refuse."""
        queue = self._queues.get(model or next(iter(self.slots)))
        try:
            if queue is not None:
                queue.admit()
        except Refused as refused:
            return of(refused)
        return None

    async def classify(
        self,
        contents: Sequence[bytes],
        *,
        model: str = "",
        source: str = "api",
        client: str = "",
        consent: bool = False,
    ) -> list[Answer | Problem]:
        """One answer for each content, kept; a Problem stands for what can't be read. Raises Problem.

        client: who asks, for a canary's share; consent: whoever sent the contents lets them be kept, to learn from.
        """
        chosen = self.model(model).name
        if not contents:
            raise Problem(
                "bad_request",
                "There is nothing to classify.",
                'Send a picture as the field "file", or a text as "text".',
            )
        if len(contents) > self.settings.files:
            raise Problem(
                "too_large", f"{len(contents)} at once are too many.", f"Send at most {self.settings.files} at a time."
            )
        began = time.perf_counter()
        try:
            found = await self._found(chosen, contents, client)
        except Refused as refused:
            raise of(refused) from None
        taken = time.perf_counter() - began
        answered = [content for one, content in zip(found, contents, strict=True) if isinstance(one, Answer)]
        agreed = iter(
            await self._copies(chosen, lambda one: one.bare(answered), len(answered)) if consent and answered else ()
        )
        for one in found if len(found) > 1 else ():  # alone, it is the answer, and is counted where that is sent
            if isinstance(one, Problem):
                self.metrics.rejected.labels(one.reason).inc()
        return [self._kept(one, source, taken, agreed) for one in found]

    async def _found(self, chosen: str, contents: Sequence[bytes], client: str) -> list[Any]:
        """What the model says, or to some clients its canary. Raises Refused."""
        trial, within = self.trials.get(chosen), self.settings.deadline
        if trial is None or trial.ended:
            return await tracing.queued(self._queues[chosen], contents, within)
        if trial.takes(client) and (told := await self._of_canary(trial, contents)) is not None:
            return told
        began = time.perf_counter()
        found = await tracing.queued(self._queues[chosen], contents, within)
        trial.count(time.perf_counter() - began, mine=False, failed=any(map(_mistaken, found)))
        if trial.plan.kind == "shadow":
            seen = trial.mirror(contents, found, within, self._kept_of_shadow)
            task = asyncio.create_task(seen)
            self._mirrored.add(task)
            task.add_done_callback(self._mirrored.discard)
        return found

    async def _of_canary(self, trial: Trial, contents: Sequence[bytes]) -> list[Any] | None:
        """What the canary says; None where it fails, so that the model can still be asked in time."""
        began, found = time.perf_counter(), list[Any]()
        with contextlib.suppress(Refused):
            found = await tracing.queued(trial.queue, contents, self.settings.deadline / 2)
        failed = not found or any(map(_mistaken, found))
        why = trial.count(time.perf_counter() - began, mine=True, failed=failed)
        if why:
            log.error("canary ended", extra={"version": trial.served.version, "why": why})
        return None if failed else found

    async def _copies(self, model: str, make: Callable[[Served], list[bytes]], count: int) -> list[bytes]:
        """What is made of so many things; empty for all where that fails, or isn't done in time."""
        chosen = self.model(model)
        try:
            async with asyncio.timeout(self.settings.deadline):
                return await asyncio.to_thread(make, chosen)
        except (TimeoutError, InflameError, Problem):
            return [b""] * count

    def _kept_of_shadow(self, answer: Answer) -> None:
        self.store.keep(answer, SHADOW)

    async def explain(self, content: bytes, *, model: str = "", label: str = "", near: int = 6) -> dict[str, Any]:
        """Why, as Served.explain tells it; a few at a time, and each in its time. Raises Problem."""
        chosen = self.model(model)
        try:
            async with asyncio.timeout(self.settings.deadline), self._explaining:
                with tracing.stage("explain"):
                    return await asyncio.to_thread(chosen.explain, content, label, near)
        except TimeoutError:
            raise of(Refused("late")) from None
        except InflameError as error:
            raise of(error) from None

    async def small(self, contents: Sequence[bytes], side: int, *, model: str = "") -> list[bytes]:
        """A small JPEG of each picture; empty for a text, and for what can't be read or not in time."""
        return await self._copies(model, lambda one: one.small_copies(contents, side), len(contents))

    def result(self, name: str) -> Answer:
        """The kept answer with that id. Raises Problem."""
        found = self.store.find(name) if len(name) <= 64 and name.isascii() else None
        if found is None:
            raise Problem("not_found", "There is no such result, or it has been removed.", "Ask again.")
        return found

    def judge(self, result: str, verdict: str, label: str = "", comment: str = "") -> str:
        """Keeps that an answer is right or wrong; the id for undo. Raises Problem."""
        answer = self.result(result)
        classes = {name for slot in self.slots.values() if slot.name == answer.model for name in slot.current.classes}
        if verdict not in ("right", "wrong"):
            raise Problem("unprocessable", f'"{verdict[:40]}" is no verdict.', 'Say "right" or "wrong".')
        if label and label not in classes and label != "other":
            raise Problem("unprocessable", "The model has no such class.", 'Name one of its classes, or "other".')
        if label == "other":
            label, comment = "", f"other {comment}".strip()
        return self.store.judge(result, verdict, label if verdict == "wrong" else "", comment)

    def _kept(self, one: Any, source: str, taken: float, agreed: Iterator[bytes]) -> Answer | Problem:
        if isinstance(one, Answer):
            self.metrics.predictions.labels(one.model, one.version, one.level).inc()
            return self.store.keep(_timed(one, taken), source, next(agreed, b""))
        if isinstance(one, InflameError):
            self.metrics.unreadable.labels(one.kind if isinstance(one, PictureError) else "other").inc()
        elif not isinstance(one, Problem):
            log.error("mistake", extra={"error": f"{type(one).__name__}: {one}"})
        return of(one)

    def _again(self, entry: Entry) -> Answer | None:
        return next((one.again(entry) for one in self._all() if one.version == entry.model), None)

    def _all(self) -> list[Served]:
        """Every version that can answer."""
        known = [one for slot in self.slots.values() for one in slot.versions]
        return known + [trial.served for trial in self.trials.values()]

    def _register(self, model: Served) -> None:
        with contextlib.suppress(InflameError):  # a log that is away takes it later
            self.store.log.register(model.version, model.classes, seen.names(text=model.text), model.name)

    def _queue(self, slot: Slot) -> Batcher:
        def seen(size: int, seconds: float) -> None:
            self.metrics.batches.observe(size)
            self.metrics.runs.observe(seconds)

        settings = self.settings

        def act(contents: list[Any]) -> Sequence[Any]:
            model = slot.current  # it is asked for once: no batch is answered by two
            asked = [content for content in contents if content is not _CANARY]
            found = iter(tracing.timed(model.answer, asked) if asked else ())
            return [_lives(model) if content is _CANARY else next(found) for content in contents]

        return Batcher(
            act,
            workers=settings.workers,
            most=slot.current.most,
            room=settings.room,
            soon=settings.soon,
            seconds=slot.current.seconds,
            seen=seen,
        )

    # --- life ----------------------------------------------------------------------------------------

    def unready(self) -> str:
        """Why no requests should come here; empty when they should."""
        if self.draining:
            return "draining"
        away = [slot.name for slot in self.slots.values() if not slot.current.worker.up]
        if away:
            return f"the process of {', '.join(away)} starts again"
        if time.monotonic() - self._answered > STALE:
            return f"no canary was answered rightly for {time.monotonic() - self._answered:.0f} s"
        why = self.store.broken or self._unkept
        return f"results can't be kept: {why}" if why else ""

    async def start(self) -> None:
        """Begins to watch: the models by their canaries, their folders for new versions, the store for old results."""
        self._tasks = [asyncio.create_task(self._canaries()), asyncio.create_task(self._sweep())]
        if self.settings.reload:
            self._tasks.append(asyncio.create_task(self._watch()))

    async def stop(self) -> None:
        """Answers what was accepted, then ends."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._probing is not None:
            await asyncio.wait({self._probing})
        done = await asyncio.gather(*(queue.drain(self.settings.drain) for queue in self._queues.values()))
        log.info("stopped", extra={"answered_all": all(done)})
        for trial in self.trials.values():
            await trial.close(self.settings.drain)
        for slot in self.slots.values():
            await asyncio.to_thread(slot.close)
        self.store.close()

    def _deaths(self) -> float:
        return float(sum(one.worker.deaths for one in self._all()))

    async def _canaries(self) -> None:
        """Tries, again and again, what a visitor needs: an answer of each model, and a row in the log."""
        while True:
            good = await asyncio.gather(*(self._alive(name) for name in self.slots))
            if all(good):
                self._answered = time.monotonic()
            else:
                log.error("canary", extra={"answered": good})
            self._probing = asyncio.create_task(asyncio.to_thread(self.store.probe))
            self._unkept = await asyncio.shield(self._probing)  # no thread writes to a log that is closed
            if self._unkept:
                log.error("not kept", extra={"why": self._unkept})
            await asyncio.to_thread(memory.trim)
            await asyncio.sleep(CANARY if all(good) and not self._unkept else AGAIN)

    async def _alive(self, name: str) -> bool:
        """Whether a model answers its canaries, asked as it is by visitors: where they wait in vain, so do these."""
        with contextlib.suppress(Refused):
            return await self._queues[name]([_CANARY], self.settings.deadline, always=True) == [True]
        return False

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.reload)
            for slot in self.slots.values():
                if slot.changed():
                    taken = await asyncio.to_thread(slot.reload)
                    what = {"model": slot.name, "version": slot.current.version, "trouble": slot.trouble}
                    log.info("new version" if taken else "not taken", extra=what)
                    self._register(slot.current)
                    self._announce(slot.current)

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(InflameError):
                await asyncio.to_thread(self.store.sweep)
            await asyncio.sleep(3600)

    def _announce(self, model: Served) -> None:
        told = {"version": model.version, "created": model.created, "runtime": str(model.runtime["runtime"])}
        self.metrics.model.labels(model.name).info(told)
        log.info("model", extra={"model": model.name, "version": model.version, "runs": model.runtime})


def _mistaken(one: Any) -> bool:
    """Whether that is no answer by a fault of the model, not of what was sent."""
    return isinstance(one, Exception) and not isinstance(one, InflameError)


def _lives(model: Served) -> bool:
    try:
        return model.alive()
    except Exception:  # whatever it is, the model doesn't answer
        return False


def _timed(answer: Answer, seconds: float) -> Answer:
    import dataclasses

    return dataclasses.replace(answer, seconds=seconds)
