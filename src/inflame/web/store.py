"""What the website remembers: its answers and what people said of them, in the log of the monitor; and what they share.

An answer is written behind its own back, many in one transaction; what a visitor is told is kept (an opinion, a share)
is on disk first. Pictures are kept only where a visitor shares one or lets the model learn from it, for days, without
metadata.
"""

from __future__ import annotations

import queue
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from typing import final

import numpy as np

from inflame import store
from inflame.errors import InflameError, StorageError
from inflame.monitor.entries import VISITOR, Entry, Verdict
from inflame.monitor.log import DAY, KEEP, Log
from inflame.web.answers import Answer

_ROOM = 10_000  # answers that may wait for the disk
_SHARED = 2_000  # links at a time, of some 100 kB each
_GATHERED = 0.2  # seconds for which answers are put together into one transaction
_LATELY = 1_000  # answers that are remembered as they were
_CLASSES = 200_000  # of all of these together
_SHARE = "INSERT INTO shares (id, result, until, picture) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"

_Job = tuple[Entry, bytes]  # what is kept; the thing itself, where whoever sent it agreed


@final
class Store:
    """The log at `uri` ("": where the monitor has it). `again` makes an answer out of an entry of the log, or None
    where its model is gone; what a visitor agrees to is kept for `days`. `broken` says why keeping fails at present;
    answers go on without it. UserError for a log that isn't for this inflame."""

    def __init__(self, uri: str, again: Callable[[Entry], Answer | None], days: float = KEEP) -> None:
        self.log, self.broken, self._again, self._days = Log(uri), "", again, days
        with suppress(StorageError):  # it may come later
            self.sweep()
        self._lately: OrderedDict[str, Answer] = OrderedDict()
        self._classes = 0  # of those
        self._lock = threading.Lock()
        self._waiting: queue.Queue[_Job | threading.Event | None] = queue.Queue(_ROOM)
        self._hurry = threading.Event()  # somebody waits for the disk
        self._writer = threading.Thread(target=self._write, name="log", daemon=True)
        self._writer.start()

    def keep(self, answer: Answer, source: str, content: bytes = b"") -> Answer:
        """The answer with an id of its own, which will be on disk soon. `content`: the thing itself without metadata,
        if whoever sent it agreed."""
        entry = Entry(
            model=answer.version,
            input=answer.sha256,
            label=answer.label,
            probability=answer.probability,
            known=answer.known and not answer.unlike,
            probabilities=np.array(answer.shares, np.float16),
            embedding=np.frombuffer(answer.embedding, np.float16),
            seen=np.frombuffer(answer.seen, np.float32),
            kind=answer.kind,
            latency=answer.seconds,
            source=source,
        )
        named = replace(answer, id=entry.id, time=entry.time, embedding=b"", seen=b"", shares=())
        with self._lock:
            self._lately[named.id] = named
            self._classes += len(named.top)
            while len(self._lately) > _LATELY or self._classes > _CLASSES:
                self._classes -= len(self._lately.popitem(last=False)[1].top)
        try:
            self._waiting.put_nowait((entry, content))
        except queue.Full:
            self.broken = "answers come faster than the disk takes them"
        return named

    def find(self, result: str) -> Answer | None:
        """The answer with that id. Raises RunError when the log is away."""
        with self._lock:
            found = self._lately.get(result)
        if found is not None:
            return found
        entry = self.log.find(result)
        return self._again(entry) if entry is not None else None

    def judge(self, result: str, verdict: str, label: str = "", comment: str = "") -> str:
        """Keeps that an answer is "right", "wrong", or is `label` instead: the name of the opinion, for undo."""
        self.settle()
        said = "label" if verdict == "wrong" and label else verdict
        self.log.verdict(Verdict(answer=result, said=said, label=label, who=VISITOR, comment=comment))
        return result

    def unjudge(self, opinion: str) -> bool:
        """Takes it back; whether there was one."""
        found = self._opinion(opinion)
        if found is None:
            return False
        said, label = found
        self.log.verdict(Verdict(answer=opinion, said=said, label=label, who=VISITOR, taken_back=True))
        return True

    def judged(self, result: str) -> dict[str, str] | None:
        """What was said of an answer."""
        found = self._opinion(result)
        return {"id": result, "verdict": found[0], "label": found[1]} if found else None

    def share(self, result: str, picture: bytes, days: float) -> tuple[str, float]:
        """Keeps a picture (without metadata) with its answer for some days: the name of the link, and until when."""
        self.settle()
        made, until = secrets.token_urlsafe(16), time.time() + days * DAY
        if self.log.query("SELECT count(*) FROM shares WHERE until > ?", [time.time()])[0][0] >= _SHARED:
            raise StorageError(
                "So many links are kept that there is no room for another.",
                where=self.log.place,
                remedy="Try again in some days, when others have ended.",
            )
        self.log.change([(_SHARE, [(made, result, until, picture)])])
        return made, until

    def unshare(self, share: str) -> bool:
        """Ends a link, and removes its picture; whether there was one."""
        if not self.log.query("SELECT 1 FROM shares WHERE id = ?", [share]):
            return False
        self.log.change([("DELETE FROM shares WHERE id = ?", [(share,)])], erased=("shares",))
        return True

    def shared(self, share: str) -> tuple[Answer, float, bytes] | None:
        """The answer, until when, and the picture of a link that is still valid, whichever server made it."""
        asked = "SELECT result, until, picture FROM shares WHERE id = ? AND until > ?"
        for result, until, picture in self.log.query(asked, [share, time.time()]):
            found = self.find(result)
            return (found, until, bytes(picture)) if found else None
        return None

    def sweep(self) -> None:
        """Removes shares that have ended, and what was kept by consent long enough."""
        self.log.expire()
        self._take_over()

    def probe(self) -> str:
        """Writes a row to the database, past what waits on disk: "", or in a line why it can't be written. May take
        some seconds where a server doesn't answer."""
        reason = self.log.unwritable()
        return f"{self.log.place} can't be written: {reason}" if reason else ""

    def settle(self) -> None:
        """Returns when all that was kept is on disk."""
        done = threading.Event()
        self._waiting.put(done, timeout=10)
        self._hurry.set()
        if not done.wait(15):
            raise StorageError("The log takes too long.", where=self.log.place, remedy="Try again in a while.")

    def close(self) -> None:
        """Writes what waits, and closes."""
        self._waiting.put(None)
        self._hurry.set()
        self._writer.join(10)
        self.log.close()

    def _opinion(self, result: str) -> tuple[str, str] | None:
        self.settle()
        asked = "SELECT said, label, taken_back FROM verdicts WHERE answer = ? AND who = ? ORDER BY seq DESC LIMIT 1"
        rows = self.log.query(asked, [result, VISITOR])
        return (rows[0][0], rows[0][1]) if rows and not rows[0][2] else None

    def _write(self) -> None:
        while True:
            jobs = [self._waiting.get()]
            if isinstance(jobs[0], tuple):
                self._hurry.wait(_GATHERED)
            self._hurry.clear()
            while len(jobs) < 500 and not self._waiting.empty():
                jobs.append(self._waiting.get())
            try:
                found = [job for job in jobs if isinstance(job, tuple)]
                self.log.add([entry for entry, _ in found])
                for entry, content in found:
                    if content:
                        self.log.keep(entry.input, content, self._days)
                self.broken = ""
            except InflameError as error:
                self.broken = error.message
            for job in jobs:
                if isinstance(job, threading.Event):
                    job.set()
            if None in jobs:
                return

    def _take_over(self) -> None:
        """Links of the time when they were in a file of this machine move into the log, once."""
        old = store.home() / "web" / "shares.db"
        if not old.is_file():
            return
        try:
            with closing(sqlite3.connect(f"{old.as_uri()}?mode=ro", uri=True)) as table:
                rows = table.execute("SELECT id, result, until, picture FROM shares").fetchall()
        except sqlite3.Error as error:
            raise StorageError(
                f"The links of before can't be read: {error}.", where=str(old), remedy=f"rm {old}: they end by it"
            ) from error
        self.log.change([(_SHARE, rows)])
        old.unlink(missing_ok=True)
