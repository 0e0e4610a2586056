"""Keeps the process of a model: begins it, asks it, ends it when it hangs, and begins it again when it has died.

What a stranger sends is decoded there and nowhere else: a picture that makes the decoder crash, hang or eat memory
costs its sender an error, and nobody else an answer.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from inflame.errors import InflameError, RunError
from inflame.web import parcels
from inflame.web.wire import Link, Said

_LOADING = 120.0  # seconds for a bundle
_PAUSE = 1.0  # before a process that didn't come up is tried again
_ENDING = 5.0
# What the process is told of the environment: all that it needs, for what strangers send may take it over. A password
# of the log, a key of a cloud and whatever else a machine has in its variables is none of its business.
_TOLD = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "VIRTUAL_ENV"),
        *("LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES"),
        *("INFLAME_HOME", "INFLAME_MIRROR"),
    )
)
_FAMILIES = (
    *("PYTHON", "LC_", "MALLOC_", "COV_CORE_", "COVERAGE_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TBB_", "ORT_", "ONNXRUNTIME_", "OPENVINO_", "OV_"),
    *("CUDA_", "CUDNN_", "NVIDIA_"),
)
_CRASHES = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE}


class Died(Exception):
    """The process ended before it had answered. `at`: which of the contents was being read, or None; `slow`: it was
    ended because that took too long; `crashed`: it ended itself by a fault."""

    def __init__(self, at: int | None, *, slow: bool, crashed: bool) -> None:
        super().__init__("slow" if slow else "died")
        self.at, self.slow, self.crashed = at, slow, crashed


class Away(Exception):
    """There is no process at present."""


@dataclass(slots=True)
class _Call:
    patience: float  # seconds for one content to be read
    at: int | None
    moved: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    reply: Said | None = None
    slow: bool = False
    died: Died | None = None


@final
class Worker:
    """The process of a bundle: `about` is what it is told first. It is begun at once; `wait` says whether it came up.

    `hello` is what it told of its bundle. `deaths` counts ends that nobody wished. A process that comes back with
    another bundle (its folder holds another by now) is `gone`: it is ended, and not begun again.
    """

    def __init__(self, about: dict[str, Any], *, patience: float, slowest: float) -> None:
        self.hello: dict[str, Any] = {}
        self.deaths, self.gone = 0, False
        self._about, self._patience, self._slowest = about, patience, slowest
        self._calls: dict[int, _Call] = {}
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._up, self._told, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._refusal: InflameError | None = None
        self._begin()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._keeper.start()

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self._up.is_set()

    @property
    def pid(self) -> int:
        """The number of the process that lives, or lived last."""
        return self._process.pid

    def wait(self) -> None:
        """Until the process has come up for the first time. Raises what it refuses the bundle with."""
        self._told.wait()
        if self._refusal is not None:
            self._keeper.join()
            raise self._refusal

    def ask(self, do: str, blobs: Sequence[bytes] = (), *, within: float, **told: Any) -> Said:
        """What the process replies. It is waited for, for `within` seconds, where it has just died. Raises Died, Away,
        and what the process raised."""
        call, number, link = self._call(do, within)
        try:
            link.send({"id": number, "do": do, **told}, blobs)
        except OSError:
            link.hang_up()  # it has died; the keeper says so to all
        while not call.done.wait(self._left(call)):
            if self._left(call) <= 0 and not call.slow:
                call.slow = True
                self._process.kill()
        if call.died is not None or call.reply is None:
            raise call.died or Died(None, slow=False, crashed=False)
        if "error" in call.reply[0]:
            raise parcels.error_of(call.reply[0])
        return call.reply

    def close(self, within: float = _ENDING) -> None:
        """Ends the process when it has answered what it was asked."""
        end = time.monotonic() + within
        while self._calls and self.up and time.monotonic() < end:
            time.sleep(0.01)
        self._closing.set()
        with self._lock:
            self._link.hang_up()
        self._keeper.join(2 * _ENDING)

    # --- a call --------------------------------------------------------------------------------------

    def _call(self, do: str, within: float) -> tuple[_Call, int, Link]:
        end = time.monotonic() + within
        answers = do == "answer"
        while True:
            if self.gone or self._closing.is_set() or not self._up.wait(max(0.0, end - time.monotonic())):
                raise Away
            with self._lock:
                if self._up.is_set():
                    number = next(self._numbers)
                    call = _Call(self._patience if answers else float("inf"), 0 if answers else None)
                    self._calls[number] = call
                    return call, number, self._link

    def _left(self, call: _Call) -> float:
        """The seconds that a call may still take without moving; at most some, so that it is looked at."""
        if call.slow:
            return _ENDING
        return min(call.moved + call.patience - time.monotonic(), 1.0)

    # --- the process ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "inflame.web.process", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the website
            )
        self._link = Link(ours)

    def _keep(self) -> None:
        while True:
            came = self._came_up()
            if came:
                self._listen()
            self._bury()
            if self.gone or self._closing.is_set() or self._refusal is not None:
                return
            if not came and self._closing.wait(_PAUSE):
                return
            with self._lock:
                self._begin()

    def _came_up(self) -> bool:
        try:
            self._link.send(self._about)
            said = self._link.receive(_LOADING)
            told = said[0] if said else None
            error = parcels.error_of(told) if told and "error" in told else None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as mistake:
            told, error = None, _failed(str(mistake))
        if told is None or error is not None:
            self._refuse(error or _failed("it ended while it loaded the bundle"))
            return False
        if self.hello and told["version"] != self.hello["version"]:
            self.gone = True
            return False
        self.hello = told
        with self._lock:
            self._up.set()
        self._told.set()
        return True

    def _refuse(self, error: InflameError) -> None:
        """Keeps why the first process didn't come up; later ones are tried again."""
        if not self.hello:
            self._refusal = error
            self._told.set()

    def _listen(self) -> None:
        """Until the process ends, or says what it may not say."""
        try:
            while (said := self._link.receive()) is not None:
                number, told = said[0].pop("id"), said[0]
                call = self._calls.get(number)
                if call is None:
                    continue
                if "at" in told:
                    call.at = told["at"] if told["at"] >= 0 else None
                    call.patience = self._patience if call.at is not None else self._slowest
                    call.moved = time.monotonic()
                    continue
                call.reply = said
                self._calls.pop(number, None)
                call.done.set()
        except (OSError, ValueError, KeyError, TypeError):
            self._process.kill()

    def _bury(self) -> None:
        """Ends what is left of the process, and tells those who wait."""
        with self._lock:
            self._up.clear()
            calls, self._calls = list(self._calls.values()), {}
        try:
            self._link.hang_up()
            how = self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            how = self._process.wait()
        self._link.close()
        self.deaths += not self._closing.is_set()
        for call in calls:
            call.died = Died(call.at, slow=call.slow, crashed=how in _CRASHES)
            call.done.set()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _TOLD or name.startswith(_FAMILIES)}


def _failed(why: str) -> InflameError:
    return RunError(
        f"The process of the model doesn't come up: {why}.",
        where="inflame serve",
        remedy="See the lines before this one; is there enough memory?",
    )
