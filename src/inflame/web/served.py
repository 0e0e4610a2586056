"""A model as the website sees it: facts about it, and answers that its process gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from inflame.artifact.preprocess import PictureError
from inflame.errors import InflameError
from inflame.model.engine.nearest import Near
from inflame.monitor import entries
from inflame.web import parcels
from inflame.web.answers import Answer
from inflame.web.problems import Problem
from inflame.web.settings import Settings
from inflame.web.worker import Away, Died, Worker

_SUSPECT = 2  # processes that may die while they read one content


@final
class Served:
    """One version of one model, in a process of its own that is begun at once. Safe to share between threads; after
    `close` nobody may ask it. A method whose process dies asks the next one; Problem where there is none in time."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        self.name, self.folder, self.settings = name, folder, settings
        self.stamp = stamp(folder)
        about = {"name": name, "folder": str(folder.absolute()), "pixels": settings.pixels}
        about |= {"workers": settings.workers, "runtime": settings.runtime}
        self.worker = Worker(about, patience=settings.read_time, slowest=3 * settings.deadline)

    def wait(self) -> Served:
        """Itself, when the bundle is loaded and its canaries are answered. Raises BundleError, RunError."""
        self.worker.wait()
        hello = self.worker.hello
        self.version, self.created = str(hello["version"]), str(hello["created"])
        self.classes: tuple[str, ...] = tuple(hello["classes"])
        self.about: dict[str, Any] = hello["about"]
        self.seconds = float(hello["seconds"])  # that one answer takes
        self.single = bool(hello["single"])  # whether it is asked one thing at a time
        self.card, self.text = str(hello["card"]), bool(hello["text"])
        self.runtime: dict[str, Any] = hello["runtime"]  # a `runtimes.Choice`
        self.size, self.channels = int(hello["size"]), int(hello["channels"])  # of pictures as the net sees them
        return self

    @property
    def most(self) -> int:
        """How many things at once are worth it."""
        return 1 if self.single else self.settings.batch

    @property
    def small(self) -> bool:
        """Whether pictures are small and grey, like digits: such can be drawn."""
        return not self.text and self.channels == 1 and self.size <= 64

    def answer(
        self, contents: Sequence[bytes], took: Callable[[tuple[float, float]], None] = lambda _: None
    ) -> list[Answer | InflameError]:
        """One answer for the bytes of each picture or text, or the error that says why there is none. Who breaks the
        process doesn't break the answers of others: they are asked again. `took` is told the seconds of reading, and of
        the net. Raises Problem."""
        found: list[Answer | InflameError | None] = [None] * len(contents)
        left, crashes = list(range(len(contents))), dict[int, int]()
        end = time.monotonic() + self.settings.deadline  # nobody waits longer
        while left:
            try:
                told, blobs = self._ask("answer", [contents[place] for place in left])
                for place, one in zip(left, parcels.unwrapped(told["found"], blobs), strict=True):
                    found[place] = one
                read, net = told["seconds"]
                took((float(read), float(net)))
                break
            except Died as died:
                if died.at is not None and died.at < len(left):
                    culprit = left[died.at]
                    crashes[culprit] = crashes.get(culprit, 0) + died.crashed
                    if died.slow or crashes[culprit] == _SUSPECT:
                        found[culprit] = _too_much(slow=died.slow)
                        left.remove(culprit)
                if time.monotonic() > end:
                    raise _away() from None
        return [one for one in found if one is not None]

    def explain(self, content: bytes, label: str = "", near: int = 6) -> dict[str, Any]:
        """Why: `said`, as explaining.told tells it, and the `pieces` of a text. Raises as the model does."""
        return self._once("explain", [content], label=label, near=near)[0]

    def small_copies(self, contents: Sequence[bytes], side: int) -> list[bytes]:
        """A JPEG of each picture, no larger than `side` on a side; empty for a text, and for what can't be read."""
        return [b""] * len(contents) if self.text else self._once("small", contents, side=side)[1]

    def bare(self, contents: Sequence[bytes]) -> list[bytes]:
        """The contents without metadata, to be kept; empty for what can't be taken apart."""
        return self._once("bare", contents)[1]

    def shown(self, count: int) -> list[Near]:
        """Some training items, of different classes as far as there are."""
        told, blobs = self._once("shown", count=count)
        return [Near(**one, thumb=thumb) for one, thumb in zip(told["near"], blobs, strict=True)]

    def again(self, entry: entries.Entry) -> Answer:
        """The answer that an entry of the log is about."""
        told, blobs = self._once("again", row=entries.dumps(entry.row()))
        (found,) = parcels.unwrapped(told["found"], blobs)
        assert isinstance(found, Answer)
        return found

    def alive(self) -> bool:
        """Whether the canaries are answered as they were when the model was loaded."""
        return bool(self._once("alive")[0]["alive"])

    def close(self) -> None:
        """Ends the process, when it has answered what it was asked."""
        self.worker.close()

    def _once(self, do: str, blobs: Sequence[bytes] = (), **told: Any) -> tuple[dict[str, Any], list[bytes]]:
        try:
            return self._ask(do, blobs, **told)
        except Died as died:
            raise (_too_much(slow=True) if died.slow else _away()) from None

    def _ask(self, do: str, blobs: Sequence[bytes] = (), **told: Any) -> tuple[dict[str, Any], list[bytes]]:
        try:
            return self.worker.ask(do, blobs, within=self.settings.deadline, **told)
        except Away:
            raise _away() from None


def stamp(folder: Path) -> tuple[str, int, int]:
    """What tells the bundle that a folder holds now from another; zeros where it holds none."""
    try:
        found = (folder / "bundle.json").stat()
    except OSError:
        return (str(folder), 0, 0)
    return (str(folder), found.st_mtime_ns, found.st_ino)


def _too_much(*, slow: bool) -> PictureError:
    what = "it takes too long to read" if slow else "reading it breaks the reader"
    return PictureError(what, kind="too_slow" if slow else "corrupt", remedy="save it again, as a plain JPEG")


def _away() -> Problem:
    return Problem("not_ready", "The process of the model starts again.", "Ask again in a moment.", wait=2.0)
