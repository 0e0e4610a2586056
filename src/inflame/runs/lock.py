"""Who is at work in a run folder: a lock that the kernel lets go when its process dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from inflame import host, store

if TYPE_CHECKING:
    from pathlib import Path

STALE = 600.0  # seconds of silence after which a process on another machine counts as gone
_TRIES = 6  # whoever looks at a lock holds it for a moment


class Lock:
    """A held lock file. `release` lets go; so does the death of the process."""

    __slots__ = ("__weakref__", "_descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _held.add(self)

    def touch(self) -> None:
        """Says that its process is still there, to machines that can't see it."""
        with suppress(OSError):
            os.utime(self._descriptor)

    def release(self) -> None:
        """Lets go of the lock; the file stays, because another process may have it open."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self.drop()

    def drop(self) -> None:
        """Closes the file without a word (in a forked child: the parent still holds the lock)."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def take(path: Path) -> Lock | None:
    """The lock of `path`, made when missing; None while another process holds it.

    Where the file system has no locks (some network ones), the process named in the file is looked for instead.
    """
    with store.guard(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            for attempt in range(_TRIES):
                free = _try(descriptor)
                if (free or (free is None and not _alive(path))) and _sign(descriptor, sure=bool(free)):
                    return Lock(path, descriptor)
                if attempt + 1 < _TRIES:
                    time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
    os.close(descriptor)
    return None


def held(path: Path) -> bool:
    """Whether a living process holds the lock of `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        free = _try(descriptor, shared=True)
        return _alive(path) if free is None else not free
    finally:
        os.close(descriptor)


def _try(descriptor: int, *, shared: bool = False) -> bool | None:
    """Whether the lock was to be had; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _sign(descriptor: int, *, sure: bool) -> bool:
    """Writes who holds the lock. Without a real lock two may write: the last one has it."""
    name = json.dumps(_me()).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, name, 0)
    if not sure:
        time.sleep(0.05)
    return sure or os.pread(descriptor, len(name) + 1, 0) == name


def _me() -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid(), "born": host.born(os.getpid())}


def _alive(path: Path) -> bool:
    """Whether the process that the file names lives: by its pid here, by its last sign elsewhere."""
    try:
        owner = json.loads(path.read_text())
        if owner["host"] != os.uname().nodename:
            return time.time() - path.stat().st_mtime < STALE
        return host.lives(owner["pid"], owner["born"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _drop_all() -> None:
    for lock in list(_held):
        lock.drop()


# A forked worker would keep the lock after its parent was killed, and the next start would not go on with the run.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)
