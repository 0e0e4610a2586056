"""Where one model is served: which version answers now, which did before, and how another takes over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from inflame.errors import DataError, InflameError
from inflame.web.served import Served, stamp
from inflame.web.settings import Settings

Where = Path | Callable[[], Path]  # the folder of a bundle, or what says which it is now


@final
class Slot:
    """The place of one model: of the bundle in a folder that may change. A new version is loaded beside the old one,
    and answers its canaries, before it takes over; the one before it is kept, to go back to at once. Raises BundleError
    for a bundle that can't be trusted."""

    def __init__(self, name: str, where: Where, settings: Settings, begun: Served | None = None) -> None:
        self.name, self._where, self._settings = name, where, settings
        self.current = (begun or Served(name, place(where), settings)).wait()
        self.before: Served | None = None
        self.trouble = ""  # why the newest bundle isn't served
        self._stamp = self.current.stamp
        self._lock = threading.Lock()

    @property
    def versions(self) -> list[Served]:
        """Those that can answer: the current one first."""
        return [self.current, *([self.before] if self.before is not None else [])]

    def changed(self) -> bool:
        """Whether the folder holds another bundle than the one that was looked at last, or the version that answers
        can't any more."""
        try:
            return stamp(place(self._where)) != self._stamp or self.current.worker.gone
        except InflameError as error:
            self.trouble = error.message
            return False

    def reload(self) -> bool:
        """Loads what the folder holds now; whether another version answers from here on. A bundle that can't be loaded
        changes nothing, and `trouble` says why."""
        with self._lock:
            made = Served(self.name, place(self._where), self._settings)
            self._stamp = made.stamp
            try:
                made.wait()
            except InflameError as error:
                self.trouble = error.message
                return False
            self.trouble = ""
            if made.version == self.current.version:
                made.close()
                return False
            retired, self.before, self.current = self.before, self.current, made
        if retired is not None:
            retired.close()
        return True

    def rollback(self) -> bool:
        """Back to the version before, at once; whether there was one."""
        with self._lock:
            if self.before is None or self.before.worker.gone:
                return False
            self.before, self.current = self.current, self.before
            return True

    def close(self) -> None:
        """Ends the processes."""
        for one in self.versions:
            one.close()


def place(where: Where) -> Path:
    """The folder that is meant now."""
    return where if isinstance(where, Path) else where()


def opened(folders: Mapping[str, Where], settings: Settings, begun: Mapping[str, Served]) -> dict[str, Slot]:
    """A slot for each bundle, loaded side by side. `begun`: what is being loaded already. All or none: raises
    BundleError."""
    coming = {name: begun.get(name) or Served(name, place(where), settings) for name, where in folders.items()}
    try:
        return {name: Slot(name, where, settings, coming[name]) for name, where in folders.items()}
    except BaseException:
        for one in coming.values():
            one.close()
        raise


def unknown(name: str, names: Sequence[str]) -> DataError:
    """The error for a model that isn't served."""
    return DataError(f'There is no model "{name}" here.', where="model", remedy=f"Name one of: {', '.join(names)}")
