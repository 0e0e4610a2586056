"""What a setting may be: its kind, its range, and the sentence that says so when it is refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from inflame.errors import SettingError

Kind = Literal["whole", "number", "yesno", "text", "path", "duration", "fractions", "names", "list"]

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|sec|s|min|m|h|d|)\s*")


class Refused(ValueError):
    """A value that a key doesn't take. `load` says which and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting: its kind, its range (`above` and `below` exclude the bound), whether it may be empty."""

    kind: Kind
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    optional: bool = False
    items: Kind | None = None  # of a list
    auto: Any = None  # what the word auto stands for
    help: str = ""

    def expects(self) -> str:
        """What the key takes, as the end of "must be …"."""
        bounds = (("at least", self.low), ("above", self.above), ("at most", self.high), ("below", self.below))
        limits = " and ".join(f"{word} {bound:.15g}" for word, bound in bounds if bound is not None)
        other = " (or null)" if self.optional else " (or auto)" if self.auto is not None else ""
        return _NOUNS[self.kind] + (f", {limits}" if limits else "") + other

    def example(self) -> str:
        """A value that the key takes, as it is typed."""
        if self.kind == "number" and self.below is not None:
            return "0.1"
        if self.kind == "whole" and self.low is not None and self.low > 1:
            return f"{self.low:.0f}"
        return _EXAMPLES[self.kind]

    def check(self, value: Any) -> Any:
        """The value in the type of the key; anything else: Refused."""
        if value is None and self.optional:
            return None
        if self.auto is not None and value == "auto":
            return self.auto
        value = _CHECKS[self.kind](value)
        if self.kind == "list":
            element = Key(kind=self.items or "text")
            return tuple(element.check(item) for item in value) if self.items else tuple(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not self._holds(value):
            raise Refused
        return value

    def _holds(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


COMMON: dict[str, Key] = {
    "in": Key(kind="duration", above=0, optional=True, help="time for the whole run: 60s, 10m, 1h"),
    "seed": Key(kind="whole", low=0, high=2**32 - 1, help="the same seed gives the same order and start"),
    "split_seed": Key(kind="whole", low=0, high=2**32 - 1, help="another one: other items in each split of the data"),
    "limit": Key(kind="whole", low=1, optional=True, help="train on a sample of so many items"),
    "devices": Key(kind="whole", low=1, help="how many GPUs (or processes) to use"),
    "strategy": Key(
        kind="text", help="several devices: each has the whole net (ddp), a part (fsdp), or as fits (auto)"
    ),
    "weights": Key(kind="path", help="file of weights to start from"),
    "net": Key(kind="text", help="name of the net or backbone"),
    "cache_gb": Key(kind="number", low=0, optional=True, help="disk for decoded photos; 0: none, null: what is free"),
    "skip_bad": Key(kind="yesno", help="read what is whole of damaged shards"),
    "splits": Key(kind="fractions", optional=True, help="name and fraction of each split: train:0.8,val:0.1,test:0.1"),
    "tracker": Key(kind="names", help="who is told about the run: mlflow, wandb, tensorboard, clearml; several: a,b"),
    "output": Key(kind="path", help="the run folder, a path or a uri"),
    "debug": Key(kind="text", help="look instead of training: overfit (one batch), tiny (whole road), profile (time)"),
    "explain": Key(kind="yesno", help="say in the end why each choice was made, and where the time went"),
    "fresh": Key(kind="yesno", help="begin anew instead of going on with an unfinished run"),
    "resume": Key(kind="path", help="the run to go on with"),
    "force": Key(kind="yesno", help="go on with what fits, although settings or data are others than the run's"),
}

UNSET = -1.0  # what a hyperparameter is that is left to the model

DEBUG = ("overfit", "tiny", "profile")
# Settings that are one of a few words: what such a word is, and which there are.
WORDS = {"debug": ("debug mode", DEBUG), "strategy": ("strategy", ("auto", "ddp", "fsdp"))}

IO: dict[str, Key] = {
    "training_input": Key(kind="path", help="data set: a name, a folder, a file or a uri"),
    "training_output": Key(kind="path", help="the run folder, where output isn't given"),
    "inference_input": Key(kind="path", help="what score.py reads"),
    "inference_output": Key(kind="path", help="where score.py writes"),
}

# Hyperparameters that mean the same in every model folder. Others take the type of their value in the TOML file.
KNOWN: dict[str, Key] = {
    "num_epochs": Key(kind="whole", low=0, help="passes over the training items; 0: as many as the time allows"),
    "batch_size": Key(
        kind="whole", low=0, auto=0, help="items in a step; auto, in models that can: found by trying"
    ),  # 0: the same
    "patience": Key(
        kind="whole", low=0, help="validations in a row without a better score, after which it ends; 0: never"
    ),
    "learning_rate": Key(kind="number", above=0, help="at its peak"),
    "weight_decay": Key(kind="number", low=0, help="share of every weight that a step at the full rate takes away"),
    "momentum": Key(kind="number", low=0, below=1, help="share of the step before that is kept"),
    "label_smoothing": Key(kind="number", low=0, below=1, help="share of a label that is spread over all classes"),
    "dropout": Key(kind="number", low=0, below=1, help="share of the features that are left out, others in each step"),
    "drop_path": Key(
        kind="number", low=0, below=1, help="share of the branches that are left out, others in each step"
    ),
    "ema": Key(
        kind="number", low=0, below=1, help="of the average of the weights, in each step: 0.998 remembers 500; 0: none"
    ),
    "warmup": Key(kind="number", low=0, high=1, help="share of the training in which the learning rate rises"),
    "mixup": Key(kind="number", low=0, help="alpha of the share of a second item that is blended in; 0: none"),
    "cutmix": Key(kind="number", low=0, help="alpha of the share of a window of a second item; 0: none"),
    "cutout": Key(kind="number", low=0, below=1, help="side of a square that is hidden, of the picture's; 0: none"),
    "clip_norm": Key(kind="number", low=0, help="the longest step that gradients may ask for; 0: any"),
}

# What people call a setting elsewhere.
ALIASES = {
    "bs": "hyperparam.batch_size",
    "budget": "in",
    "checkpoint": "resume",
    "data": "io.training_input",
    "epochs": "hyperparam.num_epochs",
    "gpu": "devices",
    "gpus": "devices",
    "input": "io.training_input",
    "lr": "hyperparam.learning_rate",
    "out": "output",
    "text": "io.training_input",
    "time": "in",
    "wd": "hyperparam.weight_decay",
}


def key_like(value: Any, name: str = "") -> Key:
    """The key of a hyperparameter, by its name when it is a known one, else by its value in the TOML file. A known
    number that is `"auto"` in the file is left to the model, which reads UNSET, unless it is given."""
    if value == "auto" and name in KNOWN and KNOWN[name].kind == "number":
        return replace(KNOWN[name], auto=UNSET)
    if name in KNOWN:
        return KNOWN[name]
    if isinstance(value, list):
        kinds = {_kind(item) for item in value}
        if kinds == {"whole", "number"}:
            kinds = {"number"}
        if len(kinds) > 1:
            raise Refused
        return Key(kind="list", items=kinds.pop() if kinds else None)
    return Key(kind=_kind(value))


def parse_duration(text: str | float) -> float:
    """Seconds: of `60s`, `1.5m`, `2h`, `1h30m`, `90` or a number. Anything else: SettingError."""
    try:
        return COMMON["in"].check(text)  # type: ignore[no-any-return]
    except Refused as error:
        raise SettingError(
            f'"{text}" is not a length of time above 0.', remedy="Write it like 60s, 10m, 1.5h or 90 (seconds)."
        ) from error


def _kind(value: Any) -> Kind:
    for kind, types in _TYPES.items():
        if isinstance(value, types):
            return kind
    raise Refused


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused
    try:
        return float(value)
    except OverflowError as error:
        raise Refused from error


def _yesno(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused
    return value


def _path(value: Any) -> str:
    text = _text(value)
    if re.search(r"://[^/@\s]*:[^/@\s]*@", text):
        raise Refused("without a user name and password in it: those come from the environment")
    if "\0" in text:
        raise Refused
    return text


def _names(value: Any) -> str:
    """`a, b` or a list of names as `a,b`."""
    parts = _text(value).strip("[] ").split(",") if isinstance(value, str) else [_text(part) for part in _list(value)]
    names = [part.strip() for part in parts]
    if not all(names):
        raise Refused
    return ",".join(names)


def _duration(value: Any) -> float:
    if not isinstance(value, str):
        return _number(value)
    text = value.strip().lower()
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise Refused
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)


def _fractions(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise Refused
    fractions = {str(name): _number(fraction) for name, fraction in value.items()}
    if not all(name and 0 < fraction <= 1 for name, fraction in fractions.items()):
        raise Refused
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise Refused
    return fractions


def _list(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise Refused
    return list(value)


_TYPES: dict[Kind, type] = {"yesno": bool, "whole": int, "number": float, "text": str}
_CHECKS: dict[Kind, Any] = {
    "whole": _whole,
    "number": _number,
    "yesno": _yesno,
    "text": _text,
    "path": _path,
    "duration": _duration,
    "fractions": _fractions,
    "names": _names,
    "list": _list,
}
_NOUNS: dict[Kind, str] = {
    "whole": "a whole number",
    "number": "a number",
    "yesno": "true or false",
    "text": "text",
    "path": "a path or a uri",
    "duration": "a length of time like 60s, 10m or 1h",
    "fractions": "names with fractions that add up to 1, like train:0.8,val:0.1,test:0.1",
    "names": "a name, or several like a,b",
    "list": "a list like [1,2] of values of one kind",
}
_EXAMPLES: dict[Kind, str] = {
    "whole": "1",
    "number": "0.01",
    "yesno": "true",
    "text": "name",
    "path": "folder/file",
    "duration": "60s",
    "fractions": "train:0.8,val:0.1,test:0.1",
    "names": "tensorboard",
    "list": "[1,2]",
}
