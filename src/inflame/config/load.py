"""From a model folder and the words on the command line to settings, or to the sentence that says what is wrong."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Any

from inflame import plugins
from inflame.config import reading, toml, words
from inflame.config.schema import ALIASES, COMMON, IO, KNOWN, WORDS, Key, Refused, key_like
from inflame.config.settings import Hyperparam, Io, Settings
from inflame.errors import SettingError, did_you_mean, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from inflame.config.toml import Config
    from inflame.config.words import Word

# Common settings that a model folder (or the part of inflame it imports) must read for them to have an effect.
_UP_TO_THE_MODEL = ("cache_gb", "devices", "limit", "net", "splits", "weights")
_RELATIVE = ("./", "../")


def load(folder: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a model folder: `model-config.toml`, then the section chosen by `io=NAME`, then `key=value`.

    Unknown, ill-typed, out of range, or read by nothing: SettingError that names the key, the place and the way out.
    """
    folder = folder.resolve()
    config = toml.read(folder)
    keys = keys_of(config)
    given = words.split(overrides)
    values, places = _from_file(config, keys, given)
    for word in given:
        if word.key != "io":
            require(word.key, keys, word.where)
            values[word.key] = typed(word.key, keys[word.key], word.text, word.where, word)
            places[word.key] = word.where
    _refuse_unknown_tracker(values, places)
    _refuse_unknown_word(values, places)
    code = reading.read(folder)
    _refuse_unread(values, places, code)
    _refuse_unset(code, keys)
    return _settings(folder, code.sha256, values)


def keys_of(config: Config) -> dict[str, Key]:
    """Every setting of a model folder by its full name. A name or value that can't be a setting: SettingError."""
    keys = {**COMMON, **{f"io.{name}": key for name, key in IO.items()}}
    for name, value in _table(config, "hyperparam").items():
        full = f"hyperparam.{name}"
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_") or hasattr(Hyperparam, name):
            raise SettingError(
                f'"{name}" can\'t be the name of a hyperparameter.',
                where=config.where(full),
                remedy="Use letters, digits and underscores, like learning_rate.",
            )
        try:
            keys[full] = key_like(value, name)
        except Refused as error:
            raise SettingError(
                f"{full} = {value!r} is not a kind of value that a setting can have.",
                where=config.where(full),
                remedy="Use a number, true or false, text, or a list of values of one kind.",
            ) from error
    return keys


def _from_file(config: Config, keys: dict[str, Key], given: list[Word]) -> tuple[dict[str, Any], dict[str, str]]:
    """The typed values of the file by full name, those of the chosen `[io.NAME]` on top, and where each stands."""
    found = {name: value for name, value in config.values.items() if name not in ("hyperparam", "io")}
    for name in found:
        require(name, keys, config.where(name))
    found |= {f"hyperparam.{name}": value for name, value in _table(config, "hyperparam").items()}
    values = {name: typed(name, keys[name], value, config.where(name)) for name, value in found.items()}
    places = {name: config.where(name) for name in found}
    chosen = [word for word in given if word.key == "io"]
    sections = {name: value for name, value in _table(config, "io").items() if isinstance(value, dict)}
    plain = {name: value for name, value in _table(config, "io").items() if name not in sections}
    taken = {"": plain, **sections}
    if chosen and chosen[-1].text not in sections:
        raise _no_section(chosen[-1], sections)
    for section, table in taken.items():
        for name, value in table.items():
            place = config.where(".".join(filter(None, ("io", section, name))))
            require(f"io.{name}", keys, place)
            checked = typed(f"io.{name}", keys[f"io.{name}"], value, place)
            if not section or (chosen and chosen[-1].text == section):
                values[f"io.{name}"], places[f"io.{name}"] = checked, place
    return _beside(config.path.parent, values), places


