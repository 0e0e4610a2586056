"""Several devices for one training, a process each: who they are, what is whose share, and how they agree."""

from __future__ import annotations

import copy
import logging
import os
import platform
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from inflame import __version__, plugins
from inflame.errors import UserError
from inflame.model.engine import many, sharding
from inflame.model.engine.device import Device, One, pick
from inflame.runs import Follows

PATIENCE = timedelta(days=30)  # for what the first process says


@final
class Many(Device):
    """Several devices, one process each: this one and those that Lightning Fabric or torchrun starts.

    Every process takes its share of every batch, so that any number of processes does what one does, up to rounding
    (batch norm apart, whose statistics are of one share). Under torchrun (see `many`) the others are there; else Fabric
    starts them by giving this program's own command again, so make it before anything that only one process may do.
    Within a process things go as on `One`: `use` says in which precision and layout, before `setup`.

    strategy: `ddp` (each process has the whole net), `fsdp` (a part of it, see `sharding`), or `auto`: the second where
    the first would need more memory than a device has.
    """

    def __init__(
        self, devices: int | str = "auto", precision: str = "auto", *, accelerator: str = "auto", strategy: str = "auto"
    ) -> None:
        fabric = plugins.need("lightning.fabric", "many", "Training on several devices")
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces every process
        place = pick(accelerator)
        here, nodes = many.started() or (devices, 1)
        if isinstance(here, int):
            many.require(here, torch.cuda.device_count() if place.type == "cuda" else 0)
        _meet(place)
        self._fabric: Any = fabric.Fabric(accelerator=place.type, devices=here, num_nodes=nodes, strategy="ddp")
        self._fabric.launch()
        self.place = self._fabric.device
        self.rank, self.world = self._fabric.global_rank, self._fabric.world_size
        self._weight, self._strategy = 1.0, strategy
        self._plain: nn.Module | None = None
        # The others wait as long as the first one works alone, not the ten or thirty minutes that torch would.
        self._talk: Any = torch.distributed.new_group(timeout=PATIENCE) if self.world > 1 else None
        self._compare()
        self.use(precision)

    def use(self, precision: str = "auto", *, channels_last: bool = False) -> None:
        """How this process computes. Before `setup`, and alike in all of them."""
        self.one = One(str(self.place), precision, channels_last=channels_last)
        self.precision, self.channels_last = self.one.precision, channels_last

    def setup(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Moves the net here; gives torch's wrapper of it, which shares gradients between the processes, or spreads it
        over them."""
        if self._too_large(net):
            return self._spread(net, optimizer), optimizer
        self.one.setup(net, optimizer)
        if self.world == 1 or not any(parameter.requires_grad for parameter in net.parameters()):
            return net, optimizer
        places = None if self.place.type == "cpu" else [self.place]
        # As a view of what is sent a gradient is never copied.
        return DistributedDataParallel(net, device_ids=places, gradient_as_bucket_view=True), optimizer

    def to(self, x: Tensor, y: Tensor, *, train: bool = True, whole: int | None = None) -> tuple[Tensor, Tensor]:
        """Every `world`-th item of the batch, from `rank` on."""
        items = len(y) if whole is None else whole
        mine = len(range(self.rank, items, self.world))
        # Processes average their gradients; weighted so, that is the mean over the items of an uneven batch.
        self._weight, self.counts = mine * self.world / max(1, items), mine > 0
        if whole is None:
            x, y = x[self.rank :: self.world] if mine else x[:1], y[self.rank :: self.world] if mine else y[:1]
        if not train:  # every process must take part in every step, if with an item that counts for nothing
            x, y = x[:mine], y[:mine]
        return self.one.to(x, y)

    def autocast(self) -> AbstractContextManager[Any]:
        """As on `One`."""
        return self.one.autocast()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean over the whole batch."""
        self.one.backward(loss * self._weight)

    def clip(self, net: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """As on `One`: the gradients are those of all processes by now."""
        self.one.clip(net, optimizer, norm)

    def step(self, optimizer: Optimizer) -> None:
        """As on `One`."""
        self.one.step(optimizer)

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

    def most(self, value: float) -> float:
        """The largest value of all processes."""
        shared = torch.tensor(value, device=self.place)
        if self.world > 1:
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return shared.item()

    def exchange(self, optimizer: Optimizer) -> None:
        """The mean over the processes, as torch's wrapper takes it."""
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad.div_(self.world))

    def share(self, text: str) -> str:
        """The text that the first process gave; the others wait for it."""
        given = [text]
        if self._talk is not None:
            torch.distributed.broadcast_object_list(given, 0, group=self._talk, device=self.place)
        return given[0]

    def gather(self, value: Any) -> list[Any]:
        """What each process gave, in their order."""
        given: list[Any] = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(given, value)
        return given

    def whole(self, state: Any) -> Any:
        """The tensors of a net that is spread put together, which all processes must ask for."""
        return sharding.whole(state, keep=self.main) if self.spread else state

    def plain(self, net: nn.Module) -> nn.Module:
        """A copy with whole weights of a net that is spread, which all processes must ask for."""
        if not self.spread or self._plain is None:
            return net
        state = self.whole(net.state_dict())
        if self.main:
            self._plain.load_state_dict(state)
        return self._plain.train(net.training)

    def _too_large(self, net: nn.Module) -> bool:
        if self.world == 1 or self._strategy != "auto":
            return self.world > 1 and self._strategy == "fsdp"
        here = self.place.type == "cuda"
        return here and sharding.too_large(net, torch.cuda.get_device_properties(self.place).total_memory)

    def _spread(self, net: nn.Module, optimizer: Optimizer) -> nn.Module:
        if self.scales:
            raise UserError("A net that is spread can't be trained in fp16.", remedy="Use bf16 or fp32.")
        self.use(self.precision)  # parts can't be channels last
        self._plain = copy.deepcopy(net).cpu()
        self.one.setup(net, optimizer)
        sharding.shard(net, optimizer)
        self.one.setup(net, optimizer)  # knows the new parameters
        self.spread = True
        return net

    def _compare(self) -> None:
        """Refuses processes of other versions, which would compute something else or wait for ever: UserError of the
        first process, the others follow."""
        mine = {"inflame": __version__, "torch": torch.__version__, "Python": platform.python_version()}
        given: list[dict[str, str]] = [mine] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(given, mine)
        odd = [rank for rank, theirs in enumerate(given) if theirs != given[0]]
        if odd and not self.main:
            raise Follows
        if odd:
            theirs = given[odd[0]]
            differ = [f"{name} {theirs[name]} (here {mine[name]})" for name in mine if theirs[name] != mine[name]]
            raise UserError(
                f"The processes aren't alike: number {odd[0]} of {self.world} has {', '.join(differ)}.",
                remedy="Install the same versions on all machines: pip install -r requirements.lock",
            )

    def describe(self) -> str:
        """As of `Device`, with the number of processes."""
        return f"{self.world} x {self.one.describe()}{', the net spread over them' * self.spread}"

    def state_dict(self) -> dict[str, Any]:
        """As on `One`."""
        return self.one.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As on `One`."""
        self.one.load_state_dict(state)


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
