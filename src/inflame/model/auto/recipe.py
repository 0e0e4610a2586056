"""How hard a training is held back from learning by heart: little when it is short, more when it is long.

A net that sees every item a few times has no time to learn any by heart; smoothing, mixing and hiding parts then only
slow it down. How often it will see them is measured: the time that is left, over the time a step takes. What gained
nothing when it was tried (benchmarks/README.md) is off until the user sets it; what the user sets wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from inflame.config.schema import UNSET
from inflame.config.settings import Hyperparam
from inflame.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Record):
    """What a training uses; 0 is none. epochs: those that it was made for. label_smoothing: share of a label that is
    spread over all classes; ema: of the average of the weights in each step; mixup, cutmix: alpha of the Beta that the
    share of a second item is drawn from; cutout: side of the hidden square, of the picture's; trivial: one random
    operation an item; decay: rate of each earlier stage, of the next one's. why: in words."""

    epochs: float
    label_smoothing: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    cutout: float = 0.0
    trivial: bool = False
    weight_decay: float = 0.0
    decay: float = 1.0
    why: str = ""

    def words(self) -> str:
        """What is switched on, in a line."""
        told = [f"{name} {getattr(self, key):g}" for key, name in _NAMES.items() if getattr(self, key)]
        return ", ".join(told) or "nothing"


_NAMES = {
    "label_smoothing": "label smoothing",
    "ema": "average of weights",
    "mixup": "mixup",
    "cutmix": "CutMix",
    "cutout": "cutout",
    "trivial": "TrivialAugment",
    "weight_decay": "weight decay",
}
SHORT = 15.0  # epochs: more is long


def small(epochs: float, h: Hyperparam) -> Recipe:
    """For a small net from scratch."""
    found = Recipe(epochs=epochs, label_smoothing=0.2 if epochs > SHORT else 0.05, weight_decay=0.1, why=_why(epochs))
    return _given(found, h, ("label_smoothing", "ema", "mixup", "cutmix", "cutout", "weight_decay"))


def paired(epochs: float, h: Hyperparam) -> Recipe:
    """For the net of the speed runs, which sees each picture less often and smaller at first."""
    found = Recipe(epochs=epochs, label_smoothing=0.2, weight_decay=0.004, why=_why(epochs))
    return _given(found, h, ("label_smoothing", "ema", "mixup", "cutmix", "cutout"))


def tail(h: Hyperparam) -> Recipe:
    """For the last stages of a pretrained net. The head is where the probe left it: the first step counts already."""
    return Recipe(
        epochs=0.0,
        label_smoothing=h.tail_label_smoothing,
        ema=h.tail_ema,
        weight_decay=h.tail_weight_decay,
        decay=h.tail_decay,
    )


def whole(epochs: float, h: Hyperparam) -> Recipe:
    """For all of a pretrained net."""
    found = Recipe(
        epochs=epochs,
        label_smoothing=0.1,
        ema=0.99,
        trivial=h.trivial,
        weight_decay=0.05,
        decay=0.7,
        why=_why(epochs),
    )
    return _given(found, h, ("label_smoothing", "ema", "mixup", "cutmix", "cutout"))


def _given(found: Recipe, h: Hyperparam, names: tuple[str, ...]) -> Recipe:
    """The recipe with what the user has set in its place."""
    said: dict[str, Any] = {name: h[name] for name in names if name in h and h[name] != UNSET}
    if not said:
        return found
    return replace(found, **said, why=f"{found.why}; as you set: {', '.join(said)}")


def _why(epochs: float) -> str:
    return f"{epochs:.0f} epochs are likely: {'short' if epochs <= SHORT else 'long'}"
