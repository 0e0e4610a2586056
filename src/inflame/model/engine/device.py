"""Where a net runs and in which precision: `One` is plain torch on one device, `Many` Lightning Fabric on several."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from inflame import host, plugins
from inflame.errors import UserError, did_you_mean

PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")
_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FABRIC: Final = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


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

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    @abstractmethod
    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here and gives what to call and what to step (which may be wrappers of the two)."""

    @abstractmethod
    def to(self, x: Tensor, y: Tensor, *, train: bool = True) -> tuple[Tensor, Tensor]:
        """This process's share of a batch, here. It may be empty, but not to train on."""

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
            _set_threads(threads)
        self.threads = torch.get_num_threads() if self._here else None

    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here, in place; gives the two themselves, or the compiled net."""
        net.to(self.place)
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return (_compiled(net, self.place) if self.compiled else net), optimizer

    def to(self, x: Tensor, y: Tensor, *, train: bool = True) -> tuple[Tensor, Tensor]:
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


@final
class Many(Device):
    """Several devices with Lightning Fabric, one process each: this one and those it starts.

    Every process gets every batch and takes its share of it, so that any number of processes does what one does,
    up to rounding (batch norm apart, whose statistics are of one share). Under torchrun (see `many`) the others are
    there; else Fabric starts them by giving this program's own command again, so make it before anything that only one
    process may do.
    """

    def __init__(
        self, devices: int | str = "auto", precision: str = "auto", *, accelerator: str = "auto", strategy: str = "ddp"
    ) -> None:
        fabric = plugins.need("lightning.fabric", "many", "Training on several devices")
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces every process
        _meet(pick("auto" if accelerator == "auto" else accelerator))
        self.precision = _precision(precision, pick("auto" if accelerator == "auto" else accelerator))
        self._fabric: Any = fabric.Fabric(
            accelerator=accelerator, devices=devices, strategy=strategy, precision=_FABRIC[self.precision]
        )
        self._fabric.launch()
        self.place = self._fabric.device
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size
        self._weight = 1.0
        self._wrapped: Any = None

    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here; gives Fabric's wrappers, which share gradients between the processes."""
        self._wrapped, wrapped_optimizer = self._fabric.setup(net, optimizer)
        return self._wrapped, wrapped_optimizer

    def to(self, x: Tensor, y: Tensor, *, train: bool = True) -> tuple[Tensor, Tensor]:
        """Every `world`-th item of the batch, from `rank` on."""
        share = slice(self.rank, None, self.world)
        mine, labels = x[share], y[share]
        # Processes average their gradients; weighted so, that is the mean over the items of an uneven batch.
        self._weight = len(labels) * self.world / max(1, len(y))
        if train and not len(labels):  # every process must take part in every step: an item that counts for nothing
            mine, labels = x[:1], y[:1]
        return mine.to(self.place, non_blocking=True), labels.to(self.place, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """Fabric's autocast."""
        context: AbstractContextManager[Any] = self._fabric.autocast()
        return context

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean over the whole batch."""
        self._fabric.backward(loss * self._weight)

    def clip(self, net: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """Fabric's clipping."""
        self._fabric.clip_gradients(self._wrapped, optimizer, max_norm=norm)

    def step(self, optimizer: Optimizer) -> None:
        """`optimizer.step()`, with Fabric's precision."""
        optimizer.step()

    def reduce(self, sums: Tensor) -> Tensor:
        """Summed over the processes."""
        total: Tensor = self._fabric.all_reduce(sums, reduce_op="sum")
        return total

    def agree(self, value: float) -> float:
        """The value of rank 0."""
        shared = torch.tensor(value, device=self.place)
        if self.world > 1:
            torch.distributed.broadcast(shared, 0)
        return shared.item()

    def share(self, text: str) -> str:
        """The text that the first process gave; the others wait for it."""
        given: str = self._fabric.broadcast(text, src=0)
        return given

    def describe(self) -> str:
        """As of `Device`, with the number of processes."""
        return f"{self.world} x {self.place.type}, {self.precision}"

    def state_dict(self) -> dict[str, Any]:
        """Nothing: Fabric keeps what it knows to itself (in fp16 the scale of the loss begins anew)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over nothing."""


def _meet(place: torch.device) -> None:
    """Under torchrun, joins the other processes with names of this attempt: after a restart torchrun's store still
    holds the addresses of those that are gone, and whoever asks it for them may be sent there."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    given = os.environ
    if given.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or torch.distributed.is_initialized():
        return
    if place.type == "cuda":
        torch.cuda.set_device(int(given["LOCAL_RANK"]))
    world = int(given["WORLD_SIZE"])
    held = TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), world, is_master=False)
    torch.distributed.init_process_group(
        "nccl" if place.type == "cuda" else "gloo",
        store=PrefixStore(f"attempt-{given.get('TORCHELASTIC_RESTART_COUNT', '0')}", held),
        rank=int(given["RANK"]),
        world_size=world,
    )


def _compiled(net: nn.Module, place: torch.device) -> nn.Module:
    made: Any = torch.compile(net, mode="reduce-overhead" if place.type == "cuda" else "default")
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
