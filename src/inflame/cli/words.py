"""Understanding the words after a verb: argparse that raises our errors and guesses what was meant."""

from __future__ import annotations

import argparse
import shutil
from typing import NoReturn

from inflame.errors import UserError, did_you_mean


class _Layout(argparse.RawDescriptionHelpFormatter):
    """Texts as written; long lists of options on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(100, shutil.get_terminal_size().columns))


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of exiting, and knows the nearest option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, formatter_class=_Layout, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, as UserError."""
        head, _, rest = message.partition("unrecognized arguments: ")
        stray = next((word for word in rest.split() if word.startswith("-")), "")
        if not head and stray:
            raise self._no_such_option(stray)
        raise UserError(message[:1].upper() + message[1:].rstrip(".") + ".", remedy=f"{self.prog} --help")

    def _no_such_option(self, word: str) -> UserError:
        name, _, value = word.partition("=")
        options = [option for action in self._actions for option in action.option_strings]
        remedy = f"{self.prog} --help"
        if self.prog == "inflame train" and not did_you_mean(name, options):
            setting = name.strip("-").replace("-", "_")
            remedy = f"Settings are written without dashes: {setting}={value or 'VALUE'}. See {self.prog} --help"
        return UserError(f"{self.prog} has no option {name}.{did_you_mean(name, options)}", remedy=remedy)
