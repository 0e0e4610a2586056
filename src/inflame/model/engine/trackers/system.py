"""What the machine does while a run is at work, a row of `system.jsonl` every ten seconds."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, final

EVERY = 10.0  # seconds


@final
class Sampler:
    """Writes samples from a thread of its own (0.1 ms each) until it is closed. `clock`: seconds of the run so far."""

    def __init__(self, file: Path, clock: Callable[[], float], *, every: float = EVERY) -> None:
        self._file, self._clock, self._every = file, clock, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="inflame-system", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        with suppress(Exception):  # a machine that doesn't tell about itself stops nothing
            take = samples()
            while not self._over.wait(self._every):
                row = {"seconds": round(self._clock(), 1), "time": round(time.time(), 1), **take()}
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def samples() -> Callable[[], dict[str, float]]:
    """A function that gives the present: `cpu` (% of all cores), `process_cpu` (% of one core) and `process_memory`
    (GB) of this process, `memory` (% of the machine's), and of each GPU `gpu0` (%) and `gpu0_memory` (GB)."""
    import psutil

    process = psutil.Process(os.getpid())
    psutil.cpu_percent()
    process.cpu_percent()
    gpus = list(_gpus())

    def take() -> dict[str, float]:
        found = {
            "cpu": psutil.cpu_percent(),
            "memory": psutil.virtual_memory().percent,
            "process_cpu": process.cpu_percent(),
            "process_memory": round(process.memory_info().rss / 1e9, 3),
        }
        for number, gpu in enumerate(gpus):
            found |= {f"gpu{number}{name}": value for name, value in gpu().items()}
        return found

    return take


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _gpus() -> Iterator[Callable[[], dict[str, float]]]:
    """For each GPU of the machine a function that samples it, through NVIDIA's own library; none without that."""
    try:
        library: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return
    count = ctypes.c_uint()
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return
    for number in range(count.value):
        handle = ctypes.c_void_p()
        if not library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)):
            yield _gpu(library, handle)


def _gpu(library: Any, handle: ctypes.c_void_p) -> Callable[[], dict[str, float]]:
    rates, memory = _Rates(), _Memory()

    def take() -> dict[str, float]:
        found: dict[str, float] = {}
        if not library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)):
            found[""] = rates.gpu
        if not library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            found["_memory"] = round(memory.used / 1e9, 3)
        return found

    return take
