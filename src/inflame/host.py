"""What this machine lets the process use: cores and memory, as the scheduler and the container allow them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many cores this process may use: what its affinity and its container's quota allow, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup, or quota "max"
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        allowed = min(allowed, round(int(quota) / int(period)))
    return max(1, allowed)


def memory() -> int | None:
    """Bytes of memory that this process may use, or None where nobody says."""
    known: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        known.append(int((_CGROUP / "memory.max").read_text()))
    return min(known, default=None)


def keep_memory() -> None:
    """Lets the C library keep what pictures were decoded into, instead of asking the system for it again and again:
    page faults took a quarter of the time. Only glibc knows how; elsewhere nothing happens."""
    import ctypes

    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
