"""Which machine of how many this is, as each platform says it; and the words that begin the training there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame.infra.cluster import Cluster, training, where


def sagemaker(folder: Path, me: str, hosts: list[str]) -> dict[str, str]:
    file = folder / "input" / "config" / "resourceconfig.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"current_host": me, "hosts": hosts, "network_interface_name": "eth0"}))
    return {"SAGEMAKER_BASE_DIR": str(folder)}


def vertex(pool: str, index: int, second: int) -> dict[str, str]:
    cluster = {"workerpool0": ["cmle-training-workerpool0-1a-0:2222"]}
    if second:
        cluster["workerpool1"] = [f"cmle-training-workerpool1-1a-{number}:2222" for number in range(second)]
    task = {"type": pool, "index": index, "trial": "TRIAL_ID"}
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "environment": "cloud", "task": task})}


def test_sagemaker(tmp_path: Path) -> None:
    one = where(sagemaker(tmp_path, "algo-1", ["algo-1"]))
    assert one == Cluster(0, 1, "127.0.0.1", 29500, "sagemaker")
    hosts = [f"algo-{number}" for number in (10, 2, 1)]
    assert where(sagemaker(tmp_path, "algo-10", hosts)) == Cluster(2, 3, "algo-1", 29500, "sagemaker")


def test_vertex() -> None:
    first = "cmle-training-workerpool0-1a-0"
    assert where(vertex("workerpool0", 0, 0)) == Cluster(0, 1, first, 2222, "vertexai")
    assert where(vertex("workerpool1", 1, 2)) == Cluster(2, 3, first, 2222, "vertexai")


def test_azure() -> None:
    given = {"AZUREML_RUN_ID": "r", "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105", "NODE_RANK": "1"}
    assert where({**given, "WORLD_SIZE": "2", "RANK": "1"}, 2) == Cluster(1, 2, "10.0.0.4", 6105, "azureml")
    assert where({"AZUREML_RUN_ID": "r"}) == Cluster(0, 1, "127.0.0.1", 29500, "azureml")


@pytest.mark.parametrize(
    ("nodes", "first"), [("n[1-2]", "n1"), ("gpu-a[07,09-12],b3", "gpu-a07"), ("host", "host"), ("a,b", "a")]
)
def test_slurm(nodes: str, first: str) -> None:
    given = {"SLURM_JOB_ID": "42", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": nodes}
    assert where(given) == Cluster(1, 2, first, 29542, "slurm")


def test_kubernetes() -> None:
    given = {"JOB_COMPLETION_INDEX": "1", "MASTER_ADDR": "inflame-0.inflame", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert where(given, 2) == Cluster(1, 2, "inflame-0.inflame", 29500, "kubernetes")


def test_anywhere_else() -> None:
    assert where({}) == Cluster(0, 1, "127.0.0.1", 29500, "local")
    given = {"NODE_RANK": "1", "MASTER_ADDR": "other", "MASTER_PORT": "4000"}
    assert where(given, 2) == Cluster(1, 2, "other", 4000, "local")


def test_words_of_torchrun() -> None:
    assert training("py", "app.py", ["a=1"], Cluster()) == ["py", "app.py", "train", "a=1"]
    many = training("py", "app.py", ["a=1"], Cluster(1, 2, "first", 29500, "slurm"), 4)
    assert many[:3] == ["py", "-m", "torch.distributed.run"]
    said = dict(zip(many[3:13:2], many[4:13:2], strict=True))
    assert said == {
        "--nnodes": "2", "--node-rank": "1", "--nproc-per-node": "4",
        "--master-addr": "first", "--master-port": "29500",
    }  # fmt: skip
    assert many[13:] == ["app.py", "train", "a=1"]
    ray = training("py", "app.py", ["a=1"], Cluster(0, 3, "", 0, "ray"))
    assert ray == ["py", "-m", "inflame.infra.ray_train", "3", "app.py", "train", "a=1"]
