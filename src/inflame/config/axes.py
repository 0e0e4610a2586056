"""Settings with several values: the axes of a sweep, in Hydra's grammar (`a,b,c`, `choice(…)`, `range(…)`,
`interval(…)`, `tag(log, interval(…))`), and `range(1e-4,1e-2,log)`, which Hydra doesn't know.

Every key and every value is checked as if it were typed for one run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.config import toml, words
from inflame.config.load import keys_of, load, require, typed
from inflame.config.schema import Key, Refused
from inflame.config.words import Word
from inflame.errors import DataError, SettingError
from inflame.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from inflame.config.settings import Settings

_LOG = re.compile(r"(?:range|interval)\(([^,()]+),([^,()]+),\s*log\s*\)")
_CALL = re.compile(r"(choice|range|interval|shuffle|sort|tag|int|float|str|bool|glob)\(.*\)", re.DOTALL)
_PLAIN = re.compile(r"[\w./:@+-]+")
MOST = 10_000  # values of one axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis(Record):
    """A setting that is varied: among `values`, or from `low` to `high` (both included; `log`: evenly in its logarithm;
    `whole`: whole numbers only)."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def finite(self) -> bool:
        """Whether all values can be counted."""
        return bool(self.values)

    def holds(self, value: Any) -> bool:
        """Whether the value lies on it."""
        if self.finite:
            return value in self.values
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The words of a sweep, understood: what is the same in all runs, what is varied, the settings of one run, and what
    the model folder itself says of what is varied, as far as that lies within the space."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    settings: Settings
    own: dict[str, Any]


def read(folder: Path, overrides: Sequence[str]) -> Axes:
    """What the words say about a model folder. Unknown, ill-typed, out of range, empty or read by nothing, be it only
    one of many values: SettingError, as for a single run."""
    folder = folder.resolve()
    keys = keys_of(toml.read(folder))
    fixed: list[str] = []
    axes: dict[str, Axis] = {}
    for word in words.split(overrides):
        if word.key != "io":
            require(word.key, keys, word.where)
        axis = None if word.key == "io" else _axis(word, keys[word.key])
        axes.pop(word.key, None)  # a later word wins
        fixed = [one for one in fixed if one.partition("=")[0] != word.key]
        if axis is None:
            fixed.append(f"{word.key}={word.text}")
        else:
            axes[word.key] = axis
    first = [text(axis.key, axis.values[0] if axis.values else axis.low) for axis in axes.values()]
    settings = load(folder, [*fixed, *first])
    return Axes(fixed=tuple(fixed), axes=tuple(axes.values()), settings=settings, own=_own(folder, fixed, axes))


def _own(folder: Path, fixed: Sequence[str], axes: Mapping[str, Axis]) -> dict[str, Any]:
    try:
        plain = load(folder, fixed).to_json()
    except SettingError:  # what is varied must be said
        return {}
    known = {f"hyperparam.{name}": value for name, value in plain.pop("hyperparam").items()}
    said = {**plain, **known, "in": plain["budget"]}
    return {key: said[key] for key, axis in axes.items() if key in said and axis.holds(said[key])}


def text(key: str, value: Any) -> str:
    """The word `key=value` that gives one value."""
    if value is None or isinstance(value, (bool, list, tuple, dict)):
        said = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    elif isinstance(value, str) and not _PLAIN.fullmatch(value) and not re.search(r"[/~]", value):
        said = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    else:
        said = str(value)
    return f"{key}={said}"


def from_file(path: Path) -> list[str]:
    """The words that a YAML file of `key: values` stands for: values as on the command line, or a list of them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        found: Any = OmegaConf.to_container(OmegaConf.create(store.read_text(path)))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise DataError(
            f"{path.name} is not valid YAML: {str(error).splitlines()[0]}.", where=str(path), remedy="Correct it."
        ) from error
    if not isinstance(found, dict) or not found:
        raise DataError(
            f"{path.name} holds no settings.",
            where=str(path),
            remedy="Write lines like   hyperparam.learning_rate: range(1e-4,1e-2,log)",
        )
    return [_worded(name, value) for name, value in _flat(found)]


def _worded(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{name}=" + ",".join(text("", item).removeprefix("=") for item in value)
    return f"{name}={value}" if isinstance(value, str) else text(name, value)


def _flat(value: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """`hyperparam:` with keys below it is the same as keys with dots."""
    rows = []
    for name, item in value.items():
        if isinstance(item, dict):
            rows += _flat(item, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", item))
    return rows


def _axis(word: Word, key: Key) -> Axis | None:
    """What a word says about its key; None where it is one value."""
    said = word.text.strip()
    if key.kind in ("names", "fractions") and not _CALL.fullmatch(said):  # there a comma belongs to one value
        return None
    if key.kind == "path" and "," in said and store.local(said) is not None and store.exists(said):
        return None
    found = _parsed(word, _LOG.sub(r"tag(log,interval(\1,\2))", said))
    if found is None:
        return None
    if hasattr(found, "start") and hasattr(found, "end"):
        return _interval(word, key, found)
    return _choices(word, key, found)


def _parsed(word: Word, said: str) -> Any:
    """What Hydra makes of a word with several values: an interval, or the list of their texts. None for one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"{word.key}={said}")
        if not override.is_sweep_override():
            return None
        sweep = override.value()
        if isinstance(sweep, IntervalSweep):
            return sweep
        if isinstance(sweep, Glob):
            raise _wrong(word, "names files to look for, which settings have none of")
        if isinstance(sweep, RangeSweep) and _length(sweep) > MOST:
            raise _wrong(word, f"stands for more than {MOST:,} values")
        return list(override.sweep_string_iterator())
    except (HydraException, ValueError, ZeroDivisionError) as error:
        if _CALL.fullmatch(said):
            raise _wrong(word, f"can't be understood: {str(error).splitlines()[0]}") from error
        return None


def _length(sweep: Any) -> float:
    return abs(float(sweep.stop or 0) - float(sweep.start or 0)) / abs(float(sweep.step or 1))


def _choices(word: Word, key: Key, texts: list[str]) -> Axis:
    found: list[Any] = []
    for said in texts:
        one = Word(key=word.key, text=said)
        value = typed(word.key, key, said, word.where, one)
        if value not in found:
            found.append(value)
    if not found:
        raise _wrong(word, "stands for no value at all")
    return Axis(key=word.key, values=tuple(found))


def _interval(word: Word, key: Key, sweep: Any) -> Axis:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if key.kind not in ("whole", "number", "duration"):
        raise _wrong(word, f"is an interval, and {word.key} is {key.expects()}")
    if key.kind == "whole" and float(low).is_integer() and float(high).is_integer():
        low, high = int(low), int(high)
    try:
        low, high = key.check(low), key.check(high)
    except Refused as error:
        raise SettingError(
            f"{word.key}={word.text}: {word.key} must be {key.expects()}.",
            where=word.where,
            remedy=f"For example: {word.key}=range(1e-4,1e-2,log)   or   {word.key}=interval(0,1)",
        ) from error
    if not low < high:
        raise _wrong(word, "is empty: it must go from a smaller to a larger number")
    if log and low <= 0:
        raise _wrong(word, "begins at or below 0, which has no logarithm")
    return Axis(key=word.key, low=low, high=high, log=log, whole=key.kind == "whole")


def _wrong(word: Word, what: str) -> SettingError:
    return SettingError(
        f"{word.key}={word.text} {what}.",
        where=word.where,
        remedy=f"Write values like {word.key}=a,b,c, {word.key}=range(0,10,2) or {word.key}=range(1e-4,1e-2,log)",
    )