def _beside(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """`./x` and `../x` in the file mean beside the file, wherever the run is started."""
    return {
        name: str((folder / value).resolve()) if isinstance(value, str) and value.startswith(_RELATIVE) else value
        for name, value in values.items()
    }


def _table(config: Config, name: str) -> dict[str, Any]:
    table = config.values.get(name, {})
    if not isinstance(table, dict):
        raise SettingError(
            f"{name} must be a table.", where=config.where(name), remedy=f"Write [{name}] on a line of its own."
        )
    return table


def require(name: str, keys: dict[str, Key], where: str) -> None:
    """Refuses a name that is no setting: SettingError with a guess."""
    if name in keys:
        return
    guess = _guess(name, keys)
    hint = f' Did you mean "{guess}"?' if guess else ""
    if name in ("model", "folder", "code"):
        hint = " It follows from the model folder that you name."
    if name.startswith("hyperparam.") and name.removeprefix("hyperparam.") in KNOWN:
        guess, hint = None, " This model has no such hyperparameter."
    remedy = f"Use {guess}, or see all settings: --help" if guess else "See all settings: --help"
    raise SettingError(f'There is no setting "{name}".{hint}', where=where, remedy=remedy)


def _guess(name: str, keys: Iterable[str]) -> str | None:
    """The full name that was probably meant: by what others call it, by its last part, by its spelling."""
    full = set(keys)
    short = {key.rpartition(".")[2]: key for key in sorted(full)}
    plain = name.replace("-", "_")
    last = plain.rpartition(".")[2]
    for word in (plain, last):
        candidate = ALIASES.get(word, short.get(word))
        if candidate in full:
            return candidate
    if plain.startswith("splits."):
        return "splits"
    return nearest(plain, full) or short.get(nearest(last, short) or "")


def typed(name: str, key: Key, value: Any, where: str, word: Word | None = None) -> Any:
    """The value in the key's type; else SettingError with the key, the value and what was expected."""
    try:
        return key.check(value) if word is None else words.value(word, key)
    except Refused as error:
        shown = value if word is not None else repr(value)
        text = f"{name}={shown}: {name} must be {key.expects()}{', ' if str(error) else ''}{error}."
        raise SettingError(
            _without_password(text), where=_without_password(where), remedy=f"For example: {name}={key.example()}"
        ) from error


def _without_password(text: str) -> str:
    return re.sub(r"(://[^/@\s]*:)[^/@\s]*@", r"\1…@", text)


def _no_section(word: Word, sections: dict[str, Any]) -> SettingError:
    known = ", ".join(f"io={name}" for name in sections) or "none: the file has no [io.NAME]"
    return SettingError(
        f"There is no section [io.{word.text}] in {toml.FILE}.{did_you_mean(word.text, sections)}",
        where=word.where,
        remedy=f"Choose one of its sections ({known}), or give one value: io.training_input=…",
    )


def _refuse_unknown_tracker(values: dict[str, Any], places: dict[str, str]) -> None:
    for name in values.get("tracker", "jsonl").split(","):
        if name not in plugins.SEAMS["tracker"] and name not in (options := plugins.names("tracker")):
            raise SettingError(
                f'There is no tracker "{name}".{did_you_mean(name, options)}',
                where=places["tracker"],
                remedy=f"Use one or several of: {', '.join(options)}",
            )


def _refuse_unknown_word(values: dict[str, Any], places: dict[str, str]) -> None:
    for key, (what, options) in WORDS.items():
        name = values.get(key, "")
        if name and name not in options:
            raise SettingError(
                f'There is no {what} "{name}".{did_you_mean(name, options)}',
                where=places[key],
                remedy=f"Use one of: {', '.join(options)}",
            )


def _refuse_unread(values: dict[str, Any], places: dict[str, str], code: reading.Code) -> None:
    """A setting that no code reads does nothing, and whoever sets it believes otherwise."""
    for name, value in values.items():
        table, _, last = name.rpartition(".")
        if table == "hyperparam" and last not in code.names:
            raise SettingError(
                f"{name} is set, but no file of this folder reads it.{did_you_mean(last, _read(code))}",
                where=places[name],
                remedy=f"Remove it, or read it in the code: settings.hyperparam.{last}",
            )
        if value not in (None, "") and not has_effect(name, code):
            raise SettingError(
                f"{name} has no effect on this model: none of its files reads settings.{name}.",
                where=places[name],
                remedy=f"Leave {name} out, or read it in the model's code.",
            )


def has_effect(name: str, code: reading.Code) -> bool:
    """Whether something reads the setting: the engine always, or the code of the model."""
    table, _, last = name.rpartition(".")
    if table == "io":
        return last == "training_output" or last in code.io
    return name not in _UP_TO_THE_MODEL or name in code.common


def _refuse_unset(code: reading.Code, keys: dict[str, Key]) -> None:
    for name, where in code.hyperparam:
        if f"hyperparam.{name}" not in keys and not hasattr(Hyperparam, name):
            known = [key.removeprefix("hyperparam.") for key in keys if key.startswith("hyperparam.")]
            raise SettingError(
                f"The code reads hyperparam.{name}, which {toml.FILE} doesn't set.{did_you_mean(name, known)}",
                where=where,
                remedy=f"Set {name} under [hyperparam] in {toml.FILE}, or correct the name in the code.",
            )


def _read(code: reading.Code) -> list[str]:
    return [name for name, _ in code.hyperparam]


def _settings(folder: Path, code: str, values: dict[str, Any]) -> Settings:
    def below(table: str) -> dict[str, Any]:
        return {name.removeprefix(table): value for name, value in values.items() if name.startswith(table)}

    common = {name: value for name, value in values.items() if "." not in name}
    common["budget"] = common.pop("in", None)
    io = Io(**below("io."))
    common["output"] = common.get("output") or io.training_output
    return Settings(
        model=folder.name, folder=str(folder), code=code, io=io, hyperparam=Hyperparam(**below("hyperparam.")), **common
    )
