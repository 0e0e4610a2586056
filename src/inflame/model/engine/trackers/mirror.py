"""One tracker of one run, in a process of its own: `python -m inflame.model.engine.trackers.mirror RUN NAME SECONDS`.

It tells the tracker what the run folder has, and goes on doing so until stdin ends, which is when the training ends,
however it ends. After that, SECONDS without any progress end the process. What was told is noted in
`trackers/NAME.json`, so that nothing is told twice and anything can be told later. Lines on stdout are for the person;
what the tracker prints goes to `trackers/NAME.log`. Exit code 0: all has arrived.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, final

from inflame import plugins, store
from inflame.model.engine.trackers import Tracker, story
from inflame.runs import Run, lock

POLL = 1.0  # seconds between two looks at the run folder
AGAIN = 10.0  # seconds after which a tracker that failed is tried again; doubled each time
SELDOM = 120.0  # at most
LETS_GO = 5.0  # seconds in which the lock of a process that is gone is free

_POLITE = 5  # nicer than the training, where both want the same core


def memo(folder: Path, name: str) -> dict[str, Any]:
    """What is noted of a tracker in a run folder: `{"place", "key", "rows", "system", "sent", "ended", "error"}`."""
    try:
        found = json.loads((folder / story.TRACKERS / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(argv: list[str]) -> int:
    """Mirrors; see above."""
    folder, name, seconds = Path(argv[0]), argv[1], float(argv[2])
    aside = store.make_folder(folder / story.TRACKERS)
    say, log = _apart(aside / f"{name}.log")
    over = threading.Event()
    mirror = Mirror(Run(path=folder), name, over, say, lambda: _dog(seconds, log) if over.is_set() else None)
    threading.Thread(target=_listen, args=(over, mirror.alive), daemon=True).start()
    while (held := lock.take(aside / f"{name}.lock")) is None:  # that of a killed sitting is still at it
        time.sleep(POLL)
    try:
        return 0 if mirror.run() else 1
    finally:
        held.release()


@final
class Mirror:
    """The telling of one run to one tracker. `alive` is called after every step of it that went well."""

    def __init__(
        self,
        run: Run,
        name: str,
        over: threading.Event,
        say: Callable[[str], None],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._run, self._name, self._over, self._say, self.alive = run, name, over, say, alive
        self._memo = memo(run.path, name)
        self._tracker: Tracker | None = None
        self._rows = story.Tail(run.path / "metrics.jsonl")
        self._samples = story.Tail(run.path / story.SYSTEM)

    def run(self) -> bool:
        """Tells until all is over; whether everything has arrived in the end."""
        pause, silent = AGAIN, False
        while True:
            last = self._over.is_set()
            try:
                self._tell(last=last)
            except Exception as error:  # a tracker may raise anything
                traceback.print_exc()
                self._note(error=_line(error))
                if last:
                    return False
                if not silent:
                    self._say(f"{_line(error)}; the training goes on, and this is tried again")
                self._tracker, silent = None, True
                self._over.wait(pause)
                pause = min(2 * pause, SELDOM)
            else:
                if last:
                    return True
                pause, silent = AGAIN, False
                self._over.wait(POLL)

    def _tell(self, *, last: bool) -> None:
        tracker = self._tracker or self._begin()
        while rows := self._rows.read(self._memo["rows"]):
            began = float(self._run.read_status().get("started") or 0.0)
            first = self._memo["rows"] + 1
            tracker.numbers([story.point(row, began, first + index) for index, row in enumerate(rows)])
            self._note(rows=self._rows.row)
        while samples := self._samples.read(self._memo["system"]):
            tracker.numbers([story.sample(row) for row in samples])
            self._note(system=self._samples.row)
        if last:
            self._finish(tracker)

    def _begin(self) -> Tracker:
        tracker: Tracker = plugins.load("tracker", self._name)()
        place = tracker.place()
        if self._memo.get("place") != place:
            self._memo = {"place": place, "key": "", "rows": 0, "system": 0, "sent": []}
        self._note(key=tracker.begin(story.about(self._run), self._memo["key"]), ended="", error="")
        self._tracker = tracker
        return tracker

    def _finish(self, tracker: Tracker) -> None:
        state = self._ended()
        for name, file in story.pictures(self._run).items():
            if name not in self._memo["sent"]:
                tracker.picture(name, file)
                self._note(sent=[*self._memo["sent"], name])
        for name, path in story.there(self._run).items():
            if name not in self._memo["sent"]:
                tracker.files(name, path)
                self._note(sent=[*self._memo["sent"], name])
        where = tracker.end(state, story.summary(self._run))
        self._note(ended=state, error="")
        self._say(f"all is there: {where}")

    def _ended(self) -> str:
        """How the run came to its end. Of a process that is killed the pipe to here may close before its lock does."""
        until = time.monotonic() + LETS_GO
        while (state := self._run.state) == "running" and time.monotonic() < until:
            time.sleep(0.02)
        return "interrupted" if state == "running" else state

    def _note(self, **fields: Any) -> None:
        self._memo |= fields
        store.write(self._run.path / story.TRACKERS / f"{self._name}.json", json.dumps(self._memo))
        self.alive()


def _apart(log: Path) -> tuple[Callable[[str], None], IO[str]]:
    """Takes stdout and stderr away from whatever prints; gives what writes a line to the real stdout, and the log."""
    voice = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    file = log.open("a", encoding="utf-8", errors="backslashreplace")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)

    def say(text: str) -> None:
        print(text, file=voice, flush=True)

    return say, file


def _listen(over: threading.Event, alive: Callable[[], None]) -> None:
    """Waits for stdin to end."""
    while os.read(0, 1):
        pass
    over.set()
    alive()


def _dog(seconds: float, log: IO[str]) -> None:
    """Ends the process after so many seconds, unless called again; also one that hangs in C, or at its exit."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=log)


def _line(error: BaseException) -> str:
    """What went wrong, short enough for a line."""
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text[:120]}{'…' if len(text) > 120 else ''}"


if __name__ == "__main__":
    os.nice(_POLITE)
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # what the tracker left running, or wants to do at the exit, waits for nobody
