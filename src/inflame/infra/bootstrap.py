"""The first program of a job on its machine, perhaps as process 1: gets inflame and its packages ready, finds out which
of how many machines this is, and hands over to `inflame.infra.aboard`. Nothing but the standard library until then.

It is a file of its own in the archive: `python .inflame/bootstrap.py`, with the job in the variable INFLAME_JOB.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PORT = 29500
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Trouble(Exception):
    """The job can't begin."""


class Cluster(NamedTuple):
    """Which machine of how many this is, how the first one is called, and whose machine it is."""

    rank: int = 0
    machines: int = 1
    host: str = "127.0.0.1"
    port: int = PORT
    platform: str = "local"


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


# --- which machine -------------------------------------------------------------------------------


def where(given: Mapping[str, str], count: int = 1) -> Cluster:
    """What the platform says about the machines, from the environment and files that it sets up. `count` is what was
    asked for, where the platform doesn't say how many there are."""
    for look in (_sagemaker, _vertex, _azure, _slurm, _kubernetes, _ray):
        found = look(given, count)
        if found is not None:
            return found
    rank, host = int(given.get("NODE_RANK", "0")), given.get("MASTER_ADDR", "127.0.0.1")
    return Cluster(rank, count, host, int(given.get("MASTER_PORT", PORT)))


def _sagemaker(given: Mapping[str, str], count: int) -> Cluster | None:
    file = Path(given.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "input" / "config" / "resourceconfig.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    hosts = sorted(told["hosts"], key=_natural)
    host = "127.0.0.1" if len(hosts) == 1 else hosts[0]
    host, port = given.get("MASTER_ADDR", host), int(given.get("MASTER_PORT", PORT))
    return Cluster(hosts.index(told["current_host"]), len(hosts), host, port, "sagemaker")


def _vertex(given: Mapping[str, str], count: int) -> Cluster | None:
    if "CLUSTER_SPEC" not in given:
        return None
    told = json.loads(given["CLUSTER_SPEC"])
    pools = sorted((name, hosts) for name, hosts in told["cluster"].items() if name.startswith("workerpool"))
    every = [(name, index) for name, hosts in pools for index in range(len(hosts))]
    rank = every.index((told["task"]["type"], int(told["task"].get("index", 0))))
    host, _, port = pools[0][1][0].partition(":")
    return Cluster(rank, len(every), host, int(port or PORT), "vertexai")


def _azure(given: Mapping[str, str], count: int) -> Cluster | None:
    if "AZUREML_RUN_ID" not in given and "AZ_BATCHAI_JOB_NAME" not in given:
        return None
    rank = int(given.get("NODE_RANK", given.get("RANK", "0")))
    machines = int(given.get("AZUREML_NODE_COUNT", given.get("WORLD_SIZE", str(count))))
    host, port = given.get("MASTER_ADDR", "127.0.0.1"), int(given.get("MASTER_PORT", PORT))
    return Cluster(rank, machines, host, port, "azureml")


def _slurm(given: Mapping[str, str], count: int) -> Cluster | None:
    if "SLURM_JOB_ID" not in given:
        return None
    machines = int(given.get("SLURM_NNODES", given.get("SLURM_JOB_NUM_NODES", "1")))
    first = _first_host(given.get("SLURM_JOB_NODELIST", given.get("SLURM_NODELIST", "")))
    host = given.get("MASTER_ADDR", first or "127.0.0.1")
    port = int(given.get("MASTER_PORT", PORT + int(given["SLURM_JOB_ID"]) % 1000))
    return Cluster(int(given.get("SLURM_NODEID", "0")), machines, host, port, "slurm")


def _kubernetes(given: Mapping[str, str], count: int) -> Cluster | None:
    if "JOB_COMPLETION_INDEX" not in given:
        return None
    rank, port = int(given["JOB_COMPLETION_INDEX"]), int(given.get("MASTER_PORT", PORT))
    host = given.get("MASTER_ADDR", "127.0.0.1")
    return Cluster(rank, count, host, port, "kubernetes")


def _ray(given: Mapping[str, str], count: int) -> Cluster | None:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in given and "RAY_ADDRESS" not in given:
        return None
    return Cluster(0, count, "", 0, "ray")


def _first_host(listed: str) -> str:
    """The first of Slurm's list: `n[3-4,9],m1` is n3."""
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?", listed)
    return found[1] + (found[2] or "") if found else ""


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def training(python: str, program: str, words: Iterable[str], cluster: Cluster, devices: int = 1) -> list[str]:
    """The command line of the training: `app.py train …` itself on one machine, by torchrun on several.

    `devices`: processes of each machine. On a Ray cluster Ray starts them.
    """
    words = list(words)
    if cluster.machines == 1:
        return [python, program, "train", *words]
    if cluster.platform == "ray":
        return [python, "-m", "inflame.infra.ray_train", str(cluster.machines), program, "train", *words]
    rendezvous = ["--nnodes", str(cluster.machines), "--node-rank", str(cluster.rank), "--nproc-per-node", str(devices)]
    rendezvous += ["--master-addr", cluster.host, "--master-port", str(cluster.port)]
    return [python, "-m", "torch.distributed.run", *rendezvous, program, "train", *words]


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
        cluster = where(os.environ, int(job.get("count", 1)))
        parts = prepare(work, _say)
    except (Trouble, OSError) as error:
        return _give_up(job, str(error), time.time() - began)
    ours = [str(part) for part in parts]
    sys.path[:0] = ours
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*ours, os.environ.get("PYTHONPATH", "")]))
    from inflame.infra import aboard

    return int(aboard.run(job, work, tuple(cluster), stop, began))


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
