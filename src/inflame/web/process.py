"""The process of a model: it reads what strangers send, and answers; `python -m inflame.web.process FD`.

It has no port, no token and no database, opens nothing but its bundle, and may take only so much memory and processor
time. It ends when the website does. See worker.py, which keeps it, and docs/decisions/0014.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, final

from inflame.artifact.bare import bare
from inflame.errors import InflameError
from inflame.monitor import entries
from inflame.web import explaining, memory, parcels, thumbs
from inflame.web.models import Model
from inflame.web.settings import Settings
from inflame.web.wire import Link

ROOM = 2 * 2**30  # bytes that a process may take beyond what it needs to wait
SECONDS = 120  # of the processor, without a word from the website
OTHERS = 2  # threads for what isn't an answer: reasons, small copies

Told = tuple[dict[str, Any], Sequence[bytes]]


@final
class Process:
    """Does what the website asks, over a link, until that ends."""

    def __init__(self, link: Link, model: Model, workers: int) -> None:
        self._link, self._model = link, model
        self._answers = ThreadPoolExecutor(workers, "answer")
        self._others = ThreadPoolExecutor(OTHERS, "other")
        self._does: dict[str, Callable[..., Told]] = {
            "explain": self._explain,
            "small": self._small,
            "bare": self._bare,
            "shown": self._shown,
            "again": self._again,
            "alive": self._alive,
        }

    def run(self) -> None:
        """Until the website has gone."""
        while (asked := self._link.receive()) is not None:
            told, blobs = asked
            _more_time()
            number, do = told.pop("id"), told.pop("do")
            if do == "answer":
                self._answers.submit(self._tell, number, partial(self._answer, number, blobs))
            else:
                self._others.submit(self._begin, number, partial(self._does[do], blobs, **told))

    def _begin(self, number: int, act: Callable[[], Told]) -> None:
        self._say(number, {"at": -1})
        self._tell(number, act)

    def _tell(self, number: int, act: Callable[[], Told]) -> None:
        try:
            told, blobs = act()
        except Exception as error:
            told, blobs = parcels.error_told(error), ()
        self._say(number, told, blobs)

    def _say(self, number: int, told: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        with suppress(OSError):  # the website has gone, and `run` sees it
            self._link.send({"id": number, **told}, blobs)

    def _answer(self, number: int, contents: list[bytes]) -> Told:
        times = [time.perf_counter()]

        def at(place: int) -> None:
            if place < 0:
                times.append(time.perf_counter())
            if place and len(contents) > 1:  # with the first it begins
                self._say(number, {"at": place})

        found, blobs = parcels.wrapped(self._model.answer(contents, at))
        began, read = times
        return {"found": found, "seconds": [read - began, time.perf_counter() - read]}, blobs

    def _explain(self, blobs: list[bytes], *, label: str, near: int) -> Told:
        found = self._model.explain(blobs[0], label, near)
        marked = [piece.to_json() for piece in explaining.pieces(found)] if found.text else []
        return {"said": explaining.told(found), "pieces": marked}, ()

    def _small(self, blobs: list[bytes], *, side: int) -> Told:
        return {}, thumbs.many(blobs, side, text=self._model.text)

    def _bare(self, blobs: list[bytes]) -> Told:
        return {}, [_plain(content) for content in blobs]

    def _shown(self, _: list[bytes], *, count: int) -> Told:
        found = self._model.shown(count)
        return {"near": [{**one.to_json(), "snippet": one.snippet} for one in found]}, [one.thumb for one in found]

    def _again(self, _: list[bytes], *, row: str) -> Told:
        found, blobs = parcels.wrapped([self._model.again(entries.Entry.of(entries.loads(row)))])
        return {"found": found}, blobs

    def _alive(self, _: list[bytes]) -> Told:
        return {"alive": self._model.alive()}, ()


def _plain(content: bytes) -> bytes:
    """The picture without metadata; empty for what can't be taken apart."""
    try:
        return bare(content)
    except Exception:  # decoders raise nearly anything
        return b""


def told(model: Model) -> dict[str, Any]:
    """What the website has to know of a model without having it."""
    return {
        "version": model.version,
        "created": model.created,
        "classes": list(model.classes),
        "about": model.about,
        "card": model.card,
        "text": model.text,
        "seconds": model.seconds,
        "single": model.single,
        "runtime": model.runtime.to_json(),
        "size": model.size,
        "channels": model.channels,
    }


def main(link: Link) -> None:
    """Loads the bundle that the website names, says so, and answers."""
    began = link.receive()
    if began is None:
        return
    asked = began[0]
    try:
        settings = Settings(pixels=asked["pixels"], runtime=asked["runtime"])
        model = Model(asked["name"], Path(asked["folder"]), settings)
    except InflameError as error:
        link.send(parcels.error_told(error))
        return
    memory.keep()
    _limit()
    link.send(told(model))
    Process(link, model, asked["workers"]).run()


def _limit() -> None:
    """No core file (pictures of visitors would be in it), and an end of memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _more_time()
    with suppress(OSError, ValueError):  # no such file but on Linux; a limit that is lower already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _more_time() -> None:
    """Puts the end of processor time off: a process whose website has died can't go on for ever."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(time.process_time()) + SECONDS
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the website, which ends this when all is answered
    main(Link(socket.socket(fileno=int(sys.argv[1]))))
    os._exit(0)  # a picture that is still being read is waited for by nobody
