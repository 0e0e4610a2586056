"""How fast a net can be trained here, found out by trying: precision, layout, batch size, and whether compiling pays.

No table knows: depthwise convolutions lose from bf16 on many CPUs, others gain twofold; compiling takes seconds or
minutes, which a short training never gets back. A few steps of each cost less than a wrong guess. What compiling was
found to cost and to gain is remembered, so that the next training of the same net decides by fact.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inflame import host, store
from inflame.errors import InflameError
from inflame.model.engine.device import One, pick
from inflame.model.engine.memory import freed, short

Criterion = Callable[[Tensor, Tensor], Tensor]

COST = {"cpu": 40.0, "cuda": 60.0}  # seconds that compiling takes, as long as nobody has measured it
GAIN = 0.25  # share of a step's time that it saves, likewise
SURE = 2.0  # the saving must be so many times the cost
TRIES = 3  # steps of each way, the first to warm up
ALONE = 1.3  # one thread must be so many times as fast as all of them
CLOSE = 0.1  # a way whose loss is farther from that of fp32 computes something else, and is not taken
ROOM = 0.85  # share of the memory that a step may take
PAYS = 0.95  # a larger batch must take at most this share of the time an item


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was chosen. seconds: of one step; batch_size: items of one; why: a line for people."""

    device: One
    batch_size: int
    seconds: float
    why: str


def choose(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    criterion: Criterion,
    *,
    name: str = "auto",
    left: float = float("inf"),
    steps: int | None = None,
) -> Pace:
    """The fastest way to train `net` on batches like (x, y), where `left` seconds (or `steps`) of training lie ahead.

    Tries fp32 and bf16 (on CUDA fp16 where there is no bf16), channels last or not, one thread or all, by three steps
    each: fifteen steps' time. A way whose loss is another is left out: bf16 kernels with faults have been
    met. Compiles only when what that saves is well above what it takes. Works on copies: neither the net nor any random
    generator is changed. Where memory is too short for such a batch in any of these ways, half of it is tried.
    """
    place = pick(name)
    tried: dict[str, float] = {}
    best, seconds, first, full = One(name, "fp32"), float("inf"), float("nan"), False
    with torch.random.fork_rng():
        for precision, channels_last in _ways(place, x):
            device = One(name, precision, channels_last=channels_last)
            took, loss = _fitting(device, net, lambda: (x, y), criterion)
            full = full or took == float("inf")
            first = loss if not tried else first
            if not abs(loss - first) <= CLOSE * abs(first):  # also when it is nan
                continue
            tried[f"{precision}{', channels last' if channels_last else ''}"] = took
            if took < seconds:
                best, seconds = device, took
    threads = torch.get_num_threads()
    if tried and place.type == "cpu" and threads > 1:  # where others use the machine, threads only wait for each other
        alone = One(name, best.precision, channels_last=best.channels_last, threads=1)
        took = step(alone, net, x, y, criterion)[0]
        if took * ALONE < seconds:
            best, seconds = alone, took
        else:
            torch.set_num_threads(threads)
    if full and not tried and len(y) > 1:
        half = len(y) // 2
        return choose(net, x[:half], y[:half], criterion, name=name, left=left, steps=steps and 2 * steps)
    if not tried:  # the loss itself is no number: that is for the guard to say, with the batch
        return Pace(device=best, batch_size=len(y), seconds=0.0, why=f"{best.describe()}: nothing could be measured")
    ahead = min(left, float("inf") if steps is None else steps * seconds)
    compiled, reason = _worth(net, x, y, criterion, best, ahead)
    if compiled:
        best = One(name, best.precision, channels_last=best.channels_last, compiled=True)
    slowest = max(tried.values())
    why = f"{best.describe()}: {len(y) / seconds:,.0f} items/s, {slowest / seconds:.1f} x the slowest way; {reason}"
    return Pace(device=best, batch_size=len(y), seconds=seconds, why=why)


