"""The settings of one run: frozen, typed, JSON both ways."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from inflame import store
from inflame.errors import did_you_mean
from inflame.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

# Settings that say where, not what: two runs that differ only in these give the same result.
BYSTANDERS = (
    "cache_gb",
    "devices",
    "explain",
    "folder",
    "force",
    "fresh",
    "io",
    "output",
    "resume",
    "strategy",
    "tracker",
)


class Hyperparam(Record):
    """The `[hyperparam]` values of a model folder: `hyperparam.learning_rate`, or `**hyperparam`. Frozen."""

    __slots__ = ("_values",)
    _values: dict[str, Any]

    def __init__(self, /, **values: Any) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        values = object.__getattribute__(self, "_values")
        if name in values:
            return values[name]
        raise AttributeError(f"[hyperparam] has no {name}.{did_you_mean(name, values)}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"settings are frozen: hyperparam.{name} can't be assigned")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"settings are frozen: hyperparam.{name} can't be removed")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hyperparam) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._values.items(), key=lambda item: item[0])))

    def __repr__(self) -> str:
        return f"Hyperparam({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Hyperparam.from_json, (self._values,)

    def keys(self) -> Iterator[str]:
        """The names, in the order of the file (this is what makes `**hyperparam` work)."""
        return iter(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or `default` where the file doesn't set it."""
        return self._values.get(name, default)

    def to_json(self) -> dict[str, Any]:
        """The values as plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._values.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The values that `to_json` described."""
        return cls(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Io(Record):
    """Where a model folder reads and writes: names, paths or uris; empty where not given."""

    training_input: str = ""
    training_output: str = ""
    inference_input: str = ""
    inference_output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Record):
    """Everything a run is told. `budget` (on the command line `in=60s`) is in seconds; `folder` is the model
    folder, `model` its name and `code` the hash of its Python files."""

    model: str
    folder: str
    code: str = ""
    io: Io = field(default_factory=Io)
    hyperparam: Hyperparam = field(default_factory=Hyperparam)
    seed: int = 0
    split_seed: int = 0
    limit: int | None = None
    devices: int = 1
    strategy: str = "auto"
    tracker: str = "jsonl"
    weights: str = ""
    net: str = ""
    budget: float | None = None
    output: str = ""
    debug: str = ""
    explain: bool = False
    fresh: bool = False
    resume: str = ""
    force: bool = False
    splits: dict[str, float] | None = None
    cache_gb: float | None = None
    skip_bad: bool = False

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The settings that `to_json` described (a run's `config.json`)."""
        nested = {"io": Io.from_json(value.get("io", {})), "hyperparam": Hyperparam.from_json(value["hyperparam"])}
        return super(Settings, cls).from_json({**value, **nested})

    def identity(self) -> str:
        """The hash of everything that changes the result; an unfinished run with the same one is gone on with."""
        plain = {name: value for name, value in self.to_json().items() if name not in BYSTANDERS}
        plain["training_input"] = _real(self.io.training_input)
        plain["weights"] = _real(self.weights)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def telling(self) -> dict[str, Any]:
        """What changes the result, but for the data, under the names by which it is set: `hyperparam.momentum`."""
        plain = {name: value for name, value in self.to_json().items() if name not in BYSTANDERS}
        values = plain.pop("hyperparam")
        plain["in"], plain["weights"] = plain.pop("budget"), _real(self.weights)
        return {**plain, **{f"hyperparam.{name}": value for name, value in values.items()}}


def _real(uri: str) -> str:
    """The same text for the same place, however it was written; a name of a source stays as it is."""
    path = store.local(uri) if uri else None
    return str(path.resolve()) if path is not None and path.exists() else uri
