"""What the code of a model folder reads, found without running it, so that a setting that does nothing is refused."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import store
from inflame.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[1]

_HOLDERS = {"settings", "config", "cfg", "conf"}  # what a variable that holds the settings is called


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The Python files of a model folder: their hash, and the names they read.

    `names`: of any attribute or string. `hyperparam`: `….hyperparam.NAME` with its place.
    `common` and `io`: `settings.NAME` and `….io.NAME`, here or in the parts of inflame imported here.
    """

    sha256: str
    names: frozenset[str]
    hyperparam: tuple[tuple[str, str], ...]
    common: frozenset[str]
    io: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What one file says: as in `Code`, and the files of inflame that it imports."""

    names: frozenset[str]
    hyperparam: tuple[tuple[str, str], ...]
    common: frozenset[str]
    io: frozenset[str]
    imported: tuple[Path, ...]


def read(folder: Path) -> Code:
    """What the folder's own files read. A file that isn't Python: DataError with its line."""
    digest = hashlib.sha256()
    own: list[_Facts] = []
    for path in sorted(_files(folder)):
        content = store.read_bytes(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
        own.append(_facts(path, content))
    modules = dict.fromkeys(module for facts in own for module in facts.imported)
    everything = (*own, *(_facts(module, module.read_bytes()) for module in modules))
    return Code(
        sha256=digest.hexdigest(),
        names=frozenset(name for facts in own for name in facts.names),
        hyperparam=tuple(one for facts in own for one in facts.hyperparam),
        common=frozenset(name for facts in everything for name in facts.common),
        io=frozenset(name for facts in everything for name in facts.io),
    )


@lru_cache(maxsize=256)
def _facts(path: Path, content: bytes) -> _Facts:
    """Kept: a process that many are forked from looks at each file once for all of them."""
    tree = _tree(path, content)
    return _Facts(
        names=frozenset(_names(tree)),
        hyperparam=tuple((node.attr, f"{path}:{node.lineno}") for node in _below(tree, {"hyperparam"})),
        common=frozenset(node.attr for node in _below(tree, _HOLDERS)),
        io=frozenset(node.attr for node in _below(tree, {"io"})),
        imported=tuple(_imported(tree)),
    )


def _files(folder: Path) -> Iterator[Path]:
    """The modules of the folder and of the packages in it; data, tests and virtual environments aside."""
    for path in folder.iterdir():
        if path.suffix == ".py" and path.is_file() and not path.name.startswith(("test_", "conftest")):
            yield path
        elif path.name != "tests" and (path / "__init__.py").is_file():
            yield from _files(path)


def _tree(path: Path, content: bytes) -> ast.Module:
    try:
        return ast.parse(content, filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        what = getattr(error, "msg", str(error))
        raise DataError(
            f"{path.name} is not valid Python: {what}.", where=f"{path}:{line}", remedy="Correct it."
        ) from error


def _names(tree: ast.Module) -> Iterator[str]:
    """Names that may be settings: attributes that are read (but not of a module or of `self`) and strings."""
    modules = {alias.asname or alias.name.partition(".")[0] for node in _imports(tree) for alias in node.names}
    spread = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if _root(node) not in modules and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg is None:
            spread = spread or "hyperparam" in ast.unparse(node.value)
    if spread:  # f(**settings.hyperparam) reads what f has parameters for
        yield from (node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))


def _below(tree: ast.Module, holders: set[str]) -> Iterator[ast.Attribute]:
    """The reads of `X.name` where X, or the last part of X, is one of `holders` or a variable set to one."""
    named = (
        {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and _is_settings(node)}
        if (holders is _HOLDERS)
        else set()
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if name in holders or name in named:
                yield node


def _is_settings(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation).strip("'\"").endswith("Settings")


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def _imported(tree: ast.Module) -> Iterator[Path]:
    """The files of inflame that a file imports by name."""
    for node in _imports(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            path = PACKAGE.joinpath(*parts[1:]).with_suffix(".py")
            if parts[0] == "inflame" and len(parts) > 1 and path.is_file():
                yield path
