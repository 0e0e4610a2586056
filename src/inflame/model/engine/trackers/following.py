"""The training's side of mirroring: starts a process for each tracker, and at the end waits a little for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import final

from inflame import plugins
from inflame.errors import RunError, SettingError, UserError
from inflame.model.engine.trackers import ALWAYS, mirror, story
from inflame.model.engine.trackers.system import Sampler
from inflame.runs import Follower, Run

WAIT = "INFLAME_TRACKER_WAIT"  # seconds that a tracker may be silent at the end of a training
SILENT = 5.0
IN_ALL = 12  # times that: the most that one may take which does get on
SYNC = 60.0  # seconds of silence where somebody asked for nothing else but this


def wanted(names: str) -> tuple[str, ...]:
    """The trackers of a setting like `mlflow,tensorboard`, without the run folder itself.

    Unknown: UserError with the nearest name. Not installed: MissingExtra with the line that installs it.
    """
    found = tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip()) and name != ALWAYS))
    for name in found:
        plugins.demand("tracker", name)
    return found


@contextmanager
def mirrored(trackers: Sequence[str]) -> Iterator[Callable[[Run], None]]:
    """Gives what begins to mirror a run to all of them; when the block ends, says what has arrived and what hasn't.

    To be around the `with` of the run itself, whose last words are mirrored too.
    """
    seconds = _patience()
    started: list[Process] = []
    with ExitStack() as stack:

        def begin(run: Run) -> None:
            if not trackers or isinstance(run, Follower):  # of several processes, the one that writes mirrors
                return
            sampler = Sampler(run.path / story.SYSTEM, lambda: run.seconds)
            stack.callback(run.close)  # the last lines opened its log again
            stack.callback(_await, started, seconds)
            stack.callback(sampler.close)
            for name in trackers:
                with suppress(OSError):  # no process to be had: nothing that a training should end for
                    started.append(Process(run, name, seconds))

        yield begin


def sync(run: Run, trackers: Sequence[str]) -> None:
    """Tells the trackers whatever they haven't been told of a run, however long ago that was.

    Errors: UserError while the run is at work, RunError when something could not be delivered.
    """
    if run.state == "running":
        raise UserError(f"The run {run.name} is at work, and mirrored meanwhile.", remedy="Wait until it has ended.")
    started = [Process(run, name, SYNC) for name in trackers]
    _await(started, SYNC)
    left = [process.name for process in started if process.left()]
    if left:
        raise RunError(
            f"{' and '.join(left)} did not get all of the run {run.name}.",
            where=str(run.path / story.TRACKERS / f"{left[0]}.log"),
            remedy="Check the address, the network and the credentials (docs/trackers.md), then type the same again.",
        )


@final
class Process:
    """A tracker at work on a run. Its lines are said as they come."""

    def __init__(self, run: Run, name: str, seconds: float) -> None:
        self.run, self.name = run, name
        words = [sys.executable, "-P", "-m", mirror.__name__, str(run.path), name, str(seconds)]
        # A session of its own: Ctrl-C is the training's business, and what a tracker starts is ended with it.
        self._child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._say_all, name=f"inflame-{name}", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Lets it know that nothing will follow."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits until it ends, at most so long, then ends it with all that it started; says what it leaves undone."""
        try:
            self._child.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._reader.join(timeout=1.0)
        if left := self.left():
            code = self._child.returncode
            end = "it did not answer in time" if code in (1, -signal.SIGKILL) else f"its process died, code {code}"
            reason = mirror.memo(self.run.path, self.name).get("error") or end
            self._say(f"not delivered: {left} ({reason}). The run folder has it: inflame runs --sync {self.run.name}")

    def left(self) -> str:
        """What has not arrived, in words; only after `wait`."""
        return "" if self._child.returncode == 0 else story.missing(self.run, mirror.memo(self.run.path, self.name))

    def _say_all(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                self._say(line.rstrip("\n"))

    def _say(self, text: str) -> None:
        self.run.say(f"{'tracker':<8} {self.name}: {text}")


def _await(started: Sequence[Process], seconds: float) -> None:
    for process in started:
        process.close()
    end = time.monotonic() + IN_ALL * seconds
    for process in started:
        process.wait(end - time.monotonic())


def _patience() -> float:
    """Seconds that a tracker may be silent at the end."""
    given = os.environ.get(WAIT, "")
    try:
        seconds = float(given or SILENT)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise SettingError(
            f"{WAIT} is {given!r}, not a number of seconds above 0.",
            where=f"environment variable {WAIT}",
            remedy=f"{WAIT}=30, or unset it.",
        )
    return seconds
