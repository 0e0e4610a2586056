"""A net that is too large for one device, spread over several: each process holds a part of every weight, gradient and
moment, and gets the rest of a layer only while it computes it (FSDP; Zhao et al., 2023, arXiv:2304.11277).

By torch's `fully_shard`. Checkpoints hold whole tensors, as on one device, so a run goes on with any number of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from inflame.errors import UserError

UNIT = 10_000_000  # numbers that are fetched together, at least
STATES = 16  # bytes that a number takes in training with Adam: weight, gradient, two moments
SHARE = 0.5  # of a device's memory that those may take; the rest is for activations


def too_large(net: nn.Module, memory: float) -> bool:
    """Whether weights, gradients and moments of `net` leave too little of `memory` (bytes)."""
    return STATES * sum(parameter.numel() for parameter in net.parameters()) > SHARE * memory


def shard(net: nn.Module, optimizer: Optimizer) -> None:
    """Spreads `net` over all processes, in place, and puts its new parameters into `optimizer`, which must be fresh.
    All begin with the weights of the first process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if optimizer.state:
        raise UserError("This optimizer has stepped already.", remedy="Make it anew before the net is spread.")
    net.to(memory_format=torch.contiguous_format)
    for value in net.state_dict().values():
        torch.distributed.broadcast(value, 0)
    place = next(net.parameters()).device.type
    mesh = init_device_mesh(place, (torch.distributed.get_world_size(),))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    taken: set[int] = set()
    for module in reversed(list(net.modules())):  # the innermost first
        own = {id(p): p.numel() for p in module.parameters() if id(p) not in taken}
        if module is net or sum(own.values()) >= UNIT:
            fully_shard(module, mesh=mesh)
            taken |= own.keys()
    fresh = dict(net.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [fresh[names[id(parameter)]] for parameter in group["params"]]


def whole(value: Any, *, keep: bool) -> Any:
    """The same state with whole tensors in place of spread ones. All processes must call; those that don't `keep`
    get empty ones, for their memory's sake."""
    if _is_part(value):
        full: Tensor = value.full_tensor()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(value, dict):
        return {name: whole(item, keep=keep) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([whole(item, keep=keep) for item in value])
    return value


def parted(state: dict[str, Any], net: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The reverse, for what a learner takes over: its net's and optimizer's tensors spread as those are now."""
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    moments = _spread(state["optimizer"]["state"], parameters)
    weights = _spread(state["net"], net.state_dict())
    return {**state, "net": weights, "optimizer": {**state["optimizer"], "state": moments}}


def restore(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Puts whole weights into a net, whether it is spread or not."""
    net.load_state_dict(_spread(weights, net.state_dict()))


def _spread(value: Any, like: Any) -> Any:
    """`value` with each tensor spread as its counterpart in `like`, by name or number, or as `like` itself, where the
    shapes agree. Every process has the whole state, so nothing is sent."""
    if isinstance(value, dict):
        return {name: _spread(item, like.get(name) if isinstance(like, dict) else like) for name, item in value.items()}
    if _is_part(like) and isinstance(value, Tensor) and value.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return value


def _is_part(value: Any) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor, without importing what one device never needs
