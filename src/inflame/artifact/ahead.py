"""Batches on their way to a device: made and sent by a thread, while the device computes the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

AHEAD = 2  # batches that are made and sent before they are asked for

Batch = tuple[Tensor, ...]


def sent(given: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches of `given` on `device`, in their order; what goes wrong in `given` is raised here.

    On CUDA they are sent from pinned memory, on a stream of its own: nobody waits for a copy but who needs it.
    """
    road = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    waiting: deque[Future[tuple[Batch | None, torch.cuda.Event | None]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="send") as pool:
        try:
            waiting.extend(pool.submit(_next, given, device, road) for _ in range(AHEAD))
            while True:
                batch, arrived = waiting.popleft().result()
                if batch is None:
                    return
                waiting.append(pool.submit(_next, given, device, road))
                if arrived is not None:
                    here = torch.cuda.current_stream(device)
                    here.wait_event(arrived)
                    for part in batch:  # whose memory belongs to the other stream, until this one is done with it
                        part.record_stream(here)
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def _next(
    given: Iterator[Batch], device: torch.device, road: torch.cuda.Stream | None
) -> tuple[Batch | None, torch.cuda.Event | None]:
    """The next batch, sent, and when it will have arrived; None after the last one."""
    batch = next(given, None)
    if batch is None or road is None:
        return batch and tuple(part.to(device) for part in batch), None
    with torch.cuda.stream(road):
        moved = tuple(part.pin_memory().to(device, non_blocking=True) for part in batch)
        return moved, road.record_event()
