"""Memory that is used again: pictures come and go, and fresh pages cost more than what is done with them. What an
onslaught has taken is given back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MAPPED = 16 * 2**20  # bytes; what is larger goes back to the system as soon as it is free
_SPARE = 32 * 2**20  # bytes that may be kept


def keep() -> None:
    """Lets the C library keep a little of what it was given, instead of asking the system for it again with each
    picture: page faults took three quarters of the time of the statistics of one (2.9 ms, 0.7 without). `host` keeps
    much more, for trainings. Only glibc knows how."""
    trim()  # what starting has left
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(-3, _MAPPED)  # M_MMAP_THRESHOLD
        library.mallopt(-1, _SPARE)  # M_TRIM_THRESHOLD


def trim() -> None:
    """Gives the system back what is free, also in the midst of what isn't: some milliseconds. What waited at once lies
    scattered, and would be kept for good."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
