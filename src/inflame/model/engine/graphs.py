"""A step on pictures that begin small, and on CUDA the whole step as one graph: what a GPU does in two milliseconds,
Python takes six to ask for."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from inflame.errors import SettingError
from inflame.model.engine.learner import Learner
from inflame.model.engine.memory import freed, short

_warn = logging.getLogger("inflame").warning


def smaller(x: Tensor, side: int) -> Tensor:
    """Pictures [N,C,H,W] made smaller to `side` pixels, smoothed before they are sampled; the same if they are it."""
    if x.shape[-1] == side:
        return x
    return functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


@final
class Growing:
    """A step for `Learner(step=…)` and a hook of the same learner: pictures grow from `sides[0]` to `sides[-1]` pixels,
    changing at the shares `until` of the training (one less than sides, ascending; else SettingError).

    On CUDA the whole step, from making pictures smaller to the optimizer, is captured once for each side before
    training begins (after a warm-up on random pictures; weights, statistics and momentum are put back) and then
    replayed, the learning rates being tensors that are told anew. Elsewhere, in fp16 (whose scaler asks the GPU in each
    step), with several processes, where memory is short, and for a batch of another shape it is the usual step on the
    smaller picture. compiled: on CUDA with torch.compile as well, which may take a minute for the first time on a
    machine. say: told, on CUDA, whether there are graphs, and why not.

    In a replay no hook is told `before_backward` and `before_step`: Clip has no effect, and NonFinite doesn't look. A
    loss that is no number is found by `SaveLast`, which keeps the last good checkpoint.
    """

    def __init__(
        self,
        sides: Sequence[int],
        until: Sequence[float],
        *,
        compiled: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        if len(until) != len(sides) - 1 or list(until) != sorted(until):
            raise SettingError(
                f"{len(sides)} sides change {len(sides) - 1} times, one after the other, not at {list(until)}.",
                remedy="Give shares of the training: sides=[24,28,32] until=[0.4,0.75]",
                where="sides, until",
            )
        self.sides, self.until, self.compiled, self.say = tuple(sides), tuple(until), compiled, say
        self._graphs: dict[int, tuple[Any, Tensor, Tensor]] = {}
        self._x = self._y = torch.empty(0)
        self._rates: list[Tensor] = []

    def side(self, progress: float) -> int:
        """Pixels at `progress` (0 to 1) of the training."""
        return self.sides[bisect_right(self.until, progress)]

    def before_fit(self, learner: Learner) -> None:
        """Captures, where that can be done. It is told after a checkpoint was loaded, whose tensors are captured."""
        self._graphs = {}
        if learner.device.place.type != "cuda":
            return
        why = _hindrance(learner) or self._captured(learner)
        self.say(f"no graph of the whole step: {why}" if why else "the whole step is one graph for each size")

    def _captured(self, learner: Learner) -> str:
        """Captures the steps of all sides; none, and why, where that can't be done: the usual step says what is wrong
        with itself, and knows what to do where memory is short."""
        place = learner.device.place
        x, y = learner.device.to(*next(iter(learner.train_loader.epoch(0))))
        dice = torch.Generator(place).manual_seed(0)
        self._x, self._y = x.clone(), y.clone()
        self._x.normal_(generator=dice)
        self._rates = [torch.zeros((), device=place) for _ in learner.optimizer.param_groups]
        learner.net.train()
        plain = learner.model
        try:
            with _untouched(learner), self._told(learner), _searching():
                if self.compiled:
                    self._compile(learner)
                for side in self.sides:
                    self._graphs[side] = self._capture(learner, side)
                return ""
        except RuntimeError as error:  # the one that ends a capture may hide the one that was the reason
            full = any(short(one) for one in (error, error.__context__) if one is not None)
            why = "memory is too short to hold one" if full else str(error).splitlines()[0]
        # Only here, where the error and all that it holds on to are gone, is there memory again.
        learner.model, self._graphs, self._x, self._y = plain, {}, torch.empty(0), torch.empty(0)
        learner.zero_grad()
        freed()
        return why

    def __call__(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The step: logits and loss."""
        side = self.side(learner.progress)
        if side not in self._graphs or x.shape != self._x.shape or y.shape != self._y.shape:
            return learner.careful(learner, smaller(x, side), y)
        graph, logits, loss = self._graphs[side]
        self._x.copy_(x)
        self._y.copy_(y)
        for rate, group in zip(self._rates, learner.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        graph.replay()
        learner.value = loss.clone()  # the next replay writes over what this one gave
        return logits.clone(), learner.value

    def _compile(self, learner: Learner) -> None:
        """Compiles the net, each size of pictures for itself; where that can't be done it stays as it is."""
        plain, learner.model = learner.model, torch.compile(learner.net, dynamic=False)  # type: ignore[assignment]
        try:
            self._whole(learner, self.sides[0])
        except Exception as error:  # no compiler, an operation it doesn't know, …: torch raises nearly anything
            learner.model = plain
            learner.zero_grad()
            _warn(f"The net can't be compiled here and trains without: {str(error).splitlines()[0]}")

    def _capture(self, learner: Learner, side: int) -> tuple[Any, Tensor, Tensor]:
        with _aside(learner.device.place):  # kernels are chosen and momentum is made before anything is recorded
            for _ in range(3):
                self._whole(learner, side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits, loss = self._whole(learner, side)
        return graph, logits, loss

    def _whole(self, learner: Learner, side: int) -> tuple[Tensor, Tensor]:
        x = smaller(self._x, side)
        if learner.device.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        logits = learner.predict(x)
        loss = learner.loss(logits, self._y)
        learner.device.backward(loss)
        learner.device.step(learner.optimizer)
        learner.zero_grad()
        return logits.detach(), loss.detach()

    @contextmanager
    def _told(self, learner: Learner) -> Iterator[None]:
        """The optimizer reads its rates from the tensors, for as long as graphs are recorded. They are zero."""
        groups = learner.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number


def _hindrance(learner: Learner) -> str:
    """Why a step on a GPU can't be one graph; empty where it can."""
    if learner.device.scales:
        return "in fp16 each step asks whether gradients overflowed"
    if learner.device.world > 1:
        return "several processes share their gradients"
    return "a batch goes through in parts" if learner.careful.parts > 1 else ""


@contextmanager
def _aside(place: torch.device) -> Iterator[None]:
    """On another stream than the usual one, which waits for it."""
    if place.type != "cuda":
        yield
        return
    here, aside = torch.cuda.current_stream(place), torch.cuda.Stream(place)  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        yield
    here.wait_stream(aside)


@contextmanager
def _untouched(learner: Learner) -> Iterator[None]:
    """Puts net and optimizer back, into the same tensors; what an optimizer has made meanwhile becomes zero."""
    tensors = list(learner.net.state_dict().values())
    before = [tensor.clone() for tensor in tensors]
    kept = {id(value): value.clone() for value in _memory(learner)}
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)
            for value in _memory(learner):
                value.copy_(kept[id(value)]) if id(value) in kept else value.zero_()


def _memory(learner: Learner) -> list[Tensor]:
    return [value for state in learner.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]


@contextmanager
def _searching() -> Iterator[None]:
    """Lets cuDNN try its kernels."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
