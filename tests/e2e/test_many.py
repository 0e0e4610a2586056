"""Several processes for one training, as a user starts them: what one does, a worker killed, another number of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import inflame
from inflame import host
from inflame.model.engine import checkpoint
from inflame.model.engine.bundle import Predictor

pytest.importorskip("lightning.fabric")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


Begun = Callable[..., subprocess.Popen[str]]
Same = Callable[[Path, Path], None]
Worker = Callable[[int], int | None]

INFLAME = [sys.executable, "-m", "inflame"]


def training(*words: str) -> list[str]:
    return [*INFLAME, "train", "mnist", "io.training_input=digits", *words]


def finished(*words: str) -> dict[str, Any]:
    return ended(*training(*words))[0]


def ended(*command: str, home: Path | None = None) -> tuple[dict[str, Any], str]:
    """What a command that must succeed says, in JSON and on stderr. home: where that isn't the test's."""
    given = os.environ | ({} if home is None else {"INFLAME_HOME": str(home)})
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, env=given)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # one process talks
    found: dict[str, Any] = json.loads(line)
    return found, done.stderr


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_do_what_one_does() -> None:
    one, two = finished("hyperparam.num_epochs=2", "fresh=true"), finished("hyperparam.num_epochs=2", "devices=2")
    for mine, theirs in zip(rows(one), rows(two), strict=True):
        assert theirs["step"] == mine["step"]
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=0.1)  # batch norm sees half of each batch
    assert two["val"]["n"] == one["val"]["n"]  # nobody is counted twice
    assert abs(two["val"]["accuracy"] - one["val"]["accuracy"]) < 0.05


@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_worker_is_killed_all_go_on_from_the_last_checkpoint(
    begun: Begun, home: Path, worker: Worker, rank: int
) -> None:
    child = begun(training("hyperparam.num_epochs=40", "devices=2"), home)
    victim = worker(rank)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert "going on where it stopped" in err
    assert "resume" in err
    assert json.loads(out.splitlines()[-1])["label"]
    (run,) = home.glob("runs/*")
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 41))  # none is missing, none twice


# A net without batch norm, and as many items as neither fill the last batch nor give each process one of it.
UNEVEN = ["limit=401", "hyperparam.shuffle=false", "hyperparam.batch_size=23"]
# Of each process other numbers: those that its dropout draws. Checkpoints three times a second.
LONG = ["limit=401", "hyperparam.dropout=0.3", "hyperparam.ema=0.9", "hyperparam.batch_size=9"]
LONG += ["hyperparam.num_epochs=5", "hyperparam.every=0.3", "hyperparam.slow=0.02"]


@pytest.fixture(scope="module")
def one(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("one")
    return ended(*INFLAME, "train", str(plain), *UNEVEN, f"output={folder / 'run'}", home=folder)[0]


@pytest.fixture(scope="module")
def undisturbed(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long training on two devices that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended(*INFLAME, "train", str(plain), *LONG, "devices=2", f"output={folder / 'run'}", home=folder)
    return folder / "run"


def assert_same_up_to_rounding(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Every number of every epoch, the score, how many items gave it, and all weights."""
    assert mine["val"]["n"] == theirs["val"]["n"]
    for name in ("loss", "accuracy"):
        assert mine["val"][name] == pytest.approx(theirs["val"][name], rel=1e-5)
    for row, other in zip(rows(mine), rows(theirs), strict=True):
        for name in ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "lr"):
            assert row[name] == pytest.approx(other[name], rel=1e-5), name
    weights, others = (checkpoint.load(Path(result["run"]) / "last") for result in (mine, theirs))
    assert weights is not None
    assert others is not None
    for name, weight in weights["net"].items():
        assert torch.allclose(weight, others["net"][name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(("devices", "strategy"), [(2, "ddp"), (3, "ddp"), (4, "ddp"), (2, "fsdp"), (3, "fsdp")])
def test_any_number_of_processes_gives_the_numbers_of_one(
    plain: Path, one: dict[str, Any], tmp_path: Path, devices: int, strategy: str
) -> None:
    assert 0 < one["train"] % 23 < devices  # in the last batch some processes have nothing
    words = [*UNEVEN, f"devices={devices}", f"strategy={strategy}", f"output={tmp_path / 'run'}"]
    found, _ = ended(*INFLAME, "train", str(plain), *words)
    assert found["what"].startswith(f"{devices} x cpu")
    assert ("spread over them" in found["what"]) == (strategy == "fsdp")
    assert_same_up_to_rounding(found, one)


def test_stopped_on_two_it_goes_on_on_one_and_on_four_and_says_so(begun: Begun, plain: Path, tmp_path: Path) -> None:
    words = [*INFLAME, "train", str(plain), *UNEVEN, "hyperparam.every=0.3", "hyperparam.slow=0.05"]
    whole, _ = ended(*words, f"output={tmp_path / 'whole'}")
    child = begun([*words, "devices=2", f"output={tmp_path / '1'}"], tmp_path)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate()
    assert child.returncode == 143, err
    assert "interrupted" in err
    assert "Traceback" not in err
    state = checkpoint.load(tmp_path / "1" / "last")
    assert state is not None
    assert 0 < state["at"]["step"] < rows(whole)[-1]["step"]
    shutil.copytree(tmp_path / "1", tmp_path / "4")
    for devices in (1, 4):
        found, said = ended(*words, f"devices={devices}", f"output={tmp_path / str(devices)}")
        assert f"begun on 2 devices, going on with {devices}" in said
        assert f"resume   from epoch {state['at']['epoch'] + 1}, step {state['at']['step']}" in said
        assert_same_up_to_rounding(found, whole)


def kill(who: str, child: subprocess.Popen[str], worker: Worker) -> None:
    """Ends a training on two devices in one of the ways in which it may happen."""
    if who == "all":
        for pid in reversed(host.tree(child.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    elif who == "the one that was started":
        child.kill()
    elif who == "Ctrl-C":  # which a terminal sends to all that is in the foreground
        os.killpg(child.pid, signal.SIGINT)
    elif who == "told":
        child.terminate()
    else:  # the machine of one process is to be taken away
        victim = worker(1)
        assert victim is not None
        os.kill(victim, signal.SIGTERM)


@pytest.mark.parametrize(
    ("who", "code"),
    [("all", -9), ("the one that was started", -9), ("told", 143), ("one is told", 143), ("Ctrl-C", 130)],
)
def test_two_processes_that_are_stopped_or_killed_end_with_the_same_bits(
    begun: Begun, same_end: Same, undisturbed: Path, plain: Path, tmp_path: Path, worker: Worker, who: str, code: int
) -> None:
    words = [*INFLAME, "train", str(plain), *LONG, "devices=2", f"output={tmp_path / 'run'}"]
    child = begun(words, tmp_path)
    time.sleep(random.Random(who).uniform(0.0, 0.4))
    kill(who, child, worker)
    _, err = child.communicate()
    assert child.returncode == code, err
    assert "Traceback" not in err
    while worker(0) or worker(1):  # nobody is left alone with the run
        time.sleep(0.05)
    state = json.loads((tmp_path / "run" / "status.json").read_text())["state"]
    assert state == ("running" if who == "all" else "interrupted"), err
    assert "resume" in ended(*words)[1]
    same_end(tmp_path / "run", undisturbed)


def test_when_a_worker_is_killed_the_bits_in_the_end_are_the_same(
    begun: Begun, same_end: Same, undisturbed: Path, plain: Path, tmp_path: Path, worker: Worker
) -> None:
    child = begun([*INFLAME, "train", str(plain), *LONG, "devices=2", f"output={tmp_path / 'run'}"], tmp_path)
    victim = worker(1)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert "resume" in err
    same_end(tmp_path / "run", undisturbed)


def test_a_users_mistake_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "inflame", "train", "mnist", f"io.training_input={tmp_path}", "devices=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert time.monotonic() - began < 100


@pytest.mark.parametrize("model", ["auto", "news_text"])
def test_texts_that_need_no_company_are_refused_before_one_is_read(model: str, tmp_path: Path, home: Path) -> None:
    for name in ("hot/1.txt", "hot/2.txt", "cold/1.txt", "cold/2.txt"):
        (tmp_path / "letters" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "letters" / name).write_text(name)
    words = ["train", model, f"io.training_input={tmp_path / 'letters'}", "devices=2"]
    done = subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "more than one device would do nothing" in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (home / "cache" / "index").exists()  # where is kept what was read


def sound(result: dict[str, Any], home: Path) -> dict[str, Any]:
    """The status of the one run folder that came out of two processes."""
    assert [entry.name for entry in (home / "runs").iterdir() if entry.is_dir()] == [Path(result["run"]).name]
    status: dict[str, Any] = json.loads((Path(result["run"]) / "status.json").read_text())
    assert (status["state"], status["devices"], status["sittings"]) == ("done", 2, 1)
    assert not list(Path(result["run"]).rglob(".tmp-*"))
    Predictor(Path(result["run"]) / "bundle")
    return status


def test_auto_takes_small_pictures_to_two_processes(home: Path) -> None:
    found, said = ended(*INFLAME, "train", "digits", "hyperparam.num_epochs=2", "devices=2")
    status = sound(found, home)
    assert [rung["name"] for rung in status["ladder"]] == ["majority", "linear", "small net"]
    assert [row["epoch"] for row in rows(found)] == [1, 2]  # one process writes
    assert found["test"]["accuracy"] > 0.9
    assert said.count("rung     small net") == said.count("test     accuracy") == 1
    assert "2 x cpu" in said


def test_auto_tunes_the_whole_network_on_two_processes(home: Path, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "resnet10t.untrained.safetensors"
    net = timm.create_model("resnet10t", num_classes=7)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, file)
    found, said = ended(*INFLAME, "train", str(photos), "hyperparam.num_epochs=2", f"weights={file}", "devices=2")
    status = sound(found, home)
    assert [rung["name"] for rung in status["ladder"]][:2] == ["majority", "probe"]
    assert "whole" in [rung["name"] for rung in status["ladder"]]
    stages = [row["stage"] for row in rows(found)]
    assert stages.count("last-whole") == 2
    assert len(stages) == len({(row["stage"], row["epoch"]) for row in rows(found)})
    assert found["val"]["accuracy"] > 0.6
    assert said.count("rung     whole") == 1


@pytest.mark.parametrize("recipe", [[], ["news_text"]], ids=["auto", "news_text"])
def test_texts_on_two_processes_are_refused_with_what_works(home: Path, tmp_path: Path, recipe: list[str]) -> None:
    for name, word in (("money", "bank"), ("sport", "goal")):
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "letters" / name / f"{number}.txt").write_text(f"{word} of the day {number}")
    data = f"io.training_input={tmp_path / 'letters'}" if recipe else str(tmp_path / "letters")
    done = subprocess.run([*INFLAME, "train", *recipe, data, "devices=2"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1
    assert "devices=2" in done.stderr
    assert "Leave devices out" in done.stderr
    assert not list(home.glob("runs/*/bundle"))


def test_two_machines_by_torchrun_are_one_training(home: Path) -> None:
    app = Path(inflame.__file__).parent / "model" / "mnist" / "app.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = ["io.training_input=digits", "hyperparam.num_epochs=2", f"output={home / 'run'}", "--json"]
    each = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *each, str(app), "train", *told],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ended = [child.communicate() for child in started]
    assert [child.returncode for child in started] == [0, 0], [err for _, err in ended]
    lines = [line for out, _ in ended for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 1  # one process talks
    assert json.loads(lines[0])["val"]["accuracy"] > 0.8
    assert json.loads((home / "run" / "status.json").read_text())["devices"] == 2
