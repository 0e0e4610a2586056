"""What a result came from: code, data words, seed, versions, machine. Gathered without importing anything heavy."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import host

if TYPE_CHECKING:
    from inflame.config import Settings

PACKAGES = (
    "inflame",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "onnx",
    "onnxruntime",
)
LONGEST_DIFF = 200_000  # characters
CARRIED = "INFLAME_CODE"  # the file that says where the code of a job came from


def gather(settings: Settings) -> dict[str, Any]:
    """The facts of this process and of the folder of its model, as plain JSON. `code` names the version of all of the
    code in short."""
    found = versions()
    around = git(Path(settings.folder))
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "seed": settings.seed,
        "model": {"name": settings.model, "folder": settings.folder, "sha256": settings.code},
        "code": code(settings.code, around, found.get("inflame", "")),
        "git": around,
        "versions": found,
        "hardware": hardware(),
    }


def git(folder: Path) -> dict[str, Any] | None:
    """Commit, uncommitted changes and untracked files of the repository around `folder`; None where there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return _carried()
    diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    new = _git(folder, "ls-files", "--others", "--exclude-standard") or ""
    return {
        "commit": commit.strip(),
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "diff": diff[:LONGEST_DIFF],
        "diff_cut": len(diff) > LONGEST_DIFF,
        "untracked": new.splitlines()[:100],
    }


def _carried() -> dict[str, Any] | None:
    """What a job was told about its code, whose repository stayed behind: `tree` is what it really is."""
    try:
        told = json.loads(Path(os.environ[CARRIED]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        return None
    if not told.get("commit"):
        return None
    return {**told, "diff_cut": len(told["diff"]) >= LONGEST_DIFF, "untracked": []}


def code(folder: str, around: dict[str, Any] | None, version: str) -> str:
    """A short name for the code: the commit, or where there is none the version of inflame and the hash of the model's
    folder; `+` and a hash follow where something was changed since."""
    if around is None:
        return f"{version}-{folder[:7]}".strip("-")
    changed = around["diff"] + "".join(around["untracked"])
    more = f"+{hashlib.sha256(f'{changed}{folder}'.encode(errors='replace')).hexdigest()[:6]}" if changed else ""
    return f"{around['commit'][:7]}{more}"


def versions() -> dict[str, str]:
    """Python and the packages that a result depends on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The machine as its operating system describes it."""
    memory = host.memory()
    return {
        "system": platform.platform(),
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": host.cores(),
        "memory_gb": None if memory is None else round(memory / 2**30, 1),
        "gpus": [_field(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
    }


def _field(path: Path, name: str) -> str:
    """The value of the first `name : value` line of a file of the kernel's."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(name)), "")
    except OSError:
        return ""


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            timeout=3,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
