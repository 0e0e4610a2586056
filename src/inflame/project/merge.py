"""A later template, merged into a project that people have worked on since: line by line, by git's three-way merge.

What only the template changed is taken, what only people changed stays, and where both changed the same lines both are
shown between markers. Nothing is written before every file could be merged.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from inflame import __version__, store
from inflame.errors import RunError, UserError
from inflame.project import make
from inflame.records import Record

MARK = "<<<<<<< yours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Record):
    """What happens to a file: added, updated (you had not changed it), merged, conflict, or kept (the template no
    longer has it, or you removed it)."""

    path: str
    what: str


def upgrade(project: Path, *, dry: bool = False) -> list[Change]:
    """Brings the project to the template of this version; gives what that changes, and with `dry` only that.

    DataError: no project of ours. UserError: conflicts of before are not resolved yet, or git is missing.
    """
    version, answers, base = make.recall(project)
    theirs = _later(answers, base)
    found = {name: _merged(project, name, base.get(name), text) for name, text in theirs.items()}
    changes = [Change(path=name, what=what) for name, (what, _) in found.items() if what]
    changes += [Change(path=name, what="kept") for name in sorted(base.keys() - theirs.keys())]
    if not dry:
        for name, (what, text) in found.items():
            if what and what != "kept":
                path = project / name
                path.parent.mkdir(parents=True, exist_ok=True)
                store.write(path, text)
        if theirs != base or version != __version__:
            make.remember(project / make.ORIGIN, answers, theirs)
    return sorted(changes, key=lambda change: change.path)


def _later(answers: dict[str, object], base: make.Files) -> make.Files:
    """What this version makes of the answers; the model folder as it was where the one it came from has gone."""
    try:
        return make.render(answers)
    except UserError:
        around = make.surroundings(answers)
        return {**base, **around}


def _merged(project: Path, name: str, base: str | None, theirs: str) -> tuple[str, str]:
    """What to do with a file (nothing: empty), and its new text."""
    path = project / name
    mine = path.read_text(encoding="utf-8") if path.is_file() else None
    if mine is not None and MARK in mine:
        raise UserError(
            f"{name} still has conflicts of an earlier upgrade.",
            where=str(path),
            remedy=f"Choose between the lines at {MARK}, then upgrade again.",
        )
    if theirs in (base, mine):
        return "", theirs
    if mine is None:
        return ("added", theirs) if base is None else ("kept", theirs)
    if mine == base:
        return "updated", theirs
    return _three_way(mine, base or "", theirs)


def _three_way(mine: str, base: str, theirs: str) -> tuple[str, str]:
    git = shutil.which("git")
    if git is None:
        raise UserError("Merging needs git, which isn't installed.", remedy="Install git (apt install git).")
    with tempfile.TemporaryDirectory() as folder:
        names = ("yours", "base", f"inflame {__version__}")
        files = [Path(folder) / name for name in ("mine", "base", "theirs")]
        for file, text in zip(files, (mine, base, theirs), strict=True):
            file.write_text(text, encoding="utf-8")
        labels = [word for name in names for word in ("-L", name)]
        done = subprocess.run([git, "merge-file", "-p", *labels, *map(str, files)], capture_output=True, check=False)
    if done.returncode > 127:  # else the number of conflicts
        raise RunError(f"git merge-file failed: {done.stderr.decode(errors='replace').strip()}", remedy="git --version")
    return ("conflict" if done.returncode else "merged"), done.stdout.decode()
