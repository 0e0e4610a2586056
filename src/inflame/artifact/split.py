"""Splits as an index: which side an item is on is a function of its content and the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

DEFAULT = {"train": 0.7, "val": 0.15, "test": 0.15}


def assign(
    items: pa.Table, fractions: Mapping[str, float], seed: int = 0, previous: pa.Table | None = None
) -> pa.Table:
    """The items with their `split` column filled."""
    raise NotImplementedError
