"""A machine of a loopback control plane: a container where podman or docker is at work, else a process.

In a process the folders that a container would find (`/opt/ml`, `/gcs`) are folders of ours, and their names are put
into the command and the variables instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from inflame import host
from inflame.errors import RunError

# What a fresh machine has, and what leads to stand-ins of services on this one.
_PASSED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "OMP_NUM_THREADS",
    "INFLAME_BEAT",
    "INFLAME_MIRROR",
    "INFLAME_PARTS",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)
STAGE = "INFLAME_STAGE"  # names a folder that containers see as well: that of a rehearsal, where outputs are
_TOLD = ("OMP_NUM_THREADS", "INFLAME_BEAT", "no_proxy", "NO_PROXY")  # also in a container
_SERVICES = (
    "AWS_",
    "STORAGE_EMULATOR_HOST",
    "AZURE_STORAGE_",
    "GCSFS_",
    "GOOGLE_",
    "NO_GCE_CHECK",
    "http_proxy",
    "https_proxy",
    "PIP_",
)


class Down(RunError):
    """A service of this machine's own is not installed, or doesn't come up."""


class Machine:
    """One machine, at work from the beginning. `mounts`: paths that the job sees → folders here. `said` gets each line
    of its log. `image`: run in a container of it, where there are containers and it is here."""

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        mounts: Mapping[str, Path],
        said: Callable[[str], None],
        *,
        image: str = "",
        grace: float = 30.0,
    ) -> None:
        self.code: int | None = None
        self._grace = grace
        self.name = f"inflame-{uuid.uuid4().hex[:12]}"
        self._runtime = having(image) if image else ""
        words, environment = (
            _contained(self._runtime, self.name, image, command, variables, mounts)
            if self._runtime
            else _plain(command, variables, mounts)
        )
        self._child = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=next(iter(mounts.values()), None),
        )
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._follow, args=(said,), daemon=True)
        self._reader.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code; None when it is still at work after so long."""
        return self.code if self._ended.wait(seconds) else None

    def stop(self, grace: float | None = None) -> None:
        """SIGTERM, to the first process alone, as providers do; SIGKILL to all after the grace. Returns at once."""
        threading.Thread(target=self._stop, args=(self._grace if grace is None else grace,), daemon=True).start()

    def kill(self) -> None:
        """Ends it without a word, as a power cut does: with all that it has started."""
        if self._runtime:
            subprocess.run([self._runtime, "kill", self.name], capture_output=True, check=False)
        for group in host.groups(self._child.pid) if self.code is None else ():
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _stop(self, grace: float) -> None:
        if self._runtime:
            subprocess.run(
                [self._runtime, "stop", "--time", str(int(grace)), self.name], capture_output=True, check=False
            )
            return
        with suppress(ProcessLookupError):
            os.kill(self._child.pid, signal.SIGTERM)
        if not self._ended.wait(grace):
            self.kill()

    def _follow(self, said: Callable[[str], None]) -> None:
        assert self._child.stdout is not None
        try:
            with self._child.stdout as lines:
                for line in lines:
                    said(line.decode(errors="replace").rstrip("\r\n"))
        finally:
            code = self._child.wait()
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # what it has left behind
            self.code = 128 - code if code < 0 else code
            self._ended.set()


class Fleet:
    """A control plane whose `jobs` have `machines`, and `stopped` where somebody has ended them."""

    STOPPED: Any = True
    jobs: dict[str, Any]

    def lose(self, name: str) -> None:
        """Ends the machines of a job without a word, as a power cut does."""
        for machine in self.jobs[name].machines:
            machine.kill()

    def forget(self, name: str) -> None:
        """Deletes a job behind everybody's back."""
        for machine in self.jobs.pop(name).machines:
            machine.kill()

    def close(self) -> None:
        """Ends all machines."""
        for job in self.jobs.values():
            job.stopped = job.stopped or self.STOPPED
            for machine in job.machines:
                machine.kill()
                machine.wait(10)


def passed() -> dict[str, str]:
    """What a machine has of our own environment."""
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_SERVICES)}


def cut(pids: Iterable[int]) -> None:
    """Ends processes, and all below them, without a word, as a power cut does."""
    for pid in {one for root in pids for one in host.tree(root)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def told(pid: int, *words: str) -> bool:
    """Whether a process began with all these in its environment, as `NAME=value` or the beginning of it."""
    try:
        given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has gone, or is somebody else's
        return False
    return all(any(one.startswith(word.encode()) for one in given) for word in words)


@lru_cache(maxsize=1)
def _containers() -> str:
    """`podman` or `docker`, whichever can run containers here; empty where none can."""
    for name in ("podman", "docker"):
        if shutil.which(name):
            with suppress(subprocess.TimeoutExpired):
                if subprocess.run([name, "info"], capture_output=True, timeout=10, check=False).returncode == 0:
                    return name
    return ""


def having(image: str) -> str:
    """What can run containers, where it has the image: gigabytes are not fetched for a trial."""
    name = _containers()
    asked = [name, "image", "inspect", image]
    return name if name and subprocess.run(asked, capture_output=True, check=False).returncode == 0 else ""


def where(image: str) -> str:
    """How machines of an image run here, as the end of a sentence: in containers, or as processes and why."""
    name = _containers()
    if having(image):
        return f"in containers of {image}, by {name}"
    if not name:
        return "as processes, because neither podman nor docker is at work here"
    return f"as processes, because {name} does not have {image or 'its image'} here"


def _plain(
    command: Sequence[str], variables: Mapping[str, str], mounts: Mapping[str, Path]
) -> tuple[list[str], dict[str, str]]:
    def here(text: str) -> str:
        for there, folder in mounts.items():
            text = text.replace(there, str(folder))
        return text

    return [here(word) for word in command], {**passed(), **{name: here(value) for name, value in variables.items()}}


def _contained(
    runtime: str,
    name: str,
    image: str,
    command: Sequence[str],
    variables: Mapping[str, str],
    mounts: Mapping[str, Path],
) -> tuple[list[str], dict[str, str]]:
    """Values of variables reach the container by the environment, where a list of processes doesn't show them. Its user
    is ours, whoever the image names: the mounted folders are ours, and what it leaves there must be ours to delete."""
    services = {key: value for key, value in os.environ.items() if key in _TOLD or key.startswith(_SERVICES)}
    words = [runtime, "run", "--rm", "--name", name, "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
    if runtime == "podman" and os.getuid():
        words += ["--userns", "keep-id"]  # without root its users are others than those outside
    outputs = os.environ.get(STAGE)
    for there, folder in {**mounts, **({outputs: Path(outputs)} if outputs else {})}.items():
        words += ["--volume", f"{folder}:{there}"]
    for key in (*services, *variables):
        words += ["--env", key]
    return [*words, "--entrypoint", command[0], image, *command[1:]], {**os.environ, **services, **variables}
