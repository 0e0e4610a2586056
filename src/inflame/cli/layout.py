"""Help as wide as the terminal: paragraphs are filled anew, columns keep their places, commands stay whole."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator

MOST = 100  # letters in a line, however wide the terminal is
_NARROW = 24  # letters that a second column needs, to stand beside the first one
_PROTECTED = "\0"  # a space that no line ends at


def width() -> int:
    """Letters in a line of help, on this terminal."""
    return min(MOST, shutil.get_terminal_size().columns)


def fitted(text: str, columns: int) -> str:
    """The text with no line above so many letters, but for words that are longer. Lines that fit stay as they are."""
    lines: list[str] = []
    for line in _paragraphs(text, columns):
        goes_on = bool(lines) and lines[-1].endswith("\\")  # a command that was written in two lines
        lines += _fitted(line, columns, command=goes_on)
    return "\n".join(lines) + ("\n" if text.endswith("\n") else "")


def usage(text: str, columns: int) -> str:
    """The line of usage, broken between options and indented below the verb."""
    if max(map(len, text.splitlines())) <= columns:
        return text.rstrip("\n")
    words = " ".join(text.split())
    verb = re.match(r"usage: (inflame \S+ )?", words)
    longest = max(map(len, words.split()))
    indent = " " * (verb.end() if verb and verb.end() + longest <= columns else 4)
    kept = re.sub(r"\[[^\[\]]*\]", lambda found: _whole(found[0], columns - len(indent)), words)
    return "\n".join(_wrap(kept, columns, after=indent)).replace(_PROTECTED, " ")


def told(text: str, columns: int) -> list[str]:
    """The lines of what an option means, with no word broken."""
    return _wrap(" ".join(text.split()), columns, after="")


def _paragraphs(text: str, columns: int) -> Iterator[str]:
    """Lines; those of a sentence that doesn't fit are one."""
    sentence: list[str] = []
    lines = text.removesuffix("\n").split("\n")
    for line in [*lines, None]:
        if sentence and (not line or line.startswith(" ") or sentence[-1].endswith((".", ":", "!", "?"))):
            yield from [" ".join(sentence)] if max(map(len, sentence)) > columns else sentence
            sentence = []
        if line and not line.startswith(" "):
            sentence.append(line)
        elif line is not None:
            yield line


def _fitted(line: str, columns: int, *, command: bool) -> list[str]:
    if len(line) <= columns:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    parts = re.split(r"(?<=\S) {2,}", line.strip())
    if len(parts) == 1:
        if command or parts[0].startswith("inflame "):
            return _command(line, columns)
        return _wrap(line, columns, after=indent)
    if len(parts) > 2:
        gaps = re.findall(r"(?<=\S) {2,}", line)
        if len(set(gaps)) > 1:  # names, each with what it means
            parts = [f"{name}{gap}{means}" for name, gap, means in zip(parts[::2], gaps[::2], parts[1::2], strict=True)]
        return [more for part in parts for more in _fitted(indent + part, columns, command=False)]
    start = line.rindex(parts[1])
    if columns - start >= _NARROW:
        first, *rest = told(parts[1], columns - start)
        return [line[:start] + first, *(" " * start + more for more in rest)]
    below = f"{indent}    "
    return [*_fitted(indent + parts[0], columns, command=False), *_wrap(below + parts[1], columns, after=below)]


def _command(line: str, columns: int) -> list[str]:
    """A command that can still be copied: each line but the last ends in a backslash."""
    indent = " " * (len(line) - len(line.lstrip()))
    if indent == "  ":
        indent += "    "
    room = columns - 2
    together = re.sub(r"'[^']*'|\"[^\"]*\"", lambda found: found[0].replace(" ", _PROTECTED), line.rstrip(" \\"))
    together = re.sub(r"(?<= )--?\w\S* (?!-)\S+", lambda found: _whole(found[0], room - len(indent)), together)
    lines = [part.replace(_PROTECTED, " ") for part in _wrap(together, room, after=indent)]
    last = f"{lines[-1]} \\" if line.endswith("\\") else lines[-1]
    return [*(f"{part} \\" for part in lines[:-1]), last]


def _wrap(line: str, columns: int, *, after: str) -> list[str]:
    return textwrap.wrap(
        line,
        columns,
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    )


def _whole(option: str, columns: int) -> str:
    """An option that isn't broken, where it fits into a line."""
    return option.replace(" ", _PROTECTED) if len(option) <= columns else option
