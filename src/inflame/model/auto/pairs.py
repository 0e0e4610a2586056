"""The net of the speed runs, for many small photos: two convolutions in each group, Muon, pictures that grow.

An epoch takes it nearly twice as long as the small net with AdamW, and teaches it more: from about five epochs of that
one on it is the better one (benchmarks/README.md). After Jordan (2024, arXiv:2404.00498).
"""

from __future__ import annotations

from collections.abc import Callable

from inflame.model.engine import graphs, muon, nets, optim

from .plan import Road

ENOUGH = 4.5  # epochs of the small net that the time must be likely to be enough for
MANY = 10_000  # training pictures
SIDES = (24, 32)  # pixels that it was tried with
WIDTHS = (24, 32, 96, 128)  # channels of the stem and of each group: what a CPU can do
BATCH = 256
RATE, SGD_RATE = 0.085, 8.3e-4  # of Muon in such batches, and for each item of a batch of what isn't a filter
SMALLER = (8, 4, 0)  # pixels that the side is less …
UNTIL = (0.375, 0.75)  # … until these shares of the training


def suits(road: Road, items: int, epochs: float) -> bool:
    """Whether these pictures and this time are what it is better for."""
    return road.channels == 3 and SIDES[0] <= road.side <= SIDES[1] and items >= MANY and epochs >= ENOUGH


def build(road: Road, classes: int) -> nets.Classifier:
    """A fresh net."""
    return nets.paired(channels=road.channels, classes=classes, widths=WIDTHS)


def optimizer(net: nets.Classifier, items: int = BATCH) -> muon.Muon:
    """Muon for the filters, SGD for biases and the last layer; `items` in a batch."""
    learning = [p for p in net.body.parameters() if p.requires_grad]
    sgd, found = {"momentum": 0.85, "weight_decay": 0.004}, rates(items)
    return muon.Muon(
        [
            {"params": [p for p in learning if p.ndim == 4], "lr": found["rate"], "momentum": 0.6, "orthogonal": True},
            {"params": [p for p in learning if p.ndim == 1], "lr": 64 * found["sgd"], **sgd},
            {"params": list(net.head.parameters()), "lr": found["sgd"] / 81, **sgd},
        ],
        rounds=3,
    )


def rates(items: int) -> dict[str, float]:
    """The learning rates for batches of so many `items`: `rate` of Muon, which grows with the square root as that of
    Adam, and `sgd`, in proportion."""
    return {"items": items, "rate": optim.root(RATE, size=items, usual=BATCH), "sgd": SGD_RATE * items}


def growing(road: Road, say: Callable[[str], None] = lambda _: None) -> graphs.Growing:
    """The step, on pictures that are smaller at first. say: told whether it is captured as a graph."""
    return graphs.Growing([road.side - less for less in SMALLER], UNTIL, say=say)
