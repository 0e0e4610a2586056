"""The first program of a job on its machine, perhaps as process 1: gets inflame and its packages ready, and hands over
to `inflame.infra.aboard`. Nothing but the standard library until then.

It is a file of its own in the archive: `python .inflame/bootstrap.py`, with the job in the variable INFLAME_JOB.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Trouble(Exception):
    """The job can't begin."""


class Stop:
    """Remembers the first signal. Process 1 has no default handlers: without one, SIGTERM is nothing to it."""

    def __init__(self) -> None:
        self.signal = 0
        self.heard: list[Callable[[int], None]] = []
        for number in _SIGNALS:
            signal.signal(number, self._catch)

    def _catch(self, number: int, _frame: object) -> None:
        self.signal = self.signal or number
        for told in self.heard:
            told(number)


# --- what it needs -------------------------------------------------------------------------------


def prepare(work: Path, say: Callable[[str], None]) -> list[Path]:
    """The folders with inflame, and with those packages that this Python doesn't have as they are asked for. Made once
    for the same inflame and the same list. Trouble when a package can't be had."""
    inside = work / ".inflame"
    wheel = next(iter(sorted(inside.glob("*.whl"))), None)
    if wheel is None:
        raise Trouble(f"the archive has no wheel of inflame: {sorted(path.name for path in inside.iterdir())}")
    wanted = [line for line in (inside / "requirements.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    lacking = [line for line in wanted if not satisfied(line)]
    parts, found = _parts(inside), []
    if lacking:
        told = "\n".join([sys.version, *lacking]).encode()
        found.append(_made(parts, told, lambda folder: _install(lacking, folder, say)))
    return [_made(parts, wheel.read_bytes(), lambda folder: _unpack(wheel, folder)), *found]


def _made(parts: Path, told: bytes, make: Callable[[Path], None]) -> Path:
    """The folder for what `told` says, made whole or not at all where it isn't there."""
    target = parts / hashlib.sha256(told).hexdigest()[:24]
    if not target.is_dir():
        mine = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        shutil.rmtree(mine, ignore_errors=True)
        try:
            make(mine)
            mine.rename(target)
        except OSError:
            if not target.is_dir():  # another process was quicker
                raise
        finally:
            shutil.rmtree(mine, ignore_errors=True)
    return target


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)


def satisfied(line: str) -> bool:
    """Whether this Python has what a line of the requirement list asks for."""
    try:
        requirement = _requirement(line)
        version = metadata.version(requirement.name)
    except Exception:  # an address, a package that isn't there, or metadata that can't be read
        return False
    # Builds for other hardware have a version of their own: 2.6.0+cpu is 2.6.0.
    return bool(requirement.specifier.contains(version.partition("+")[0], prereleases=True))


def _requirement(line: str) -> Any:
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        with suppress(ImportError):
            return importlib.import_module(module).Requirement(line)
    raise Trouble("this Python has neither packaging nor pip")


def _parts(inside: Path) -> Path:
    """A place that outlives this job on its machine, where there is one."""
    given = os.environ.get("INFLAME_PARTS")
    for folder in (Path(given) if given else Path.home() / ".cache" / "inflame" / "parts", inside / "parts"):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise Trouble(f"no place to install packages at: {inside}")


def _install(lines: list[str], target: Path, say: Callable[[str], None]) -> None:
    """Pinned lines come without what they need in turn, which is in the list as well; ranges bring it."""
    target.mkdir(parents=True)
    pinned = [line for line in lines if "==" in line]
    for some, how in ((pinned, ["--no-deps"]), ([line for line in lines if line not in pinned], [])):
        if not some:
            continue
        say(f"installing {len(some)} packages: {' '.join(some[:8])}{' …' if len(some) > 8 else ''}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--target", str(target), *how, *some]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            words = [line for line in done.stdout.splitlines() if "ERROR" in line] or done.stdout.splitlines()[-3:]
            raise Trouble("its requirements can't be installed: " + " ".join(words).strip())


# --- the program ---------------------------------------------------------------------------------


def main() -> int:
    """Runs the job; gives its exit code."""
    began, stop = time.time(), Stop()
    work = Path(__file__).resolve().parents[1]
    job: dict[str, Any] = {}
    try:
        try:
            job = json.loads(os.environ["INFLAME_JOB"])
        except (KeyError, ValueError) as error:
            raise Trouble(f"the variable INFLAME_JOB doesn't say the job: {error}") from error
        parts = prepare(work, _say)
    except (Trouble, OSError) as error:
        return _give_up(job, str(error), time.time() - began)
    ours = [str(part) for part in parts]
    sys.path[:0] = ours
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*ours, os.environ.get("PYTHONPATH", "")]))
    from inflame.infra import aboard

    return int(aboard.run(job, work, stop, began))


def _give_up(job: dict[str, Any], reason: str, seconds: float) -> int:
    _say(f"error: {reason}")
    told = {"code": 1, "state": "failed", "reason": reason, "seconds": round(seconds, 1), "cost": None, "attempt": 0}
    output = str(job.get("output", ""))
    with suppress(Exception):  # the image may have what reaches the place; a folder needs nothing
        if "://" in output and not output.startswith("file://"):
            with importlib.import_module("fsspec").open(f"{output.rstrip('/')}/exit.json", "w") as file:
                json.dump(told, file)
        elif output:
            folder = Path(output.removeprefix("file://"))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "exit.json").write_text(json.dumps(told), encoding="utf-8")
    return 1


def _say(text: str) -> None:
    sys.stderr.write(f"inflame: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
