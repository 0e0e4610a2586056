"""How many processes a machine is given, and how they end when they are told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inflame import host
from inflame.errors import UserError
from inflame.model.engine import many
from inflame.runs import Follows

MOST = 2 * host.cores()
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}

# The switchboard of a model in this process, which says at its end for how long it had others.
BOARD = """
import resource, sys
from pathlib import Path
from inflame.model.engine import switchboard
code = switchboard.main(Path(sys.argv[1]), sys.argv[2:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(("devices", "gpus"), [(1, 0), (2, 2), (MOST, 0)])
def test_what_the_machine_has_room_for(devices: int, gpus: int) -> None:
    many.require(devices, gpus)


@pytest.mark.parametrize(
    ("devices", "gpus", "has", "way"),
    [
        (3, 2, "devices=3: this machine has 2 GPUs", "Use devices=2, or more machines"),
        (2, 1, "devices=2: this machine has 1 GPU.", "Use devices=1, or more machines"),
        (MOST + 1, 0, f"devices={MOST + 1}: this machine has {host.cores()} core", "Leave devices out"),
    ],
)
def test_more_is_refused_by_the_first_process(
    monkeypatch: pytest.MonkeyPatch, devices: int, gpus: int, has: str, way: str
) -> None:
    with pytest.raises(UserError, match=has) as refused:
        many.require(devices, gpus)
    assert way in refused.value.remedy
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(Follows):
        many.require(devices, gpus)


def refused(model: str, *words: str, **given: str) -> str:
    """What a training says that is refused before it has started any process."""
    folder = Path(many.__file__).parents[1] / model
    done = subprocess.run(
        [sys.executable, "-c", BOARD, str(folder), "train", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **NO_GPU, **given},
    )
    assert done.returncode == 2, done.stderr
    *said, seconds = done.stderr.splitlines()
    assert float(seconds) == 0
    assert "Traceback" not in done.stderr
    return "\n".join(said)


@pytest.mark.parametrize("spelt", [("--gpu", str(MOST + 1)), (f"devices={MOST + 1}",)])
def test_a_training_on_more_than_there_is_ends_before_it_begins(spelt: tuple[str, ...]) -> None:
    assert f"{host.cores()} core" in refused("mnist", "io.training_input=digits", *spelt)


def test_the_gpus_that_it_may_use_are_counted() -> None:
    assert "this machine has 2 GPUs" in refused("mnist", "devices=3", CUDA_VISIBLE_DEVICES="0,1")


@pytest.mark.parametrize("model", ["auto", "news_text"])
def test_texts_are_refused_before_any_process_starts(model: str, tmp_path: Path) -> None:
    for name in ("hot/1.txt", "hot/2.txt", "cold/1.txt", "cold/2.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    said = refused(model, f"io.training_input={tmp_path}", "devices=2")
    assert "more than one device would do nothing" in said
    assert "Leave devices out" in said


def test_by_hand_they_are_refused_by_the_first_and_the_others_follow(tmp_path: Path) -> None:
    assert "Texts are counted" in refused("news_text", "devices=2", RANK="0", WORLD_SIZE="2", TORCHELASTIC_RUN_ID="x")


# --- signals -------------------------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from inflame.model.engine import switchboard
sys.exit(switchboard.main(Path(sys.argv[1]), ["devices=2", *sys.argv[2:]]))
"""
SLEEPS = """
import os, sys, time
from pathlib import Path
Path(sys.argv[0]).with_name(os.environ["RANK"]).touch()
time.sleep(60)
"""
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
TRAIN = """
def train(settings):
    return settings.devices
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose processes aren't up before they are ended: they have nothing to say."""
    (tmp_path / "app.py").write_text(SLEEPS)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "model-config.toml").touch()
    return tmp_path


def command(model: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", RUN, str(model), *words]


@pytest.mark.parametrize(
    ("number", "up"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGINT, True)],
)
def test_told_early_all_end_with_one_line(model: Path, number: signal.Signals, up: bool) -> None:
    child = subprocess.Popen(command(model, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not ((model / "0").exists() and (model / "1").exists() if up else len(host.tree(child.pid)) > 1):
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    born = {pid: host.born(pid) for pid in host.tree(child.pid)}
    child.send_signal(number)
    out, err = child.communicate()
    assert child.returncode == 128 + number, err
    assert err.splitlines()[0] == f"error: interrupted ({number.name})"
    assert len(err.splitlines()) == 2  # and what to do
    assert json.loads(out)["error"] == f"interrupted ({number.name})"
    assert not [pid for pid, birth in born.items() if host.lives(pid, birth)]


def test_what_nohup_ignores_ends_nobody(model: Path) -> None:
    child = subprocess.Popen(["nohup", *command(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (model / "1").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate()
    assert child.returncode == 143, err
    assert "SIGTERM" in err


@pytest.mark.slow
def test_processes_that_die_again_and_again_are_one_error(model: Path) -> None:
    (model / "app.py").write_text(DIES)
    done = subprocess.run(command(model), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "error: The 2 processes ended without a result, the last time with exit code 137." in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in subprocess.run(command(model, "--debug"), capture_output=True, text=True).stderr
