"""The journal of a sweep in a real PostgreSQL server: one sweep by drivers of two homes, as of two machines."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("initdb") is None or shutil.which("pg_ctl") is None or find_spec("psycopg") is None,
    reason="needs PostgreSQL (initdb, pg_ctl) and psycopg",
)
APP = """import sys
import tempfile
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
TRAIN = """import hashlib, time

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        time.sleep(h.wait)
        run.status(val={"accuracy": h.x, "low": h.x, "high": h.x, "n": 1})
    return {"run": str(run.path)}
"""
CONFIG = '[hyperparam]\nx = 0.5\nwait = 0.3\n[io]\ntraining_input = "digits"\n'


@pytest.fixture
def server() -> Iterator[str]:
    """A server of this test's own; PostgreSQL refuses to run as root, so then it runs as `postgres`."""
    place = Path(tempfile.mkdtemp(prefix="inflame-postgres-"))  # pytest's own folders are root's alone
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if who:
        shutil.chown(place, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    control = [*who, "pg_ctl", "-D", f"{place}/data"]
    subprocess.run([*who, "initdb", "-D", f"{place}/data", "-A", "trust", "-U", "inflame"], check=True, cwd="/")
    subprocess.run([*control, "-o", options, "-l", f"{place}/log", "-w", "start"], check=True, cwd="/")
    yield f"postgresql+psycopg://inflame@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd="/")
    shutil.rmtree(place)


@pytest.mark.timeout(180)
def test_two_drivers_share_a_sweep_by_postgresql(server: str, tmp_path: Path) -> None:
    model = tmp_path / "steps"
    model.mkdir()
    for name, text in (("app.py", APP), ("train.py", TRAIN), ("model-config.toml", CONFIG)):
        (model / name).write_text(text)
    words = ["hyperparam.x=range(0,12)", "--storage", server, "--workers", "1", "--json"]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "inflame", "sweep", str(model), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "INFLAME_HOME": str(tmp_path / f"machine {number}")},
        )
        for number in range(2)
    ]
    for driver in drivers:
        out, err = driver.communicate(timeout=40)
        assert driver.returncode == 0, err
        told = json.loads(out)["trials"]
    runs = [len(list((tmp_path / f"machine {number}" / "runs").iterdir())) for number in range(2)]
    assert sum(runs) == 12, "none is run twice"
    assert min(runs) >= 2, "both took part"
    tried = sorted(one["settings"]["hyperparam.x"] for one in told)
    assert tried == [float(value) for value in range(12)]


def test_no_server_is_said(tmp_path: Path) -> None:
    words = ["seed=1,2", "--storage", "postgresql+psycopg://inflame:secret@127.0.0.1:9/none", "--json"]
    done = subprocess.run([sys.executable, "-m", "inflame", "sweep", "mnist", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "can't be used" in json.loads(done.stdout)["error"]
    assert "secret" not in done.stdout + done.stderr
