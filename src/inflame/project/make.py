"""A project from its template: all files in one step, with what a later template needs to be merged into it.

`.inflame/project.json` says what the project was made from; `.inflame/base/` are the files as they were made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from inflame import __version__, store
from inflame.errors import DataError, UserError
from inflame.plugins import model_folder
from inflame.records import dumps

ORIGIN = ".inflame"
TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".jinja"

Files = dict[str, str]


def check_name(target: Path) -> None:
    """UserError when the folder can't be made: a name that models don't have, something there already, no parent."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", target.name):
        raise UserError(
            f'"{target.name}" can\'t name a model: it takes letters, digits, _ and -, and a letter first.',
            remedy=f"inflame new {plain(target.name)}",
        )
    if target.exists():
        raise UserError(
            f"{target} is already there; nothing was changed.", remedy="Choose another name, or move that folder away."
        )
    if not target.parent.is_dir():
        raise UserError(
            f"There is no folder {target.parent}.", where=str(target.parent), remedy=f"mkdir -p {target.parent}"
        )


def plain(name: str) -> str:
    """The name with what a model's name may have in it: `größe 3` → `gr_e_3`."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_0123456789") or "my_model"


def write(target: Path, answers: dict[str, Any], *, bare: bool = False) -> list[str]:
    """Makes the project at `target`, whole or not at all; gives the paths of its files. bare: only the model folder."""
    files = model_files(answers) if bare else render(answers)
    with store.atomic_folder(target) as folder:
        _put(folder, files)
        if not bare:
            remember(folder / ORIGIN, answers, files)
    return sorted(files)


def render(answers: dict[str, Any]) -> Files:
    """What the template of this version makes of the answers: path → text."""
    return {**surroundings(answers), **model_files(answers)}


def surroundings(answers: dict[str, Any]) -> Files:
    """What is around the model folder: Makefile, tests, image, workflow, notebook."""
    return _rendered(TEMPLATES / "project", answers)


def model_files(answers: dict[str, Any]) -> Files:
    """The model folder: that of `like`, or what was written out from a run."""
    if answers["made"] == "eject":
        return _ejected(answers)
    source = model_folder(answers["like"])
    found = {}
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name != "__init__.py" and not file.name.startswith("."):
            text = file.read_text(encoding="utf-8")
            found[file.name] = text.replace(f"inflame train {source.name}", f"inflame train ./{answers['name']}")
    return found


def _ejected(answers: dict[str, Any]) -> Files:
    """That of a run whose recipe is written out: `eject.answers` says what it did."""
    pages = environment(TEMPLATES / "eject")
    given = {**answers, "version": __version__}
    names = ["train.py", "model-config.toml", *([] if answers["road"] == "texts" else ["net.py"])]
    written = {name: pages.get_template(f"{answers['road']}/{name}.jinja").render(given) for name in names}
    alike = model_folder("auto")  # what every model folder has
    return {**written, **{name: (alike / name).read_text(encoding="utf-8") for name in ("app.py", "score.py")}}


def remember(folder: Path, answers: dict[str, Any], files: Files) -> None:
    """Writes what `recall` reads: `project.json` and the files as the template made them."""
    with store.atomic_folder(folder) as made:
        (made / "project.json").write_text(dumps({"inflame": __version__, "answers": answers}), encoding="utf-8")
        _put(made / "base", files)


def recall(project: Path) -> tuple[str, dict[str, Any], Files]:
    """The version of inflame that made the project, its answers, and the files as they were made. Else DataError."""
    origin = project / ORIGIN
    try:
        known = json.loads((origin / "project.json").read_bytes())
        base = origin / "base"
        files = {path.relative_to(base).as_posix(): path.read_text("utf-8") for path in _files(base)}
        return str(known["inflame"]), dict(known["answers"]), files
    except FileNotFoundError as error:
        raise DataError(
            f"{project} was not made by inflame new or inflame eject: it has no {ORIGIN}/project.json.",
            where=str(project),
            remedy="Name the folder of such a project.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{origin / 'project.json'} is damaged: {error}.",
            where=str(origin),
            remedy=f"Bring it back from version control: git checkout -- {ORIGIN}",
        ) from error


def environment(folder: Path) -> Any:
    """jinja2 for templates of code and workflows, which are full of braces: `<< name >>`, `<% if … %>`."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # what is written is code, not HTML
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return found


def _rendered(folder: Path, answers: dict[str, Any]) -> Files:
    made = environment(folder)
    names = [path.relative_to(folder).as_posix() for path in _files(folder) if path.suffix == _SUFFIX]
    given = {**answers, "version": __version__}
    return {name.removesuffix(_SUFFIX): made.get_template(name).render(given) for name in names}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _put(folder: Path, files: Files) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