def _ways(place: torch.device, x: Tensor) -> Iterator[tuple[str, bool]]:
    """The precisions and layouts that are tried: on CUDA not the usual ones, which are never the fastest there."""
    for precision in ("fp32", "fp16" if place.type == "cuda" and not torch.cuda.is_bf16_supported() else "bf16"):
        for channels_last in (False, True)[: 2 if x.dim() == 4 else 1]:
            if place.type != "cuda" or precision != "fp32" or channels_last:
                yield precision, channels_last


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A batch size that was found: `items` of a batch, `each`, the seconds that one takes in it (0 where none was
    measured), and why: a line for people."""

    items: int
    each: float
    why: str


def batch_size(
    device: One,
    net: nn.Module,
    make: Callable[[int], tuple[Tensor, Tensor]],
    criterion: Criterion,
    *,
    most: int,
    least: int = 8,
    seconds: float = float("inf"),
) -> Size:
    """The smallest power of two times `least`, up to `most`, at which doubling the batch no longer pays, or no longer
    fits with room to spare, or can't be tried within `seconds`. Where `least` doesn't fit, the largest half or quarter
    of it that does.

    make(n) gives a batch of n items. Smaller batches learn more from an item; larger ones only keep the device busy.
    """
    size, tried, began, why = least, dict[int, float](), time.perf_counter(), ""
    moments = 2 * sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    before = _used(device.place, afresh=True)
    with torch.random.fork_rng():
        while not why:
            each = _fitting(device, net, lambda: make(size), criterion)[0] / size  # noqa: B023 - called here
            if each == float("inf"):
                why = "twice as many don't fit into the memory" if tried or size == 1 else ""
                size //= 2
                continue
            if tried and each > PAYS * tried[size // 2]:
                why = f"twice as many are {max(0.0, 1 - each / tried[size // 2]):.0%} quicker"
                continue
            tried[size], peak = each, _used(device.place)
            if size < least or peak + (peak - before) + moments > ROOM * _memory(device.place):
                why = "twice as many don't fit into the memory"
            elif 2 * size > most:
                why = "twice as many would be too few steps"
            elif time.perf_counter() - began + (TRIES + 1) * 2 * size * each > seconds:
                why = "there is no time to try twice as many"
            size *= 2
    if not tried:  # not even one item fits: that is for the training to say
        return Size(items=least, each=0.0, why="nothing could be measured")
    chosen = max(tried)
    quicker = f", {tried[least] / tried[chosen]:.1f} x as quick as in {least}" if chosen > least else ""
    return Size(items=chosen, each=tried[chosen], why=f"{1 / tried[chosen]:,.0f} items/s{quicker}; {why}")


def _used(place: torch.device, *, afresh: bool = False) -> int:
    """Bytes of memory that were in use at most, so far or, on CUDA, since it was asked `afresh`."""
    if place.type == "cuda":
        if afresh:
            torch.cuda.reset_peak_memory_stats(place)
        return torch.cuda.max_memory_allocated(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory(place: torch.device) -> float:
    """Bytes of memory that there are."""
    if place.type == "cuda":
        return torch.cuda.get_device_properties(place).total_memory
    return host.memory() or float("inf")


def _fitting(
    device: One, net: nn.Module, make: Callable[[], tuple[Tensor, Tensor]], criterion: Criterion
) -> tuple[float, float]:
    """As `step` on what `make` gives; for ever, and no number, where memory is short."""
    try:
        return step(device, net, *make(), criterion)
    except (RuntimeError, MemoryError) as error:
        if not short(error):
            raise
    # Only here, where the error and all that it holds on to are gone, is there memory again.
    freed()
    return float("inf"), float("nan")


def step(device: One, net: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[float, float]:
    """Seconds of the quickest of a few steps of a copy of `net`, after one to warm up; and the loss."""
    copy = deepcopy(net).train()
    model, _ = device.setup(copy, torch.optim.SGD(copy.parameters(), lr=0.0))
    times, value = [], torch.empty(0)
    for _ in range(TRIES):
        torch.manual_seed(0)  # dropout falls alike
        began = time.perf_counter()
        moved, labels = device.to(x, y)
        with device.autocast():
            logits = model(moved)
        value = criterion(logits.float(), labels)
        device.backward(value)
        if device.place.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
        copy.zero_grad()
    return min(times[1:]), float(value.detach())


# --- compiling -----------------------------------------------------------------------------------------


def _worth(net: nn.Module, x: Tensor, y: Tensor, criterion: Criterion, device: One, ahead: float) -> tuple[bool, str]:
    """Whether to compile, with `ahead` seconds of steps to come, and why."""
    known = _recall(net, x, device)
    if not known and GAIN * ahead >= SURE * COST.get(device.place.type, float("inf")):
        known = compiling(net, x, y, criterion, device)
    cost, gain = known.get("cost", COST.get(device.place.type, float("inf"))), known.get("gain", GAIN)
    source = "measured here" if known else "as a rule"
    if gain * ahead < SURE * cost:
        return False, f"not compiled: that takes {cost:.0f} s and would save {max(gain, 0) * ahead:.0f} s ({source})"
    return True, f"compiled: takes {cost:.0f} s and saves {gain:.0%} of the time ({source})"


def compiling(net: nn.Module, x: Tensor, y: Tensor, criterion: Criterion, device: One) -> dict[str, float]:
    """Compiles a copy of `net` and remembers what that took (`cost`, seconds) and saves of a step (`gain`, a share).
    Where it can't be compiled the gain is 0."""
    with torch.random.fork_rng():
        plain = One(str(device.place), device.precision, channels_last=device.channels_last)
        eager = step(plain, net, x, y, criterion)[0]
        fused = One(str(device.place), device.precision, channels_last=device.channels_last, compiled=True)
        began = time.perf_counter()
        try:
            quick = step(fused, net, x, y, criterion)[0]
        except Exception:  # no compiler, an operation it doesn't know, …: torch raises nearly anything
            quick = eager
    found = {"cost": time.perf_counter() - began - 2 * quick, "gain": 1 - quick / eager}
    with suppress(OSError, InflameError):
        store.write(_place(net, x, device), json.dumps(found))
    return found


def _recall(net: nn.Module, x: Tensor, device: One) -> dict[str, float]:
    with suppress(OSError, ValueError):
        found: dict[str, float] = json.loads(_place(net, x, device).read_text())
        return found
    return {}


def _place(net: nn.Module, x: Tensor, device: One) -> Any:
    shapes = [tuple(parameter.shape) for parameter in net.parameters()]
    where = torch.cuda.get_device_name(device.place) if device.place.type == "cuda" else device.place.type
    said = [type(net).__name__, shapes, tuple(x.shape), where, device.precision, device.channels_last]
    key = hashlib.sha256(json.dumps([*said, torch.__version__]).encode()).hexdigest()[:24]
    return store.home() / "cache" / "pace" / f"{key}.json"
