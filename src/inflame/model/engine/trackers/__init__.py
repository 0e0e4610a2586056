"""Who else is told about a run: MLflow, W&B, TensorBoard, ClearML, or a stranger's tracker.

The run folder holds everything, and a training only ever writes there. A tracker reads it, in a process of its own
(mirror.py), while the training goes on or at any time later: what it does, or fails to do, no step ever sees.
docs/decisions/0009 says why it is a process and not a thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ALWAYS = "jsonl"  # the run folder itself, which needs no mirror


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a run is, before its first number: its settings by full name, and `facts` such as the version of the data.

    `data` is the name of the data set, `version` its content hash, `source` where it came from; `sweep` the sweep that
    the run is a trial of."""

    run: str
    folder: Path
    model: str
    settings: Mapping[str, str | int | float | bool]
    facts: Mapping[str, str]
    data: str = ""
    version: str = ""
    source: str = ""
    sweep: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Numbers of one moment: `step` of the optimizer (of `system/…` numbers: seconds), `time` in seconds since 1970."""

    step: int
    time: float
    values: Mapping[str, float]


class Tracker(ABC):
    """A place where runs are looked at. One object mirrors one run; its methods are called one at a time, in the order
    below, and may block or raise: then the same is tried again later, by a new object.

    Made without arguments. Secrets come from the environment, by the names that the tracker's makers gave them.
    """

    @abstractmethod
    def place(self) -> str:
        """Where runs go with this environment: a uri or folder, without secrets. Another place gets the run anew."""

    @abstractmethod
    def begin(self, about: About, key: str) -> str:
        """Opens the run: the one that `key` names (given in an earlier sitting), or a new one; gives its key."""

    @abstractmethod
    def numbers(self, points: Sequence[Point]) -> None:
        """Adds numbers, in their order; at most some thousands at a time."""

    @abstractmethod
    def picture(self, name: str, file: Path) -> None:
        """Shows a PNG."""

    @abstractmethod
    def files(self, name: str, path: Path) -> None:
        """Keeps a copy of a file, or of a folder with all in it."""

    @abstractmethod
    def end(self, state: str, summary: Mapping[str, float]) -> str:
        """Closes the run as `done`, `interrupted` or `failed`, with the numbers that sum it up, once everything has
        arrived. Gives where it can be seen."""
