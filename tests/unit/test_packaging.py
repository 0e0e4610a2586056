"""What is declared is what is used, and what is built is whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from inflame import plugins, remote

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "inflame"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _imports() -> dict[str, set[str]]:
    """Top-level packages that are imported by name, and the files that do."""
    found: dict[str, set[str]] = {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(file.relative_to(ROOT)))
    return found


def test_every_import_is_declared() -> None:
    declared = {_name(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines}
    owners = metadata.packages_distributions()
    for package, files in _imports().items():
        if package not in sys.stdlib_module_names | {"inflame", "__future__"}:
            dists = {_name(dist) for dist in owners.get(package, [package.replace("_", "-")])}
            assert dists & declared, f"{package}, imported by {sorted(files)}, is not in pyproject.toml"


def test_every_requirement_has_a_lower_bound() -> None:
    for line in (*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)):
        assert re.search(r">=\d", line), line


def test_every_extra_that_code_names_is_there() -> None:
    named = {plugin.extra for seam in plugins.SEAMS.values() for plugin in seam.values()} | set(remote.EXTRAS.values())
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        named |= set(re.findall(r'extra="([\w-]+)"', text)) | set(re.findall(r"inflame\[([\w-]+)\]", text))
    assert named - {""} <= set(EXTRAS)


def test_the_lock_has_all_and_names_no_place() -> None:
    locked = set(re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE))
    for line in (*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["dev"]):
        assert _name(line) in locked, line
    assert "://" not in LOCK
    assert not re.search(r"(^|\s)/", LOCK)
    assert all("--hash=sha256:" in block for block in re.split(r"^(?=\S+==)", LOCK, flags=re.MULTILINE)[1:])


def test_the_core_has_no_torch() -> None:
    core = {_name(line) for line in PROJECT["dependencies"]}
    assert not core & {"torch", "torchvision", "timm", "scikit-learn", "onnx"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_is_whole(wheel: set[str]) -> None:
    kept = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT / "src")) for path in kept} <= wheel
    assert "inflame/py.typed" in wheel


def test_the_wheel_has_nothing_else(wheel: set[str]) -> None:
    beside = {name for name in wheel if not name.startswith(("inflame/", "inflame-"))}
    assert not beside
    assert not [name for name in wheel if name.endswith((".jpg", ".png", ".npy", ".safetensors", ".onnx", ".parquet"))]
