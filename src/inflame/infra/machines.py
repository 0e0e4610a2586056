"""Names of machines that mean the same everywhere (cpu-small … gpu-8), what each provider calls them, and what an hour
costs, with its date. A price that nobody knows is None, and is shown as "unknown", never as 0."""

from __future__ import annotations

import copy
import os
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from inflame import store
from inflame.errors import UserError, did_you_mean
from inflame.records import JobSpec, Record

FILE = "machines.toml"
DEFAULT = "cpu-small"
FREE = ("local", "ray", "slurm", "kubernetes", "clearml")  # machines that are there already, and are not ours to price
UNSIZED = ("local", "ray", "clearml")  # whose jobs take what is there, where no machine is named
_OURS = ("cpu-", "gpu-")  # how names of ours begin: one that begins so and isn't known is misspelt


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(Record):
    """`name` is ours, or the provider's own where that was given; `native` the provider's, empty where it has none.
    `cores`, `memory` (GB) and `gpus` are what a name of ours promises, None for another one. `price`: US dollars per
    hour of one, on demand."""

    name: str
    native: str
    cores: int | None = None
    memory: int | None = None
    gpus: int | None = None
    gpu: str = ""
    price: float | None = None
    region: str = ""
    date: str = ""
    source: str = ""

    def cost(self, seconds: float, count: int = 1) -> float | None:
        """US dollars for so long on `count` of them, or None where the price is unknown."""
        return None if self.price is None else self.price * count * seconds / 3600

    def said(self) -> str:
        """The price with all that belongs to it: `$0.526 an hour (eastus, 2025: list prices …)`, or `unknown`."""
        if self.price is None:
            return "unknown"
        return f"${self.price:g} an hour ({', '.join(filter(None, (self.region, self.date)))}: {self.source})"


def names() -> tuple[str, ...]:
    """The names of ours, small ones first."""
    return tuple(_table(_own_file())["sizes"])


def find(name: str, backend: str) -> Machine:
    """The machine that `name` means at `backend`; an empty name is the smallest.

    Any other name than ours is taken for the provider's own. One that looks like ours and isn't: UserError, with the
    nearest.
    """
    table = _table(_own_file())
    name = name or DEFAULT
    size = table["sizes"].get(name)
    if size is None and (name.startswith(_OURS) or backend in FREE or _misspelt(name, table)):
        known = ", ".join(table["sizes"])
        raise UserError(
            f'There is no machine "{name}".{did_you_mean(name, [*table["sizes"], *table["prices"].get(backend, ())])}',
            where="--machine",
            remedy=f"Use one of {known}"
            + ("." if backend in FREE else f", or a name of {backend}'s own, as {_example(table, backend)}."),
        )
    native = table.get(backend, {}).get(name, "") if size else name
    price = table["prices"].get(backend, {}).get(native)
    about = {"region": table["regions"].get(backend, ""), "date": table["date"], "source": table["source"]}
    return Machine(name=name, native=native, price=price, **(size or {}), **(about if price is not None else {}))


def price(spec: JobSpec, backend: str) -> float | None:
    """US dollars per hour for all machines of the job together; None where nobody knows."""
    one = find(spec.machine, backend).price
    return None if one is None else one * spec.count


def _misspelt(name: str, table: dict[str, Any]) -> bool:
    """Whether a name of ours must have been meant: those of providers have dots, digits and underscores in them."""
    return name.isalpha() or name.replace("_", "-") in table["sizes"]


def _example(table: dict[str, Any], backend: str) -> str:
    return str(table.get(backend, {}).get("gpu-small", "ml.g4dn.xlarge"))


def _own_file() -> Path:
    """The user's own table. Looking for it makes no folder: what is sent is shown without touching anything."""
    return Path(os.environ.get("INFLAME_HOME") or "~/.inflame").expanduser() / FILE


def _table(own: Path) -> dict[str, Any]:
    """The table, with the values of the home's file instead where that has some. One that can't be: UserError."""
    table = copy.deepcopy(_read(Path(__file__).with_name(FILE)))
    if not own.is_file():
        return table
    try:
        given = tomllib.loads(store.read_text(own))
        _merge(table, given)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise UserError(
            f"{own} can't be read: {error}.", where=str(own), remedy="Correct it: it has the form of machines.toml."
        ) from error
    return table


def _merge(table: dict[str, Any], given: dict[str, Any]) -> None:
    for key, value in given.items():
        if isinstance(value, dict) != isinstance(table.get(key, value), dict):
            raise TypeError(f"{key} has another form than in our table")
        if isinstance(value, dict):
            _merge(table.setdefault(key, {}), value)
        elif isinstance(value, float | int) and (isinstance(value, bool) or value < 0):
            raise TypeError(f"{key} = {value} is no price")
        else:
            table[key] = value


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
