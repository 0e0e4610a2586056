"""A pretrained net with a new head, and which of its layers learn."""

from collections.abc import Sequence

from torch import nn

from inflame.errors import SettingError
from inflame.model.engine import nets

PARTS = ("head", "tail", "all")
TAIL = 2  # stages


def layers(net: nets.Classifier, part: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers that learn, from the input to the head (the head alone, the last two stages with it, or all), and
    those that don't, which are frozen in place. A net that can't be cut into stages has one: its whole body."""
    if part not in PARTS:
        raise SettingError(f'There is no part "{part}".', remedy=f"Use one of: {', '.join(PARTS)}", where="tune")
    stages: Sequence[nn.Module] = nets.stages(net.body) or [net.body]
    first = {"head": len(stages), "tail": max(0, len(stages) - TAIL), "all": 0}[part]
    net.requires_grad_(True)
    for stage in stages[:first]:
        stage.requires_grad_(False)
    return [*stages[first:], net.head], list(stages[:first])
