"""A sweep on a Ray cluster of two nodes, one of which dies: nothing is lost, nothing is run twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
TRAIN = """import hashlib, os, time
from pathlib import Path

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        for epoch in range(len(run.metrics()), h.num_epochs):
            time.sleep(0.5)
            run.metric(epoch=epoch + 1, seconds=run.seconds, val_accuracy=h.x * (epoch + 1) / h.num_epochs)
            run.flush()
        run.status(val={"accuracy": h.x, "low": h.x, "high": h.x, "n": 1})
    with (Path(os.environ["INFLAME_HOME"]) / "ended.log").open("a") as file:
        file.write(f"{os.environ['INFLAME_TRIAL']}\\n")
    return {"run": str(run.path)}
"""
CONFIG = '[hyperparam]\nx = 0.5\nnum_epochs = 5\n[io]\ntraining_input = "digits"\n'


@pytest.fixture
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def _half_way(home: Path) -> int:
    """How many trials are in the middle of their work, as one on each node is."""
    rows = [len(file.read_text().splitlines()) for file in (home / "runs").glob("*/metrics.jsonl")]
    return sum(2 <= count <= 3 for count in rows)


def test_a_node_dies_and_the_sweep_goes_on(cluster: Any, tmp_path: Path, home: Path) -> None:
    model = tmp_path / "steps"
    model.mkdir()
    for name, text in (("app.py", APP), ("train.py", TRAIN), ("model-config.toml", CONFIG)):
        (model / name).write_text(text)
    second = cluster.add_node(num_cpus=1)
    words = ["hyperparam.x=interval(0,1)", "--trials", "10", "--sampler", "random", "--no-stopping", "--workers", "2"]
    place = ["--on", "ray", "--address", cluster.address, "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "inflame", "sweep", str(model), *words, *place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    ) as driver:
        end = time.monotonic() + 90
        while _half_way(home) < 2:
            assert time.monotonic() < end
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        out, err = driver.communicate(timeout=150)
    told = json.loads(out)
    assert driver.returncode == 0, err
    assert [one["state"] for one in told["trials"]] == ["done"] * 10, told
    assert sorted(map(int, (home / "ended.log").read_text().split())) == list(range(10))
    assert any(one["attempt"] > 1 for one in told["trials"]), "the one on the node that died was begun again"
    sittings = [json.loads(file.read_text())["sittings"] for file in (home / "runs").glob("*/status.json")]
    assert max(sittings) > 1, "and went on where it was"
