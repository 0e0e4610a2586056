"""The net, and how it answers when it may look more than once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from inflame.model.engine import nets

PART = 2000  # pictures that go through at once


def build(classes: int, widths: Sequence[int]) -> nets.Classifier:
    """A fresh net for `classes` classes; widths: channels of the stem, then of each group."""
    return nets.paired(channels=3, classes=classes, widths=widths)


def looks(net: nn.Module, x: Tensor) -> Tensor:
    """Logits [N,K] of pictures [N,C,H,W], the mean over six looks: a picture and its mirror image, where they are (half
    of the weight) and moved by a pixel to two opposite corners (a quarter each). After Jordan (2024,
    arXiv:2404.00498)."""
    height, width = x.shape[2:]
    framed = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    views = ((x, 0.5), (framed[:, :, :height, :width], 0.25), (framed[:, :, 2:, 2:], 0.25))
    return torch.stack([weight * (net(view) + net(view.flip(3))) / 2 for view, weight in views]).sum(0)


def selective(net: nn.Module, x: Tensor, share: float) -> Tensor:
    """Logits [N,K] of pictures [N,C,H,W]: of one look at each, and of six at the `share` whose likeliest class is the
    least likely. Whoever answers one picture after the other can't tell which those are."""
    logits = torch.cat([net(part) for part in torch.split(x, PART)])
    least = logits.float().softmax(1).amax(1).argsort(stable=True)[: round(share * len(x))]
    if len(least):
        logits[least] = torch.cat([looks(net, x[rows]) for rows in torch.split(least, PART)]).to(logits.dtype)
    return logits
