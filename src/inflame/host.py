"""What this machine lets the process use: cores and memory, as the scheduler and the container allow them."""

from __future__ import annotations

import itertools
import os
import re
import resource
import signal
from contextlib import suppress
from functools import cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_PAGE = 1 << 21  # bytes of a large page
_HEAP = 3 << 29  # bytes of the heap that may get large pages; more than 2^31 would be given back at once
_SEVERAL = "TORCHELASTIC_RUN_ID"  # set by torchrun, whose child is each of several processes
_GPU = re.compile(r"/dev/nvidia\d+")
_CARD = re.compile(r"\d+|(?:GPU|MIG)-\S+")  # what CUDA_VISIBLE_DEVICES calls one


def cores() -> int:
    """How many cores this process may use: what its affinity and its container's quota allow, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup, or quota "max"
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        allowed = min(allowed, round(int(quota) / int(period)))
    return max(1, allowed)


def gpus() -> list[str]:
    """The GPUs of NVIDIA that this process may use, by names that CUDA_VISIBLE_DEVICES takes: what that variable says
    already, else those that the driver shows, and of one that is divided (MIG) its parts."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:  # CUDA stops at the first name that is none
        return list(itertools.takewhile(_CARD.fullmatch, (name.strip() for name in said.split(","))))
    return list(_cards())


@cache
def _cards() -> tuple[str, ...]:
    import subprocess

    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        found = [re.findall(r"UUID: ((?:GPU|MIG)-[^)]+)", card) for card in re.split(r"(?m)^(?=GPU )", done.stdout)]
        return tuple(name for names in found for name in (names[1:] or names))
    return tuple(str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))


def memory() -> int | None:
    """Bytes of memory that this process may use, or None where nobody says."""
    known: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):
        known.append(int((_CGROUP / "memory.max").read_text()))
    return min(known, default=None)


@cache
def keep_memory() -> None:
    """Lets the C library keep what pictures and activations were in, instead of asking the system for it again and
    again, and asks the system for large pages there: page faults took a quarter of the time of reading photos, small
    pages a tenth of that of training on them. Only glibc and Linux know how; elsewhere nothing happens."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(-3, (1 << 31) - 1)  # M_MMAP_THRESHOLD
        library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
        library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        size = min(_HEAP, (memory() or _HEAP) // 4)
        library.free(library.malloc(ctypes.c_size_t(size)))  # never touched: that costs nothing
        for first, end in _heaps():
            library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), 14)  # MADV_HUGEPAGE


def _heaps() -> list[tuple[int, int]]:
    """From where to where the heap of this process lies, in whole large pages."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            first, end = (int(number, 16) for number in line.split()[0].split("-"))
            found.append((-(-first // _PAGE) * _PAGE, end // _PAGE * _PAGE))
    return [(first, end) for first, end in found if first < end]


def cpu_seconds() -> float:
    """The processor time of this process so far, with that of its children, living and dead. Of several processes for
    one training, that of all on this machine."""
    root = os.getppid() if _SEVERAL in os.environ else os.getpid()
    try:
        ticks = sum(map(_ticks, tree(root)))
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # no such files here
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in used)


def holds_gpu() -> bool:
    """Whether this process has opened a GPU of NVIDIA's."""
    with suppress(OSError):
        for path in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if _GPU.fullmatch(str(path.readlink())):
                    return True
    return False


def tree(root: int) -> list[int]:
    """The process and all below it that live."""
    found, wait = [], [root]
    while wait:
        pid = wait.pop()
        found.append(pid)
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                wait += map(int, file.read_text().split())
    return found


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process that signal when its parent ends, however it ends (Linux; elsewhere nothing)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def born(pid: int) -> str:
    """When a process started, in the kernel's clock ticks: a pid may be given again, this not. Empty where it isn't
    told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def lives(pid: int, birth: str) -> bool:
    """Whether the process of that pid lives and is the one that was `born` then."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it lives, and belongs to somebody else
    except OSError:
        return False
    return born(pid) == birth


def groups(root: int) -> list[int]:
    """The process groups of the process and of all below it: some begin sessions of their own."""
    found: list[int] = []
    for pid in tree(root):
        with suppress(ProcessLookupError):
            group = os.getpgid(pid)
            found += [group] if group not in found else []
    return found


def _ticks(pid: int) -> int:
    """User and system time of a process and of its dead children, in clock ticks; 0 for one that has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        if pid == os.getpid():
            raise
        return 0
    return sum(map(int, fields[11:15]))
