"""Where the items of a training lie: all of them on the device, where it has room, else in memory, from where each
batch is sent ahead of its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, cast, runtime_checkable

import torch

if TYPE_CHECKING:
    from inflame.model.engine.learner import Loader

SHARE = 0.4  # of a device's free memory that items may take; the rest is for the net and what it computes
NEAR = ("cpu", "mps")  # kinds of devices that compute in the memory where the items are


@runtime_checkable
class Placeable(Protocol):
    """A loader that can make its batches elsewhere."""

    @property
    def room(self) -> int | None:
        """Bytes that all items take; None where they can't be held at once."""

    def on(self, device: torch.device, *, held: bool) -> Self:
        """A loader of the same batches on `device`: of items that are all `held` there, or sent ahead."""


def placed(loader: Loader, place: torch.device) -> tuple[Loader, str]:
    """The loader with its batches on `place`, and in words where its items lie and why; where there is nothing to
    choose, the loader as it is and no words."""
    if place.type in NEAR or not isinstance(loader, Placeable):
        return loader, ""
    free = room(place)
    held = fits(loader.room, free)
    return cast("Loader", loader.on(place, held=held)), told(loader.room, free, held=held)


def fits(needed: int | None, free: int | None) -> bool:
    """Whether items of so many bytes may take that of the free ones; not where either is unknown."""
    return needed is not None and free is not None and needed <= SHARE * free


def room(place: torch.device) -> int | None:
    """Bytes of memory that are free on a device; None where nobody says."""
    return torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else None


def told(needed: int | None, free: int | None, *, held: bool) -> str:
    """The line for people."""
    if held:
        return f"all items on the device: {_size(needed)} of the {_size(free)} free there, {SHARE:.0%} may be"
    why = "they are read as they are needed" if needed is None else f"{_size(needed)} of {_size(free)} free there"
    return f"items in memory, sent ahead of their turn: {why}"


def _size(count: int | None) -> str:
    return "an unknown part" if count is None else f"{count / 1e6:,.0f} MB"
