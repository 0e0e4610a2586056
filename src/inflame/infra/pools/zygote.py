"""A process that has a model's `app.py` and all it imports in memory, and forks a child for every job: torch takes
seconds to import, a fork milliseconds. `inflame.infra.pools.warm` starts
`python -m inflame.infra.pools.zygote APP WORDS`, with words like those of its jobs.

It reads one line of JSON for each job on stdin, and writes one for each that has begun and has ended. It never runs the
model itself and has no threads, so that what it forks is sound. When its master is gone it stays until its last child
has ended, to write down how.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from inflame import host
from inflame.runs import lock

WARM = "INFLAME_WARM"  # set while app.py is run for its imports only
TIED = "INFLAME_TIED"  # set where nobody could adopt what outlives its master
LOCK, CODE, LOG, IMPORTS = "lock", "code", "log.txt", "imports.json"  # in the folder of a job


class Zygote:
    """The master's two pipes, and the children at work: the job folder of each by pid."""

    def __init__(self, app: Path, orders: int, answers: int) -> None:
        self.app, self.orders, self.answers = app, orders, answers
        self.children: dict[int, Path] = {}
        self._learned = False
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)

    def warm(self, words: list[str]) -> None:
        """Imports what the app imports, and reads words like those of the jobs. One that can't: each job will say so
        itself."""
        os.environ[WARM] = "1"
        # An app.py of whatever kind prints its help and ends; ours imports its train.py as well.
        sys.argv = [str(self.app), *(words or ["train"]), "--help"]
        try:
            runpy.run_path(str(self.app), run_name="__main__")
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc()
        del os.environ[WARM]
        _flush()  # else every child would inherit what was said here, and say it again
        gc.collect()
        gc.freeze()  # the collector would write to, and so copy, every page that children share

    def serve(self) -> None:
        """Forks until there is nobody left to fork for."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        rest, open_ = b"", True
        while open_ or self.children:
            ready, _, _ = select.select([self._wake, *([self.orders] if open_ else [])], [], [], 1.0)
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            self._reap()
            if self.orders in ready:
                data = os.read(self.orders, 1 << 16)
                open_ = bool(data)
                *lines, rest = (rest + data).split(b"\n")
                for order in map(json.loads, lines):
                    self._fork(order)

    def _fork(self, order: dict[str, Any]) -> None:
        folder = Path(order["folder"])
        ready, begun = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            code, before = 1, None if self._learned else set(sys.modules)
            try:
                for descriptor in (self.orders, self._wake, self._woken):
                    os.close(descriptor)
                if not _settle(folder, order):
                    os.write(begun, b"-")
                    os._exit(0)
                os.close(begun)
                code = _run(self.app, order["words"])
            finally:
                if code == 0 and before is not None:
                    _note(folder, before)
                _leave(folder, code, partial(self._tell, ended=folder.name))
        os.close(begun)
        if os.read(ready, 1):  # closed without a word when the child holds its lock, or is dead
            os.waitpid(pid, 0)  # how the job ends is for the process to say that has it
        else:
            self.children[pid] = folder
        os.close(ready)
        self._tell(begun=folder.name, pid=pid)

    def _reap(self) -> None:
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if folder := self.children.pop(pid, None):
                code = os.waitstatus_to_exitcode(status)
                if code == 0 and not self._learned:
                    self._learn(folder / IMPORTS)
                if write_code(folder, 128 - code if code < 0 else code):
                    self._tell(ended=folder.name)

    def _learn(self, file: Path) -> None:
        """Imports what the first job imported on its way, where that starts no threads: a process tries it first."""
        with suppress(OSError, ValueError):
            names = json.loads(file.read_text())
            self._learned = True
            pid = os.fork()
            if pid == 0:
                before = _threads()
                _import(names)
                os._exit(0 if _threads() == before else 1)
            if os.waitpid(pid, 0)[1] == 0:
                _import(names)
                gc.freeze()

    def _tell(self, **words: Any) -> None:
        with suppress(OSError):  # the master has gone
            os.write(self.answers, json.dumps(words).encode() + b"\n")


def _note(folder: Path, before: set[str]) -> None:
    """Writes down what a job has imported, in that order."""
    with suppress(OSError):
        (folder / IMPORTS).write_text(json.dumps([name for name in sys.modules if name not in before]))


def _import(names: list[str]) -> None:
    for name in names:
        with suppress(BaseException):
            importlib.import_module(name)


def _threads() -> int:
    """How many threads this process has, those of libraries too, and processes that it has started."""
    with suppress(OSError):
        task = Path("/proc/self/task")
        return len(list(task.iterdir())) + len((task / str(os.getpid()) / "children").read_text().split())
    return threading.active_count()


def write_code(folder: Path, code: int) -> bool:
    """Writes down how a job ended, where nobody has yet."""
    with suppress(OSError):
        if not (folder / CODE).exists():
            temporary = folder / f".tmp-{os.getpid()}-{CODE}"
            temporary.write_text(str(code))
            temporary.replace(folder / CODE)
            return True
    return False


def _settle(folder: Path, order: dict[str, Any]) -> bool:
    """Makes the child a process of its own: session, lock, log, folder, environment, cores. False where another process
    has this job, or it was given up."""
    if TIED in os.environ:
        host.die_with_parent()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    held = lock.take(folder / LOCK)
    if held is None or (folder / CODE).exists():
        return False
    _keep.append(held)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    if isinstance(sys.stdout, io.TextIOWrapper):  # else the app has put something of its own there
        sys.stdout.reconfigure(line_buffering=True)  # whoever watches sees each line at once
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.environ["INFLAME_STARTED"] = repr(time.time())
    if order["cores"] and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # cores that the machine has taken back meanwhile
            os.sched_setaffinity(0, order["cores"])
    weakref.finalize._registry.clear()  # type: ignore[attr-defined] # those are the zygote's, to be done when it ends
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else all children would draw the same numbers
    return True


_keep: list[Any] = []  # what must live as long as the process


def _run(app: Path, words: list[str]) -> int:
    """Does what `python app.py WORDS` does; the exit code."""
    sys.argv = [str(app), *words]
    try:
        runpy.run_path(str(app), run_name="__main__")
    except SystemExit as done:
        if done.code is None or isinstance(done.code, int):
            return done.code or 0
        sys.stderr.write(f"{done.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(folder: Path, code: int, tell: Callable[[], None]) -> None:
    """Ends the child as Python would, but for what the zygote shares with it. Its end is known before the system has
    cleared away its memory."""
    with suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    with suppress(BaseException):
        if write_code(folder, code):
            tell()
    os._exit(code & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def main() -> None:
    """Takes over the pipes from stdin and stdout: what imports print is nobody's business."""
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for descriptor in (orders, answers):
        os.set_inheritable(descriptor, False)
    if TIED in os.environ:
        host.die_with_parent()
    app = Path(sys.argv[1])
    sys.path.insert(0, str(app.parent))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    zygote = Zygote(app, orders, answers)
    zygote.warm(sys.argv[2:])
    zygote.serve()


if __name__ == "__main__":
    main()
