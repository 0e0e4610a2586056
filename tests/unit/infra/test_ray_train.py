"""One training on a Ray cluster of two nodes: what one process does, a worker killed, a node lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import inflame
from inflame.errors import UserError
from inflame.infra import ray_train

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

APP = Path(inflame.__file__).parent / "model" / "mnist" / "app.py"


@pytest.fixture
def cluster(home: Path) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def train(home: Path, *words: str, **how: Any) -> ray_train.Ended:
    pytest.importorskip("lightning.fabric")
    where = ray_train.Cluster(environment={"INFLAME_HOME": str(home)})
    told = ["train", "io.training_input=digits", f"output={home / 'run'}", "--json", *words]
    return ray_train.train(APP, told, 2, where, **how)


def rows(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]


def when_saved(home: Path, act: Any) -> threading.Thread:
    """Acts once, when there is a checkpoint."""

    def wait() -> None:
        for _ in range(1200):
            time.sleep(0.1)
            if (home / "run" / "last" / "checkpoint.safetensors").exists():
                act()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_two_nodes_do_a_training(cluster: Any, home: Path) -> None:
    ended = train(home, "hyperparam.num_epochs=2")
    assert (ended.code, ended.attempts, ended.workers) == (0, 1, 2)
    assert json.loads(ended.line)["val"]["accuracy"] > 0.8
    assert json.loads((home / "run" / "status.json").read_text())["devices"] == 2


def test_when_a_worker_is_killed_all_go_on_from_the_last_checkpoint(
    cluster: Any, home: Path, worker: Callable[[int], int | None]
) -> None:
    def kill() -> None:
        victim = worker(1)
        assert victim is not None  # 0 would be all of us
        os.kill(victim, signal.SIGKILL)

    thread = when_saved(home, kill)
    told: list[str] = []
    ended = train(home, "hyperparam.num_epochs=40", say=told.append)
    thread.join()
    assert (ended.code, ended.attempts, ended.workers) == (0, 2, 2)
    assert "1 of 3" in told[0]
    assert [row["epoch"] for row in rows(home)] == list(range(1, 41))  # none is missing, none twice


def test_when_a_node_is_lost_the_rest_goes_on(cluster: Any, home: Path) -> None:
    thread = when_saved(home, lambda: cluster.remove_node(cluster.second, allow_graceful=False))
    ended = train(home, "hyperparam.num_epochs=40", patience=3.0)
    thread.join()
    assert (ended.code, ended.attempts, ended.workers) == (0, 2, 1)
    assert [row["epoch"] for row in rows(home)] == list(range(1, 41))


def test_mistakes_are_told_and_not_tried_again(cluster: Any, home: Path) -> None:
    assert train(home, "hyperparam.num_epochs=none").code == 2
    with pytest.raises(UserError, match="no room"):
        ray_train.train(APP, [], 9, ray_train.Cluster(), patience=0.1)
