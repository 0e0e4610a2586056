"""Batches that are sent ahead: all of them, in their order, on the device, and what goes wrong on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import far
import pytest
import torch
from torch import Tensor

from inflame.artifact import ahead
from inflame.errors import DataError

CPU = torch.device("cpu")


def made(count: int, seen: list[str] | None = None) -> Iterator[tuple[Tensor, ...]]:
    for number in range(count):
        if seen is not None:
            seen.append(threading.current_thread().name)
        yield torch.full((2,), number), torch.tensor([number])


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("place", [CPU, far.PLACE])
def test_all_arrive_in_order(count: int, place: torch.device) -> None:
    found = list(ahead.sent(made(count), place))
    assert [int(number) for _, number in found] == list(range(count))
    assert all(part.device == place for batch in found for part in batch)


def test_a_thread_makes_them_and_no_more_than_some_ahead() -> None:
    seen: list[str] = []
    batches = ahead.sent(made(100, seen), CPU)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(seen) <= 1 + ahead.AHEAD
    assert all(name.startswith("send") for name in seen)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("send")]


def test_what_goes_wrong_is_raised_in_its_turn() -> None:
    def broken() -> Iterator[tuple[Tensor, ...]]:
        yield from made(3)
        raise DataError("no picture", remedy="")

    batches = ahead.sent(broken(), CPU)
    assert [int(next(batches)[1]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError):
        next(batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_them_while_it_computes() -> None:
    place = torch.device("cuda", 0)
    given = [(torch.randint(0, 255, (64, 32, 32, 3), dtype=torch.uint8), torch.arange(64)) for _ in range(20)]
    busy = torch.randn(2000, 2000, device=place)
    for (x, y), (mine, labels) in zip(ahead.sent(iter(given), place), given, strict=True):
        busy = busy @ busy / 50
        assert torch.equal(x.cpu(), mine)
        assert torch.equal(y.cpu(), labels)
