"""What the log keeps: an `Entry` per prediction, a `Verdict` per thing that a person said about one."""

from __future__ import annotations

import base64
import json
import math
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame.records import Record

Floats = NDArray[np.floating[Any]]
NEW = "new"  # something that the model has no class for, by the name that a reviewer gives it
SAID = ("right", "wrong", "label", NEW)  # what a verdict can be: two buttons of the website, a class, a new name
VISITOR = "visitor"  # who speaks through the public pages: nobody is told from another, and nobody is believed blindly
SHADOW = "shadow"  # the source of answers that nobody was given: those of a model that is tried beside another


def new_id() -> str:
    """A name for an answer that nobody can guess: 128 bits."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One prediction. Never the thing itself: that is kept apart, and only with consent.

    `time` in seconds since 1970, `latency` in seconds; `model` is the version of the bundle, `input` the sha256 of what
    was sent, `kind` its type (JPEG, PNG, text …), `source` who asked (web, api, folder …). `probabilities` [K] are
    calibrated, in the order of the model's classes; `embedding` [D]; `seen` [S] are the statistics of the input, named
    by the model's registration (see `Log.register`). Arrays are kept as float16 and float32.
    """

    model: str
    input: str
    label: str
    probability: float
    known: bool = True
    probabilities: Floats = field(default_factory=lambda: np.zeros(0, np.float16))
    embedding: Floats = field(default_factory=lambda: np.zeros(0, np.float16))
    seen: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    kind: str = ""
    latency: float = 0.0
    source: str = ""
    time: float = field(default_factory=time.time)
    id: str = field(default_factory=new_id)

    def row(self) -> tuple[Any, ...]:
        """The values of `COLUMNS`, as a database takes them."""
        return (
            self.id,
            self.time,
            self.model,
            self.input,
            self.label,
            self.probability if math.isfinite(self.probability) else 0.0,
            int(self.known),
            np.asarray(self.probabilities, np.float16).tobytes(),
            _half(self.embedding).tobytes(),
            np.asarray(self.seen, np.float32).tobytes(),
            self.kind,
            self.latency,
            self.source,
        )

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Entry:
        """The entry of a row of `COLUMNS`."""
        values = dict(zip(COLUMNS, row, strict=True))
        values["known"] = bool(values["known"])
        for name, kind in _ARRAYS.items():
            values[name] = np.frombuffer(bytes(values[name]), kind)
        return cls(**values)


COLUMNS = (
    "id",
    "time",
    "model",
    "input",
    "label",
    "probability",
    "known",
    "probabilities",
    "embedding",
    "seen",
    "kind",
    "latency",
    "source",
)
_ARRAYS = {"probabilities": np.float16, "embedding": np.float16, "seen": np.float32}


def _half(vector: Floats) -> NDArray[np.float16]:
    """As float16; what is too large for it becomes the largest that isn't."""
    return np.clip(np.nan_to_num(np.asarray(vector, np.float32)), -65504, 65504).astype(np.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """What a person said of an answer. `answer` is the id of the entry, `said` one of `SAID`, `label` the class that it
    is in truth ("" with "wrong" alone; with "new" a name that is no class), `who` the one who says so, `asked`: whether
    they were asked about an answer chosen at random, which is what makes an accuracy honest. `taken_back`: later, by
    the same person."""

    answer: str
    said: str
    label: str = ""
    who: str = ""
    asked: bool = False
    comment: str = ""
    taken_back: bool = False
    time: float = field(default_factory=time.time)


def plain(name: str) -> str:
    """A name that somebody typed: without what can't be shown, 80 letters at most."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())[:80].rstrip()


def alike(name: str) -> str:
    """What two spellings of one name have in common: `Red panda`, `red_panda`."""
    return " ".join(plain(name).replace("_", " ").casefold().split())


def dumps(row: tuple[Any, ...]) -> str:
    """A row as one line of JSON, bytes as base64: how rows wait on disk for their database."""
    return json.dumps([{"b": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell for cell in row])


def loads(line: str) -> tuple[Any, ...]:
    """The row that `dumps` wrote. A line that was cut short raises ValueError."""
    try:
        return tuple(base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell for cell in json.loads(line))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no row: {line[:80]}") from error
