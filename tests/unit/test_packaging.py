"""What is declared is what is used, and what is built is whole."""

from __future__ import annotations

import ast
import os
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


def test_without_pyarrow_what_needs_no_data_goes_on(tmp_path: Path) -> None:
    """The core and the website do without it; whoever opens data is told what to install."""
    begin = "import sys; sys.modules['pyarrow'] = None; from inflame.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def said(*words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", begin, *words], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    for verb in ("runs", "doctor", "jobs"):
        assert "pyarrow" not in said(verb, "--help")[1]
    assert said("runs")[0] == 0
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for words in (["check", "photos"], ["get", "digits"]):
        code, told = said(*words)
        assert code == 2
        assert "pip install 'inflame[data]'" in told


ASK = """
import sys
from pathlib import Path
from inflame.web.models import Model
from inflame.web.settings import Settings
print(Model("fruit", Path(sys.argv[1]), Settings()).answer([Path(sys.argv[2]).read_bytes()])[0].label)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_website_installs_small(tmp_path: Path, fruit_bundle: Path, photo_set: Path) -> None:
    """Everything that `pip install inflame[web]` brings, without torch; and it answers."""
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    words = ["pip", "install", "--quiet", "--system-certs", "--python", python, f"inflame[web] @ {ROOT.as_uri()}"]
    done = subprocess.run([uv, *words], capture_output=True, text=True, env=_reaching_out())
    if done.returncode and "fetch" in done.stderr:
        pytest.skip(f"needs a registry of packages: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    assert not (site / "torch").exists()
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) <= 250e6
    asked = [python, "-c", ASK, fruit_bundle, photo_set / "lime" / "lime_03.jpg"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "lime", done.stderr


def _reaching_out() -> dict[str, str]:
    """The environment, without what keeps tests from the network."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
