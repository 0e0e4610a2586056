"""Several processes for one training, as a user starts them: what one does, a worker killed, another number of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import inflame
from inflame.model.engine.bundle import Predictor

pytest.importorskip("lightning.fabric")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


INFLAME = [sys.executable, "-m", "inflame"]


def training(*words: str) -> list[str]:
    return [*INFLAME, "train", "mnist", "io.training_input=digits", *words]


def finished(*words: str) -> dict[str, Any]:
    return ended(*training(*words))[0]


def ended(*command: str) -> tuple[dict[str, Any], str]:
    """What a command that must succeed says, in JSON and on stderr."""
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
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
    home: Path, worker: Callable[[int], int | None], rank: int
) -> None:
    with subprocess.Popen(
        training("hyperparam.num_epochs=40", "devices=2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        for _ in range(600):
            time.sleep(0.1)
            victim = worker(rank)
            if victim is not None and list(home.glob("runs/*/last/checkpoint.safetensors")):
                break
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


def test_stopped_on_two_it_goes_on_on_one_and_says_so(home: Path) -> None:
    with subprocess.Popen(
        training("hyperparam.num_epochs=40", "devices=2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        for _ in range(600):
            time.sleep(0.1)
            if list(home.glob("runs/*/last/checkpoint.safetensors")):
                break
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate()
    assert child.returncode == 143, err
    assert "interrupted" in err
    done = subprocess.run(training("hyperparam.num_epochs=40"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "begun on 2 devices" in done.stderr
    assert "resume" in done.stderr


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
