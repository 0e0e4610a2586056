"""One training on many machines of a Ray cluster, as torchrun would start it: a process for each worker, all of them
started again from the last checkpoint when one is lost, on fewer machines where the lost one stays away.

    python -m inflame.infra.ray_train 4 path/of/app.py train … output=/shared/run

Every node must see the program, the data and the run folder (`output=`, shared or a bucket) under the same names. Of
the training it knows the command and the exit codes: 0 done, 1 failed, 2 wrong input; all others are lost processes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflame import plugins
from inflame.errors import InflameError, RunError, UserError
from inflame.infra.command import VARIABLE

CPUS, GPUS = "INFLAME_RAY_CPUS", "INFLAME_RAY_GPUS"  # what each worker reserves
RESTARTS = 3
PATIENCE = 30.0  # seconds to wait for as many workers as before, after one was lost
FINAL = (0, 1, 2)  # exit codes with which a training has ended by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the training went. line: the last of rank 0 on stdout; attempts: starts it took; workers: in the last one."""

    code: int
    line: str
    attempts: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where to train. address: `auto` is the cluster that this machine is part of. cpus, gpus: of each worker."""

    address: str = "auto"
    cpus: int = 1
    gpus: int = 0
    environment: dict[str, str] = field(default_factory=dict)  # for the workers


def train(
    program: Path,
    words: Sequence[str],
    workers: int,
    cluster: Cluster | None = None,
    *,
    restarts: int = RESTARTS,
    patience: float = PATIENCE,
    say: Callable[[str], None] = lambda _: None,
) -> Ended:
    """Runs `python program words` as `workers` processes of the cluster, spread over its machines, until it has ended.

    Raises UserError where the cluster has no room for one worker, RunError when it was lost more than `restarts` times,
    MissingExtra without Ray.
    """
    ray: Any = plugins.need("ray", "ray", "Training on a Ray cluster")
    cluster = cluster or Cluster()
    if not ray.is_initialized():
        found = {name: value for name, value in cluster.environment.items() if name == "PYTHONPATH"}
        ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": found} if found else None)
    wanted = workers
    for attempt in range(restarts + 1):
        group, wanted = _room(
            ray, cluster, wanted, patience if attempt else 10 * patience, least=1 if attempt else wanted
        )
        try:
            ended = _attempt(ray, cluster, group, wanted, [str(program), *words, f"devices={wanted}"])
        finally:
            ray.util.remove_placement_group(group)
        if ended is not None:
            return Ended(code=ended[0], line=ended[1], attempts=attempt + 1, workers=wanted)
        say(f"a worker was lost: all start again from the last checkpoint ({attempt + 1} of {restarts})")
    raise RunError(
        f"Workers were lost {restarts + 1} times.",
        where=cluster.address,
        remedy="Look at what the nodes say; the same command goes on from the last checkpoint.",
    )


def _room(ray: Any, cluster: Cluster, wanted: int, patience: float, *, least: int) -> tuple[Any, int]:
    """A place for each of `wanted` workers, or of as many as there are, `least` at least."""
    each: dict[str, float] = {"CPU": cluster.cpus, **({"GPU": cluster.gpus} if cluster.gpus else {})}
    for count in range(wanted, least - 1, -1):
        group = ray.util.placement_group([each] * count, strategy="SPREAD")
        if group.wait(patience if count == wanted else 1.0):
            return group, count
        ray.util.remove_placement_group(group)
    there = ray.cluster_resources()
    raise UserError(
        f"The cluster has no room for {least} x {each}: it has {there.get('CPU', 0):.0f} CPUs and "
        f"{there.get('GPU', 0):.0f} GPUs in all.",
        where=cluster.address,
        remedy="Ask for fewer, or add machines: ray start --address=HEAD:6379",
    )


def _attempt(ray: Any, cluster: Cluster, group: Any, count: int, command: list[str]) -> tuple[int, str] | None:
    """The exit code and last line of the training; None when a worker was lost. All of them are gone afterwards."""
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    actors = []
    for rank in range(count):
        place = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=rank)
        how = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "scheduling_strategy": place, "max_concurrency": 2}
        actors.append(ray.remote(_Worker).options(**how).remote())
    try:
        address, port = ray.get(actors[0].address.remote())
        common = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(count), **cluster.environment}
        waiting = {actor.run.remote(command, common, rank): rank for rank, actor in enumerate(actors)}
        lines = [""] * count
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            rank = waiting.pop(done)
            code, lines[rank] = ray.get(done)
            if code not in FINAL:
                return None
            if code or rank == 0:  # rank 0 ends when the training has; the others end by themselves
                return code, lines[rank]
    except RayError:  # a node or worker of Ray is gone
        return None
    finally:
        _stop(ray, actors)
    return 0, lines[0]


def _stop(ray: Any, actors: Sequence[Any]) -> None:
    from ray.exceptions import RayError

    for task in [actor.stop.remote() for actor in actors]:
        try:
            ray.get(task, timeout=10)
        except RayError:
            continue
    for actor in actors:
        ray.kill(actor)


class _Worker:
    """One process of the training, on a node of the cluster."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def address(self) -> tuple[str, int]:
        """Where the others find this node, and a port that is free there."""
        from ray.util import get_node_ip_address

        with socket.socket() as free:
            free.bind(("", 0))
            here: str = get_node_ip_address()  # type: ignore[no-untyped-call]
            return here, free.getsockname()[1]

    def run(self, command: list[str], common: dict[str, str], rank: int) -> tuple[int, str]:
        """Runs the command until it ends: the exit code (137 when it was killed) and its last line."""
        # Ray gives each worker its own GPU as number 0: it is the only one of its machine, as far as it can see.
        mine = {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank)}
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        environment = {**os.environ, **threads, **mine, "TORCHELASTIC_RUN_ID": "ray", **common}
        with tempfile.TemporaryFile("w+") as out:
            self._child = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, text=True)
            code = self._child.wait()
            out.seek(0)
            lines = out.read().splitlines()
        return (128 - code if code < 0 else code), (lines[-1] if lines else "")

    def stop(self) -> None:
        """Ends the process: SIGTERM, so that it saves, then SIGKILL."""
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.send_signal(signal.SIGTERM)
        until = time.monotonic() + 5
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        child.kill()


def main(words: Sequence[str]) -> int:
    """`WORKERS app.py train …`, on the cluster that this machine is part of."""
    if len(words) < 2 or not words[0].isdigit() or not Path(words[1]).is_file():
        raise UserError(
            f"Not understood: {' '.join(words)}",
            remedy="python -m inflame.infra.ray_train WORKERS path/of/app.py train … output=…",
        )
    ended = train(Path(words[1]).absolute(), words[2:], int(words[0]), _asked(os.environ), say=_say)
    sys.stdout.write(f"{ended.line}\n")
    return ended.code


def _asked(given: Mapping[str, str]) -> Cluster:
    """What each worker reserves, and what it is told besides: where inflame is, and all of inflame's own."""
    passed = {name: value for name, value in given.items() if name.startswith("INFLAME_") and name != VARIABLE}
    if "PYTHONPATH" in given:
        passed["PYTHONPATH"] = given["PYTHONPATH"]
    return Cluster(cpus=int(given.get(CPUS, "1")), gpus=int(given.get(GPUS, "0")), environment=passed)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InflameError as error:
        _say(error.explain())
        sys.exit(error.code)
