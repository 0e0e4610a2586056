"""What a run's seconds come to in money and energy. Estimates: the assumptions stand in `costs.toml`, with date and
source, and in `$INFLAME_HOME/costs.toml`, whose values win."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import UserError, did_you_mean
from inflame.records import Record

FILE = "costs.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs(Record):
    """Prices in `currency` for an hour of one core and of one GPU, and the power of each in use, in watts; `overhead`
    is what the building adds to that (PUE). `date` and `source` say whence."""

    core_hour: float
    gpu_hour: float
    core_watts: float
    gpu_watts: float
    overhead: float
    currency: str
    date: str
    source: str

    def money(self, used: Mapping[str, float]) -> float:
        """What `cpu_s` and `gpu_s` cost."""
        return (used["cpu_s"] * self.core_hour + used["gpu_s"] * self.gpu_hour) / 3600

    def energy(self, used: Mapping[str, float]) -> float:
        """What they take, in watt-hours."""
        return self.overhead * (used["cpu_s"] * self.core_watts + used["gpu_s"] * self.gpu_watts) / 3600

    def said(self) -> str:
        """The assumptions in a line."""
        return (
            f"assumed ({self.date}): {self.core_hour:g} {self.currency} and {self.core_watts:g} W a core, "
            f"{self.gpu_hour:g} {self.currency} and {self.gpu_watts:g} W a GPU and hour, times {self.overhead:g} W"
        )


def costs() -> Costs:
    """The assumptions that hold here. A value of the home's file that can't be one: UserError."""
    return Costs(**{**_read(Path(__file__).parent / FILE), **_own(store.home() / FILE)})


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _own(path: Path) -> dict[str, Any]:
    """What the user has set."""
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(store.read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.", where=str(path), remedy="core_hour = 0.04") from error
    kinds = {field.name: field.type for field in fields(Costs)}
    for name, value in found.items():
        if name not in kinds:
            raise UserError(
                f'There is no assumption "{name}".{did_you_mean(name, kinds)}',
                where=str(path),
                remedy=f"Use one of: {', '.join(kinds)}",
            )
        text = kinds[name] == "str"
        good = isinstance(value, str) if text else isinstance(value, (int, float)) and value >= 0
        if not good or isinstance(value, bool):
            raise UserError(
                f"{name} = {value!r} is not {'text' if text else 'a number of at least 0'}.",
                where=str(path),
                remedy=f"{name} = {_read(Path(__file__).parent / FILE)[name]!r}",
            )
    return found
