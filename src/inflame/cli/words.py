"""Understanding the words after a verb: argparse that raises our errors and guesses what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from inflame.cli import layout
from inflame.errors import UserError, did_you_mean

_HELP = {"-h", "--help"}


class _Layout(argparse.RawDescriptionHelpFormatter):
    """Texts as written, as far as the terminal is wide enough for them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=layout.width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return layout.fitted(super()._fill_text(text, width, indent), width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return layout.told(text, width)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return super()._format_args(action, default_metavar).replace(f"[{action.metavar} ...]", "…")

    def _format_usage(self, *words: Any, **more: Any) -> str:
        return f"{layout.usage(super()._format_usage(*words, **more), layout.width())}\n\n"


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of exiting, and knows the nearest option.

    Where `takes_settings` is set, `--seed 3` is the same as the word `seed=3`, and help that is asked for beside
    another word is left to what that word names.
    """

    takes_settings = False

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, formatter_class=_Layout, allow_abbrev=False)

    def understand(self, words: Sequence[str]) -> argparse.Namespace:
        """What the words say; options may stand anywhere among them."""
        if not self.takes_settings:
            return self.parse_intermixed_args(words)
        help_of = _HELP & set(words) and any(not word.startswith("-") for word in words)
        given = self.parse_intermixed_args(self._as_words([w for w in words if not help_of or w not in _HELP]))
        given.help = bool(help_of)
        return given

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, as UserError."""
        head, _, rest = message.partition("unrecognized arguments: ")
        stray = next((word for word in rest.split() if word.startswith("-")), "")
        if not head and stray:
            name = stray.partition("=")[0]
            message = f"{self.prog} has no option {name}.{did_you_mean(name, self._options())}"
        raise UserError(message[:1].upper() + message[1:].rstrip("."), remedy=f"{self.prog} --help")

    def _options(self) -> list[str]:
        own = [option for action in self._actions for option in action.option_strings]
        return own + ([f"--{name}" for name in _settings()] if self.takes_settings else [])

    def _as_words(self, words: Sequence[str]) -> list[str]:
        """Options that are settings become `key=value`; the rest stays as it is."""
        own = {option for action in self._actions for option in action.option_strings}
        rest, found = list(words), []
        while rest:
            word = rest.pop(0)
            name, equals, value = word[2:].partition("=")
            key = name.replace("-", "_")
            if not word.startswith("--") or f"--{name}" in own or not _known(key):
                found.append(word)
            elif equals:
                found.append(f"{key}={value}")
            elif _settings().get(key) == "yesno":
                found.append(f"{key}=true")
            elif rest:
                found.append(f"{key}={rest.pop(0)}")
            else:
                raise UserError(f"{word} needs a value.", remedy=f"{key}=VALUE")
        return found


def _known(key: str) -> bool:
    return key in _settings() or key.startswith(("hyperparam.", "io."))


def _settings() -> dict[str, str]:
    """The names of settings that every model knows, and their kinds."""
    from inflame.config.schema import ALIASES, COMMON

    return {**dict.fromkeys(ALIASES, ""), **{name: key.kind for name, key in COMMON.items()}}
