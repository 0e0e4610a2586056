"""Memory that is used again: pictures come and go, and fresh pages cost more than what is done with them."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MAPPED = 16 * 2**20  # bytes; what is larger goes back to the system as soon as it is free
_SPARE = 32 * 2**20  # bytes that may be kept


def keep() -> None:
    """Lets the C library keep a little of what it was given, instead of asking the system for it again with each
    picture: page faults took three quarters of the time of the statistics of one (2.9 ms, 0.7 without). `host` keeps
    much more, for trainings. Only glibc knows how."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)  # what starting has left
        library.mallopt(-3, _MAPPED)  # M_MMAP_THRESHOLD
        library.mallopt(-1, _SPARE)  # M_TRIM_THRESHOLD
