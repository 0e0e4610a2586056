"""Where a net runs and in which precision: `One` is plain torch on one device, `Many` (in
processes.py) shares batches and gradients between several."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from inflame import host
from inflame.errors import UserError, did_you_mean

PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")
_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick(name: str = "auto") -> torch.device:
    """The device of that name: `auto` (the best one there is), `cpu`, `cuda`, `cuda:1`, `mps`.
    An unknown one, or one that this machine doesn't have: UserError."""
    kind, _, number = name.lower().partition(":")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    there = {"cpu": True, "cuda": cuda and int(number or 0) < torch.cuda.device_count(), "mps": mps}
    if kind not in there or (number and not number.isdigit()):
        raise UserError(
            f'There is no kind of device "{name}".{did_you_mean(kind, there)}', remedy="Use auto, cpu, cuda or mps."
        )
    if not there[kind]:
        raise UserError(
            f"The device {name} isn't there (or this torch, {torch.__version__}, can't use it).",
            remedy="Use the device auto or cpu; `inflame doctor` says which torch suits this machine.",
        )
    return torch.device(name.lower())


class Device(ABC):
    """What the loop needs of the place where it runs. `One` and `Many` are all there are."""

    place: torch.device
    precision: str
    channels_last: bool = False
    rank: int = 0  # of this process among `world`
    world: int = 1
    counts: bool = True  # whether this process has an item of the batch at hand; else it trains on one with no weight
    spread: bool = False  # each process holds a part of each weight: all must take part in each pass, and in saving

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    @abstractmethod
    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here and gives what to call and what to step (which may be wrappers of the two)."""

    @abstractmethod
    def to(self, x: Tensor, y: Tensor, *, train: bool = True, whole: int | None = None) -> tuple[Tensor, Tensor]:
        """This process's share of a batch, here. It may be empty, but not to train on.

        whole: the items of the batch of which (x, y) is that share already; None: (x, y) is the batch.
        """

    @abstractmethod
    def autocast(self) -> AbstractContextManager[Any]:
        """Inside it, operations run in this device's precision."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss` (the mean over this process's share of a batch) to the parameters."""

    @abstractmethod
    def clip(self, net: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """Scales all gradients so that their total L2 norm is at most `norm`."""

    @abstractmethod
    def step(self, optimizer: Optimizer) -> None:
        """Lets the optimizer step (in fp16: unless a gradient overflowed)."""

    @abstractmethod
    def reduce(self, sums: Tensor) -> Tensor:
        """The sum of `sums` over all processes."""

    @abstractmethod
    def agree(self, value: float) -> float:
        """The first process's `value`, so that all of them decide alike."""

    @abstractmethod
    def most(self, value: float) -> float:
        """The largest `value` of all processes, so that none goes on alone."""

    @abstractmethod
    def exchange(self, optimizer: Optimizer) -> None:
        """Shares the gradients of parameters that went through the plain net, not through what `setup` gave."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """What each process gave, in their order. All must take part."""

    @abstractmethod
    def whole(self, state: Any) -> Any:
        """The state with whole tensors where this process holds parts of them; empty ones where it isn't `main`."""

    @abstractmethod
    def plain(self, net: nn.Module) -> nn.Module:
        """The net with whole weights, an ordinary module; where this process isn't `main` its weights mean nothing."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What an exact resume must know of the device."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""

    @abstractmethod
    def describe(self) -> str:
        """What was chosen, in a few words: `cpu, 2 threads, bf16, channels last`."""

    @property
    def scales(self) -> bool:
        """Whether losses are scaled (fp16), so that an overflowing gradient is nothing unusual."""
        return self.precision == "fp16"


@final
class One(Device):
    """Plain torch on one device.

    `precision` auto: bf16 (or fp16 with loss scaling) on CUDA, fp32 elsewhere; `fastest` measures instead.
    `channels_last` lays pictures and filters out as NHWC, which most convolution kernels like better. `compiled` puts
    torch.compile before the first step, on CUDA with CUDA graphs; `pace.choose` knows when that is worth it.
    `threads` for the CPU: by default OMP_NUM_THREADS, or what torch takes but no more than `host.cores()`.
    """

    def __init__(
        self,
        name: str = "auto",
        precision: str = "auto",
        *,
        channels_last: bool = False,
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        self.place = pick(name)
        self.precision = _precision(precision, self.place)
        self.channels_last, self.compiled = channels_last, compiled
        self._here = self.place.type == "cpu"
        self._dtype = _DTYPES.get(self.precision)
        self._plain = nullcontext()
        self._scaler = torch.amp.GradScaler(self.place.type) if self.scales else None
        self._parameters: list[Tensor] = []
        if self._here:
            host.keep_memory()
            _set_threads(threads)
        self.threads = torch.get_num_threads() if self._here else None

    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here, in place; gives the two themselves, or the compiled net."""
        net.to(self.place)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return (_compiled(net, self.place) if self.compiled else net), optimizer

    def to(self, x: Tensor, y: Tensor, *, train: bool = True, whole: int | None = None) -> tuple[Tensor, Tensor]:
        """The batch, here; a copy from pinned memory doesn't wait."""
        if not self._here:
            x, y = x.to(self.place, non_blocking=True), y.to(self.place, non_blocking=True)
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, y

    def autocast(self) -> AbstractContextManager[Any]:
        """torch.autocast; in fp32 nothing."""
        return self._plain if self._dtype is None else torch.autocast(self.place.type, dtype=self._dtype)

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, scaled in fp16."""
        loss = loss if self._scaler is None else self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, net: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """Clips what the optimizer holds."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self._parameters, norm)

    def step(self, optimizer: Optimizer) -> None:
        """`optimizer.step()`; in fp16 skipped by the scaler when a gradient overflowed."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def reduce(self, sums: Tensor) -> Tensor:
        """`sums`: there is one process."""
        return sums

    def agree(self, value: float) -> float:
        """`value`: there is one process."""
        return value

    def most(self, value: float) -> float:
        """`value`: there is one process."""
        return value

    def exchange(self, optimizer: Optimizer) -> None:
        """Nothing: there is one process."""

    def gather(self, value: Any) -> list[Any]:
        """The one that there is."""
        return [value]

    def whole(self, state: Any) -> Any:
        """The state: it is whole."""
        return state

    def plain(self, net: nn.Module) -> nn.Module:
        """The net: it is whole."""
        return net

    def describe(self) -> str:
        """As of `Device`; a GPU by its name."""
        name = f" ({torch.cuda.get_device_name(self.place)})" if self.place.type == "cuda" else ""
        threads = torch.get_num_threads()
        parts = [f"{self.place}{name}", self.precision]
        if self._here:
            parts.insert(1, f"{threads} thread{'s' * (threads > 1)}")
        return ", ".join([*parts, *["channels last"] * self.channels_last, *["compiled"] * self.compiled])

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss, in fp16."""
        return {} if self._scaler is None else {"scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the scale of the loss."""
        if self._scaler is not None and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


def where(net: nn.Module) -> torch.device:
    """The device on which the weights of a net lie; the CPU for one that has none."""
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))


def _compiled(net: nn.Module, place: torch.device) -> nn.Module:
    # Each size of a batch for itself: kernels for many round by which size came first, which may be another one after a
    # resume.
    made: Any = torch.compile(net, mode="reduce-overhead" if place.type == "cuda" else "default", dynamic=False)
    return made  # type: ignore[no-any-return]


def _precision(name: str, place: torch.device) -> str:
    if name not in PRECISIONS:
        raise UserError(
            f'There is no precision "{name}".{did_you_mean(name, PRECISIONS)}', remedy="Use auto, fp32, bf16 or fp16."
        )
    if name != "auto":
        return name
    if place.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    elif "OMP_NUM_THREADS" not in os.environ:  # torch itself honours that, but no container's quota
        torch.set_num_threads(max(1, min(torch.get_num_threads(), host.cores())))
