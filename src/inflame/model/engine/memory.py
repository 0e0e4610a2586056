"""What goes on where memory is short: less at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar, final

import torch
from torch import Tensor

Found = TypeVar("Found")

_warn = logging.getLogger("inflame").warning


def short(error: BaseException) -> bool:
    """Whether the error says that memory is short, on a GPU or here."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "defaultcpuallocator")
    )


def freed() -> None:
    """Gives back what torch keeps of a GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@final
class Parts:
    """Items go through something all at once, and where memory is short in two parts, or four, … from then on.

    For what nothing is learned from: answers don't depend on who else is asked.
    """

    def __init__(self) -> None:
        self.count = 1

    def __call__(self, run: Callable[..., Found], *given: Tensor) -> list[Found]:
        """What `run` gives of each part of the items, which are the rows of all tensors alike. One item that doesn't
        fit: the error is raised."""
        while True:
            try:
                parts = zip(*(tensor.chunk(self.count) for tensor in given), strict=True)
                return [run(*part) for part in parts]
            except (RuntimeError, MemoryError) as error:
                if not short(error) or self.count >= len(given[0]):
                    raise
            # Only here, where the error and all that it holds on to are gone, is there memory again.
            self.count *= 2
            _warn(f"Memory is short: {len(given[0])} items are answered in {self.count} parts from now on.")
            freed()


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
