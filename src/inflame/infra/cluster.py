"""Which machine of how many this is, as its platform says, and the command line of the training there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PORT = 29500


class Cluster(NamedTuple):
    """Which machine of how many this is, how the first one is called, and whose machine it is."""

    rank: int = 0
    machines: int = 1
    host: str = "127.0.0.1"
    port: int = PORT
    platform: str = "local"


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
