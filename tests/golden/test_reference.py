"""docs/reference.md is what the code says: settings, records, errors, seams, in the words of their own docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from inflame import errors, plugins, records
from inflame.config import schema

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_reference_md(golden: Callable[[Path, str], None]) -> None:
    parts = ["# Reference\n\nWritten by `make docs` from the code; a test keeps it true.\n"]
    parts += [_settings(), _records(), _errors(), _seams()]
    golden(PAGE, "\n".join(parts))


def _settings() -> str:
    head = "| setting | takes | is |\n|---|---|---|"
    tables = [
        ("everywhere", {name: key for name, key in schema.COMMON.items() if not name.startswith("_")}),
        ("`[io]`: `io.NAME`", schema.IO),
        ("`[hyperparam]` of every model that has it: `hyperparam.NAME`", schema.KNOWN),
    ]
    parts = [
        "## Settings\n",
        "Words like `seed=1` or `--seed 1`; `model-config.toml` has their defaults.\n",
    ]
    for title, keys in tables:
        rows = [
            f"| `{name}` | {key.expects()} | {key.help or 'what its comment in the file says'} |"
            for name, key in keys.items()
        ]
        parts.append(f"### {title}\n\n{head}\n" + "\n".join(rows) + "\n")
    others = ", ".join(f"`{name}` is `{meant}`" for name, meant in sorted(schema.ALIASES.items()))
    return "\n".join([*parts, f"Other names: {others}.\n"])


def _records() -> str:
    parts = ["## Records\n", "What travels between rooms and lies in run folders: frozen, JSON both ways.\n"]
    for name, record in _classes(records, records.Record):
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(record))
        parts.append(f"### {name}\n\n{_said(record)}\n\n{fields}\n")
    return "\n".join(parts)


def _errors() -> str:
    parts = [
        "## Errors\n",
        "Each says what is wrong, where, and what to do: with `--json` too.\n",
    ]
    head = "| error | is a | exit code | means |\n|---|---|---|---|"
    rows = [
        f"| `{name}` | `{error.__bases__[0].__name__}` | {error.code} | {_said(error)} |"
        for name, error in _classes(errors, errors.InflameError)
    ]
    return "\n".join([*parts, head, *rows, ""])


def _seams() -> str:
    parts = ["## Seams\n", "Names that arrive from outside; others join by entry points `inflame.<seam>`.\n"]
    head = "| seam | built in | extra |\n|---|---|---|"
    rows = []
    for seam, names in plugins.SEAMS.items():
        extras = sorted({plugin.extra for plugin in names.values()} - {""})
        rows.append(f"| {seam} | {', '.join(f'`{name}`' for name in names)} | {', '.join(extras)} |")
    return "\n".join([*parts, head, *rows, ""])


def _classes(module: object, above: type) -> Iterator[tuple[str, type]]:
    """The classes below `above` that the module defines, in its order."""
    for name, found in vars(module).items():
        ours = inspect.isclass(found) and issubclass(found, above) and found.__module__ == above.__module__
        if ours and found is not above:
            yield name, found


def _said(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split()).replace("|", "\\|")
