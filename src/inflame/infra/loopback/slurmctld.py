"""A real Slurm of our own on this machine, for a while: its controller and a daemon for each node, with a munge between
them. Slurm must be installed (`apt-get install slurm-wlm`), and its daemons want root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from inflame.infra.loopback.machine import Down, cut, told
from inflame.infra.loopback.server import ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
PATIENCE = 30.0  # seconds for its nodes to be there
_GPUS = 16
_ROOM = f"CPUs=256 RealMemory=1000000 Gres=gpu:{_GPUS}"  # of a node, whatever this machine has


class Cluster:
    """What runs. `config` is its file, which `SLURM_CONF` leads Slurm's commands to."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.config = folder / "slurm.conf"
        self.nodes = tuple(f"127.0.0.{number}" for number in range(1, nodes + 1))

    def ask(self, *words: str) -> str:
        """What a command prints, empty where it fails."""
        given = {**os.environ, "SLURM_CONF": str(self.config)}
        return subprocess.run(words, env=given, capture_output=True, text=True, check=False).stdout

    def version(self) -> str:
        """As `22.05.8`."""
        return self.ask("sinfo", "--version").removeprefix("slurm-wlm").removeprefix("slurm").strip()

    def lose(self, number: str) -> None:
        """Ends all processes of a job without a word, as a power cut does."""
        cut(self._processes(f"SLURM_JOB_ID={number}"))

    def up(self) -> bool:
        """Whether all nodes wait for work."""
        states = self.ask("sinfo", "--noheader", "--Node", "--partition=all", "--format=%t").split()
        return states == ["idle"] * len(self.nodes)

    def close(self) -> None:
        """Ends what still runs, and what watches over it."""
        cut(self._processes())

    def _processes(self, *more: str) -> list[int]:
        """Those that the cluster has begun, but not its daemons."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if told(pid, f"SLURM_CONF={self.config}", *more)]


def possible() -> bool:
    """Whether it is installed here, and may run."""
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


@contextmanager
def cluster(
    nodes: int = 2,
    *,
    partitions: Sequence[str] = (),
    features: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """The cluster, as long as the block lasts: nodes with these features, in a default partition and in those, that are
    called by their addresses. `variables`: what every task has besides. Down where it doesn't come up.
    """
    if not possible():
        raise Down("Slurm is not installed here, or you are not root.", remedy="apt-get install slurm-wlm munge")
    with ExitStack() as stack:  # its sockets have short names only in a folder that has one
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        found = Cluster(folder, nodes)
        _configure(folder, found.nodes, partitions, features, variables or {})
        munge = [f"--{one}={folder}/munge/{one}" for one in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
        _begin(stack, folder, "munged", "--foreground", "--force", *munge)
        _until((folder / "munge" / "socket").exists, folder)
        _begin(stack, folder, "slurmctld", "-D", "-f", str(found.config))
        for node in found.nodes:
            _begin(stack, folder, "slurmd", "-D", "-f", str(found.config), "-N", node)
        _until(found.up, folder)
        stack.callback(found.close)
        yield found


def _configure(
    folder: Path, nodes: Sequence[str], partitions: Sequence[str], features: Sequence[str], variables: Mapping[str, str]
) -> None:
    for name in ("state", "munge", *nodes):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key-file"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    prolog = folder / "prolog"
    (folder / "variables").write_text("".join(f"export {name}={value}\n" for name, value in variables.items()))
    prolog.write_text(f"#!/bin/sh\nexec cat {folder}/variables\n")
    prolog.chmod(0o755)
    port, *others = ports(1 + len(nodes))
    about = f"NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 {_ROOM}"
    about += f" Features={','.join(features)}" if features else ""
    lines = [
        "ClusterName=here",
        "SlurmctldHost=localhost(127.0.0.1)",
        "SlurmUser=root",
        "SlurmdUser=root",
        f"SlurmctldPort={port}",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/%n",
        f"SlurmctldPidFile={folder}/ctld.pid",
        f"SlurmdPidFile={folder}/%n.pid",
        f"SlurmctldLogFile={folder}/ctld.log",
        f"SlurmdLogFile={folder}/%n.log",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge/socket",
        "CredType=cred/munge",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        f"TaskProlog={prolog}",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "GresTypes=gpu",
        "ReturnToService=2",
        "KillWait=20",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "SlurmdParameters=config_overrides",  # nodes have what is said here
        "SchedulerParameters=sched_min_interval=100000",  # microseconds between two looks at what waits
        *(f"NodeName={node} Port={at} {about}" for node, at in zip(nodes, others, strict=True)),
        *(
            f"PartitionName={name} Nodes=ALL State=UP{' Default=YES' if name == 'all' else ''}"
            for name in dict.fromkeys(("all", *partitions))
        ),
    ]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    for number in range(_GPUS):  # Slurm counts files
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{_GPUS - 1}]\n")


def _begin(stack: ExitStack, folder: Path, *words: str) -> None:
    """Starts a daemon; it is ended with the stack."""
    with (folder / f"{words[0]}.out").open("ab") as out:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def end() -> None:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    stack.callback(end)


def _until(there: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > deadline:
            said = [path.read_text(errors="replace")[-300:] for path in sorted(folder.glob("*.log"))]
            text = " ".join(" ".join(said).split())
            raise Down(f"Slurm doesn't come up here: {text}", remedy="See what its daemons say: slurmctld -D -vvv")
        time.sleep(0.1)
