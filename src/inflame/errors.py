"""Every error that inflame raises on purpose. Each one carries the way out.

    InflameError                  exit code 1
    ├── UserError                 2  something in what was typed or given
    │   ├── SettingError             a setting: unknown, ill-typed, out of range, or read by nothing
    │   ├── DataError                a path, a file, a folder
    │   ├── BundleError              a bundle is missing, incomplete or changed
    │   └── MissingExtra             a part of inflame that isn't installed
    └── RunError                  1  something failed while running
        ├── Diverged                 a loss or a weight is no longer finite, or the loss has run away
        ├── StorageError             disk full, read-only, no permission
        ├── CheckpointError          no checkpoint can be read
        ├── NetworkError             no place could be reached
        └── ExportError              the exported model doesn't answer like the trained one

The message says what is wrong, `where` the file, key or place, `remedy` what to type or change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class InflameError(Exception):
    """What is wrong, where, and the command or value that mends it."""

    code = 1

    def __init__(self, message: str, *, remedy: str, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions travel between worker processes by pickle, which only knows positional arguments.
        return _rebuild, (type(self), self.message, self.remedy, self.where)

    def explain(self) -> str:
        """The error as people see it: `error: …`, then `  where: …` and `  do: …`."""
        parts = [("error: ", self.message), ("  where: ", self.where), ("  do: ", self.remedy)]
        return "\n".join(head + text.rstrip().replace("\n", "\n    ") for head, text in parts if text)

    def to_json(self) -> dict[str, str]:
        """The error as programs see it: `{"error", "where", "remedy"}`."""
        return {"error": self.message, "where": self.where, "remedy": self.remedy}


class UserError(InflameError):
    """Something in what was typed or given."""

    code = 2


class SettingError(UserError):
    """A setting: unknown, ill-typed, out of range, or read by nothing."""


class DataError(UserError):
    """A path, a file, a folder."""


class BundleError(UserError):
    """A bundle is missing, incomplete or changed."""


class MissingExtra(UserError):
    """A part of inflame that isn't installed. Give `extra` and the remedy is the line that installs it."""

    def __init__(self, message: str, *, extra: str = "", remedy: str = "", where: str = "") -> None:
        super().__init__(message, remedy=remedy or f"pip install 'inflame[{extra}]'", where=where)


class RunError(InflameError):
    """Something failed while running."""


class Diverged(RunError):
    """A loss or a weight is no longer finite, or the loss has run away."""


class StorageError(RunError):
    """Disk full, read-only, no permission."""


class CheckpointError(RunError):
    """No checkpoint can be read."""


class NetworkError(RunError):
    """No place could be reached."""


class ExportError(RunError):
    """The exported model doesn't answer like the trained one."""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most like `word` (case aside), or None when nothing is close."""
    import difflib

    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` Did you mean "x"?`, to append to a message; empty when nothing is close."""
    guess = nearest(word, options)
    return f' Did you mean "{guess}"?' if guess is not None else ""


def _rebuild(kind: type[InflameError], message: str, remedy: str, where: str) -> InflameError:
    return kind(message, remedy=remedy, where=where)
