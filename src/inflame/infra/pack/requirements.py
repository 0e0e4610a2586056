"""The packages that a job needs: pinned as they are installed here, without what its image brings along.

Read from the metadata of installed packages alone: nothing is imported, and no index is asked.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import remote
from inflame.errors import MissingExtra

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# What images of each family have. Of these a range is asked for, that of inflame itself, and not the version here: an
# image's torch was built for its drivers, and two gigabytes of libraries come with another one.
IMAGES: dict[str, frozenset[str]] = {
    "pytorch": frozenset(
        "torch torchvision torchaudio triton numpy scipy pillow pip setuptools wheel packaging filelock fsspec jinja2 "
        "markupsafe networkx sympy mpmath typing-extensions".split()
    ),
    "": frozenset(("pip", "setuptools", "wheel")),
}
_OTHER_NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_TRACKERS = ("mlflow", "wandb", "tensorboard", "clearml")


def demand_driver(uri: str) -> None:
    """MissingExtra where nothing here reaches the place: the code is sent there from here."""
    scheme = remote.SCHEME.match(uri)
    extra = remote.EXTRAS.get(scheme[1].lower()) if scheme else None
    name = _DRIVERS.get(extra or "")
    if name and installed(name) is None:
        raise MissingExtra(f"The job's output needs the package {name}, which isn't installed.", extra=extra or "")


def family(image: str) -> str:
    """Whose packages an image has: `pytorch`, or nobody's. An empty name is the provider's own image, with torch."""
    return "pytorch" if not image or "torch" in image.lower() or "acpt" in image.lower() else ""


def needed(folder: Path, *, output: str = "", arguments: Iterable[str] = (), image: str = "") -> tuple[str, ...]:
    """The lines of the requirement list: `name==1.2.3`, or a range for what the image has, sorted.

    They are what inflame needs to train, to reach `output`, to tell the trackers that `arguments` name, and what the
    Python files of the model's folder import or its requirements.txt names, with all that these need in turn.
    """
    brought = IMAGES[family(image)]
    wanted = ["inflame", *_extras(output, arguments), *_own(folder)]
    pins, others = _closure(wanted, brought)
    return tuple(sorted([*(f"{name}=={version}" for name, version in pins.items()), *others.values()]))


def _extras(output: str, arguments: Iterable[str]) -> list[str]:
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    found = ["inflame[train]"]
    found += [f"inflame[{name}]" for name in words.get("tracker", "").split(",") if name in _TRACKERS]
    if words.get("devices", "1") not in ("", "1"):
        found.append("inflame[many]")
    for uri in (output, *words.values()):
        scheme = remote.SCHEME.match(uri)
        extra = remote.EXTRAS.get(scheme[1].lower()) if scheme else None
        if extra:
            found.append(f"inflame[{extra}]")
    return found


def _own(folder: Path) -> list[str]:
    """What the model's own files need beyond inflame."""
    listed = folder / "requirements.txt"
    if listed.is_file():
        lines = (line.partition("#")[0].strip() for line in listed.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line and not line.startswith("-")]
    found = set()
    for file in folder.glob("*.py"):
        found |= _imports(file)
    outside = {name for name in found if name not in sys.stdlib_module_names and not (folder / f"{name}.py").exists()}
    return sorted(dist for name in outside - {"inflame"} if (dist := _distribution(name)))


def _imports(file: Path) -> set[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _distribution(module: str) -> str:
    """The package that brings a module; empty where none is known (a file beside the model, say)."""
    for name in (_OTHER_NAMES.get(module, module), module):
        try:
            return metadata.distribution(name).metadata["Name"]
        except metadata.PackageNotFoundError:
            continue
    return next(iter(metadata.packages_distributions().get(module, ())), "")


def _closure(wanted: list[str], brought: frozenset[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Pins of all that is wanted and of what that needs; the lines of what the image has, or nobody can pin."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    lines: dict[str, str] = {}
    ranges: dict[str, Any] = {}
    rest: list[Requirement] = []
    for line in wanted:
        try:
            rest.append(Requirement(line))
        except InvalidRequirement:
            lines[line] = line  # a path or an address: pip knows
    done: set[tuple[str, str]] = set()
    while rest:
        one = rest.pop()
        name, extras = str(canonicalize_name(one.name)), {"", *one.extras}
        if name in brought:
            ranges[name] = ranges.get(name, SpecifierSet()) & one.specifier
        elif not {(name, extra) for extra in extras} <= done:
            done |= {(name, extra) for extra in extras}
            dist = installed(one.name)
            if dist is None:
                lines[name] = str(one).partition(";")[0].strip()
                continue
            if name != "inflame":
                pins[name] = dist.version.partition("+")[0]  # "+cpu" is known to torch's own index alone
            rest += needs(dist, extras)
    return pins, {**lines, **{name: f"{name}{given}" for name, given in ranges.items()}}


def needs(dist: metadata.Distribution, extras: set[str]) -> list[Requirement]:
    """What a package needs with these extras, on a system like this one."""
    from packaging.requirements import Requirement

    found = map(Requirement, dist.requires or ())
    return [one for one in found if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in extras)]


def installed(name: str) -> metadata.Distribution | None:
    """What is installed here under that name; None where nothing is."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
