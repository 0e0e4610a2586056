"""What a tree of code is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a tree: `mode` as git writes it (100644, 100755, 120000 for a link), `blob` its object, `size` in
    bytes."""

    path: str
    mode: str
    blob: str
    size: int
