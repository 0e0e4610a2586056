"""Structured pruning: whole filters go, and what depends on them, so that the file is smaller and answers come faster.

The dependencies between layers are traced by torch-pruning (Fang et al., 2023, "DepGraph", arXiv:2301.12900); a filter
is worth the norm of its weights, compared over the whole net (Li et al., 2017, arXiv:1608.08710). Fine-tune afterwards:
what was cut out is missing at first.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from inflame import plugins
from inflame.errors import SettingError
from inflame.model.engine.nets import Classifier

MOST = 0.95  # of the filters


def prune(net: Classifier, x: Tensor, share: float, *, steps: int = 1) -> Classifier:
    """A copy of `net` without about `share` of its filters, the least important ones; the logits stay as many.

    x: float32 [N,C,H,W], what the net takes. steps: in so many rounds. Its `spec` says the new shapes, so that it can
    be built and loaded like any other. Raises SettingError for a share that isn't in [0, 0.95] and for a net that has
    nothing to prune; MissingExtra without torch-pruning.
    """
    if not 0 <= share <= MOST:
        raise SettingError(
            f"prune={share:g}: a share from 0 to {MOST} can be pruned.", where="prune", remedy="prune=0.5"
        )
    if share == 0:
        return net
    pruning: Any = plugins.need("torch_pruning", "prune", "Pruning")
    pruned = copy.deepcopy(net).eval()
    last = [module for module in pruned.head.modules() if isinstance(module, nn.Linear)][-1:]
    if not any(isinstance(module, nn.Conv2d | nn.Linear) for module in pruned.body.modules()) or not last:
        raise SettingError("This net has no filters to prune.", where="prune", remedy="Leave prune out.")
    cutter = pruning.pruner.BasePruner(
        pruned,
        x[:2],
        importance=pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=share,
        max_pruning_ratio=max(0.8, share),  # no layer may vanish
        iterative_steps=steps,
        ignored_layers=last,
        round_to=8,
    )
    for _ in range(steps):
        cutter.step()
    pruned.zero_grad()
    pruned.spec = {**net.spec, "shapes": shapes(pruned)}
    return pruned.train(net.training)


def shapes(net: nn.Module) -> dict[str, list[int]]:
    """The shape of every parameter and buffer, by name."""
    return {name: list(value.shape) for name, value in net.state_dict().items()}


def reshape(net: Classifier, wanted: dict[str, list[int]]) -> Classifier:
    """Gives a freshly built net the layer widths of a pruned one; what the weights are doesn't matter yet."""
    for name, module in net.named_modules():
        place = f"{name}." if name else ""
        weight = wanted.get(f"{place}weight")
        for kind in ("weight", "bias", "running_mean", "running_var"):
            old, shape = getattr(module, kind, None), wanted.get(f"{place}{kind}")
            if isinstance(old, Tensor) and shape is not None and list(old.shape) != shape:
                fresh = torch.zeros(shape, dtype=old.dtype)
                setattr(module, kind, nn.Parameter(fresh) if isinstance(old, nn.Parameter) else fresh)
        if weight is None:
            continue
        if isinstance(module, nn.Conv2d):
            if module.groups > 1:  # depthwise: as many groups as filters
                module.groups = weight[0] // max(1, module.out_channels // module.groups)
            module.out_channels, module.in_channels = weight[0], weight[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight[0], weight[1]
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight[0]
    net.spec = {**net.spec, "shapes": wanted}
    return net


def size(net: nn.Module) -> int:
    """How many numbers the net holds."""
    return sum(value.numel() for value in net.state_dict().values())
