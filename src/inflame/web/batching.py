"""Many requests, one run of the net: a bounded queue in front of a few threads.

A thread that is free takes all that waits, up to a batch: alone, a request waits for nobody; under load batches grow
by themselves. Who left, or whose time is up, is dropped before it costs anything. A full queue refuses at once, for
waiting would make everybody late. How long it may be is a matter of time: of the seconds that one thing takes lately.
A burst after a rest may be longer; where more is asked than can be answered, lastingly, a long queue would only make
all who are answered wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

_BURST = 1.0  # seconds for which a queue may be longer, and
_REST = 10.0  # seconds that it has to have been short before: one that is empty for a moment hasn't rested
_PATIENCE = 2.0  # seconds that a burst may take to be answered
_LINE = 32  # things that may wait in a queue that stands


class Refused(Exception):
    """The queue takes nothing. `reason`: "full", "draining" or "late" (the deadline has passed)."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait  # seconds after which to ask again


@dataclass(slots=True)
class _Ticket:
    thing: Any
    future: asyncio.Future[Any]
    deadline: float
    always: bool = False  # of the site itself: how long it takes says nothing of what others ask
    left: bool = False  # set by the event loop; a future itself may not be asked by another thread


@final
class Batcher:
    """`act` takes a list of things and returns as many results; an exception among them is raised where its thing was
    asked for. It runs in `workers` threads, on at most `most` things at once; at most `room` things wait, for about two
    seconds, and in a queue that stands only some, which are answered within about `soon` seconds.
    `seconds`: what one thing takes, until that is measured.

    `seen(batch_size, waited_seconds)` is told about every batch.
    """

    def __init__(
        self,
        act: Callable[[list[Any]], Sequence[Any]],
        *,
        workers: int = 2,
        most: int = 32,
        room: int = 256,
        soon: float = 0.75,
        seconds: float = 0.01,
        seen: Callable[[int, float], None] = lambda _size, _waited: None,
    ) -> None:
        self._act, self._most, self._room, self._soon, self._seen = act, most, room, soon, seen
        self._waiting: deque[_Ticket] = deque()
        self._burst = self._long = float("-inf")  # when the queue became long after a rest; when it was long, last
        self._changed = threading.Condition()
        self._running = 0  # things in batches that run
        self._pace = max(seconds, 1e-4) / workers  # seconds for one thing, lately
        self._draining = self._ended = False
        self.dropped = 0  # things that nobody waited for any more
        self._threads = [threading.Thread(target=self._work, name=f"batch-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """How many things wait."""
        return len(self._waiting)

    @property
    def pending(self) -> int:
        """How many things wait or are being answered."""
        return len(self._waiting) + self._running

    def admit(self, count: int = 1) -> None:
        """Raises Refused where so many more would be refused at present."""
        if self._draining:
            raise Refused("draining", 1.0)
        with self._changed:
            waiting = len(self._waiting)
            room = self._allowed(waiting + count)
            if waiting + count > room:
                waiting = sum(not ticket.left for ticket in self._waiting)
                if waiting + count > (room if waiting else self._room):  # many at once are taken where nobody waits
                    raise Refused("full", max(0.1, self._pace * waiting))

    def _allowed(self, wanted: int) -> int:
        """How many things may wait at present, where so many are to."""
        least, now = 2 * len(self._threads), time.monotonic()
        line = min(self._room, _LINE, max(least, int(self._soon / self._pace)))
        if wanted > line // 2:
            if now - self._long > _REST:
                self._burst = now
            self._long = now
        if now - self._burst > _BURST:
            return line
        return min(self._room, max(line, int(_PATIENCE / self._pace)))

    async def __call__(self, things: Sequence[Any], within: float, *, always: bool = False) -> list[Any]:
        """The results in order, an exception standing for its thing. All are taken or none; `always`: also by a queue
        that is full. Raises Refused."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + within
        tickets = [_Ticket(thing, loop.create_future(), deadline, always) for thing in things]
        with self._changed:
            if not always:
                self.admit(len(tickets))
            self._waiting.extend(tickets)
            self._changed.notify(len(tickets))
        try:
            async with asyncio.timeout(within):
                return await asyncio.gather(*(ticket.future for ticket in tickets))
        except TimeoutError:
            raise Refused("late") from None
        finally:  # also when the one who asked has gone
            for ticket in tickets:
                ticket.left = True

    async def drain(self, within: float) -> bool:
        """Takes nothing more, and waits until all that was taken is answered; whether that was in time."""
        with self._changed:
            self._draining = True
        end = time.monotonic() + within
        while self.pending and time.monotonic() < end:
            await asyncio.sleep(0.01)
        done = not self.pending
        self.close()
        return done

    def close(self) -> None:
        """Ends the threads when their batches are done."""
        with self._changed:
            self._draining = self._ended = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if self._ended and not self._waiting:
                    return
                batch = self._take()
                self._running += len(batch)
            if batch:
                try:
                    self._answer(batch)
                finally:
                    with self._changed:
                        self._running -= len(batch)

    def _take(self) -> list[_Ticket]:
        """The next batch. What waits is shared among the threads, so that none idles while another has it all."""
        now, batch = time.monotonic(), list[_Ticket]()
        share = -(-len(self._waiting) // len(self._threads))
        while self._waiting and len(batch) < min(self._most, max(share, 1)):
            ticket = self._waiting.popleft()
            if ticket.left or ticket.deadline <= now:
                self.dropped += 1
            else:
                batch.append(ticket)
        return batch

    def _answer(self, batch: list[_Ticket]) -> None:
        began = time.perf_counter()
        try:
            results = self._act([ticket.thing for ticket in batch])
        except Exception as error:  # one mistake must not end the thread, and with it the server
            results = [error] * len(batch)
        taken = time.perf_counter() - began
        if not any(ticket.always for ticket in batch):
            self._pace = 0.8 * self._pace + 0.2 * taken / len(batch) / len(self._threads)
            self._seen(len(batch), taken)
        loops = {id(ticket.future.get_loop()): ticket.future.get_loop() for ticket in batch}
        for key, loop in loops.items():
            mine = [(t, r) for t, r in zip(batch, results, strict=True) if id(t.future.get_loop()) == key]
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, mine)


def _deliver(answered: list[tuple[_Ticket, Any]]) -> None:
    for ticket, result in answered:
        if not ticket.future.done():
            ticket.future.set_result(result)
