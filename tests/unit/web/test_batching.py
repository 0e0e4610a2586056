"""The batcher: who waits, who is refused, who is dropped, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from inflame.web import batching
from inflame.web.batching import Batcher, Refused


class Net:
    """Doubles numbers, and remembers the batches. `gate` holds it up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, things: list[int]) -> list[int]:
        self.batches.append(list(things))
        self.gate.wait(10)
        return [2 * thing for thing in things]


@pytest.fixture
def net() -> Net:
    return Net()


def run(net: Callable[..., Any], story: Callable[[Batcher], Any], **given: Any) -> Any:
    batcher = Batcher(net, **given)
    try:
        return asyncio.run(story(batcher))
    finally:
        batcher.close()


async def held(batcher: Batcher, net: Net, depth: int) -> None:
    """Returns when the first batch is at the gate and so many things wait behind it."""
    while (len(net.batches), batcher.depth) != (1, depth):
        await asyncio.sleep(0.001)


def test_results_come_in_order_and_alone_nobody_waits(net: Net) -> None:
    async def story(batcher: Batcher) -> Any:
        began = time.perf_counter()
        assert await batcher([21], 5) == [42]
        assert time.perf_counter() - began < 0.1
        return await batcher(list(range(100)), 5)

    assert run(net, story) == [2 * n for n in range(100)]


def test_under_load_batches_grow(net: Net) -> None:
    async def story(batcher: Batcher) -> Any:
        net.gate.clear()
        first = asyncio.ensure_future(batcher([0], 5))
        await held(batcher, net, 0)
        rest = [asyncio.ensure_future(batcher([n], 5)) for n in range(1, 21)]
        await held(batcher, net, 20)
        net.gate.set()
        return await asyncio.gather(first, *rest)

    assert run(net, story, workers=1, most=8) == [[2 * n] for n in range(21)]
    assert [len(batch) for batch in net.batches] == [1, 8, 8, 4]


def test_two_threads_share_what_waits() -> None:
    began = threading.Barrier(2)

    def act(things: list[int]) -> list[int]:
        began.wait(5)  # passes only when both threads have a batch at once
        return things

    async def story(batcher: Batcher) -> Any:
        return await batcher([1, 2], 5)

    assert run(act, story, workers=2) == [1, 2]


def test_a_full_queue_refuses_all_or_nothing(net: Net) -> None:
    async def story(batcher: Batcher) -> None:
        net.gate.clear()
        first = asyncio.ensure_future(batcher([0], 5))
        await held(batcher, net, 0)
        waiting = asyncio.ensure_future(batcher([1, 2], 5))
        await held(batcher, net, 2)
        with pytest.raises(Refused) as refused:
            await batcher([3, 4], 5)
        assert refused.value.reason == "full"
        assert refused.value.wait > 0
        assert batcher.depth == 2
        net.gate.set()
        assert await first == [0]
        assert await waiting == [2, 4]

    run(net, story, workers=1, room=3)


def test_a_queue_that_stands_is_full_sooner(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst after a rest is borne; of one that goes on only what is answered soon is taken."""

    async def story(batcher: Batcher) -> None:
        net.gate.clear()
        asked = [asyncio.ensure_future(batcher([n], 20)) for n in range(30)]
        await held(batcher, net, 29)
        batcher._pace = 0.01
        batcher.admit(100)  # answered in little more than a second
        monkeypatch.setattr(batching, "_BURST", 0.0)
        batcher.admit(3)
        for count in (4, 100):
            with pytest.raises(Refused, match="full"):
                batcher.admit(count)
        batcher._pace = 0.1
        with pytest.raises(Refused, match="full"):
            batcher.admit()
        batcher._pace = 0.001  # so many are answered soon
        batcher.admit()
        net.gate.set()
        await asyncio.gather(*asked)

    run(net, story, workers=1, most=1)


def test_a_burst_is_a_matter_of_time_too(net: Net) -> None:
    """Of what takes long not even a burst waits longer than some seconds; alone, a large request is taken whole."""

    async def story(batcher: Batcher) -> None:
        batcher.admit(100)
        net.gate.clear()
        asked = [asyncio.ensure_future(batcher([n], 20)) for n in range(5)]
        await held(batcher, net, 4)
        batcher.admit(6)
        with pytest.raises(Refused, match="full"):
            batcher.admit(7)
        net.gate.set()
        await asyncio.gather(*asked)
        assert await batcher(list(range(100)), 20) == [2 * n for n in range(100)]

    run(net, story, workers=1, most=1, seconds=0.2)


def test_a_moment_without_a_queue_is_no_rest(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the queue of an onslaught is empty for once, it doesn't fill up like that of a burst."""
    monkeypatch.setattr(batching, "_BURST", 0.05)

    async def story(batcher: Batcher) -> None:
        for rested in (True, False, True):
            monkeypatch.setattr(batching, "_REST", 0.0 if rested else 10.0)
            net.batches.clear()
            net.gate.clear()
            asked = [asyncio.ensure_future(batcher([n], 20)) for n in range(20)]
            await held(batcher, net, 19)
            batcher._pace = 0.01
            if rested:
                batcher.admit(50)
            else:
                with pytest.raises(Refused, match="full"):
                    batcher.admit(50)
            net.gate.set()
            await asyncio.gather(*asked)
            await asyncio.sleep(0.1)

    run(net, story, workers=1, most=1)


def test_who_has_left_costs_nothing(net: Net) -> None:
    async def story(batcher: Batcher) -> None:
        net.gate.clear()
        first = asyncio.ensure_future(batcher([0], 5))
        await held(batcher, net, 0)
        gone = asyncio.ensure_future(batcher([1, 2, 3], 5))
        await held(batcher, net, 3)
        gone.cancel()
        late = asyncio.ensure_future(batcher([4], 0.05))
        await asyncio.sleep(0.1)
        net.gate.set()
        await first
        with pytest.raises(Refused, match="late"):
            await late
        assert await batcher([5], 5) == [10]
        assert batcher.dropped == 4

    run(net, story, workers=1)
    assert net.batches == [[0], [5]]


def test_an_error_of_one_is_the_others_luck_and_one_of_all_ends_no_thread() -> None:
    def act(things: list[int]) -> list[Any]:
        if 13 in things:
            raise ValueError("13")
        return [KeyError(thing) if thing == 7 else thing for thing in things]

    async def story(batcher: Batcher) -> Any:
        found = await batcher([6, 7, 8], 5)
        assert (found[0], type(found[1]), found[2]) == (6, KeyError, 8)
        assert [type(one) for one in await batcher([13], 5)] == [ValueError]
        return await batcher([1], 5)

    assert run(act, story, workers=1) == [1]


def test_draining_answers_what_was_taken(net: Net) -> None:
    async def story(batcher: Batcher) -> None:
        net.gate.clear()
        asked = [asyncio.ensure_future(batcher([n], 5)) for n in range(5)]
        await asyncio.sleep(0.05)
        draining = asyncio.ensure_future(batcher.drain(5))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="draining"):
            await batcher([9], 5)
        net.gate.set()
        assert await asyncio.gather(*asked) == [[0], [2], [4], [6], [8]]
        assert await draining

    run(net, story)
