"""A sweep driven in this process, its trials in real ones: what is told of it, and what it makes of trials that fail,
hang, diverge or are of no hope."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inflame.cli.main import main
from inflame.factory import drive, trials
from inflame.runs import Run

APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
# A training that needs no data: its accuracy is what its settings say.
TRAIN = """import hashlib, math, time

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        if h.mood == "fails" and h.height > 0.5:
            raise RuntimeError("too high")
        for epoch in range(len(run.metrics()), h.num_epochs):
            time.sleep({"hangs": 3600, "diverges": 0.1, "slow": 0.15}.get(h.mood, 0.02))
            reached = h.height * (epoch + 1) / h.num_epochs + 0.001 * settings.seed - 0.3 * (not h.weight_decay)
            run.metric(epoch=epoch + 1, seconds=run.seconds, val_accuracy=math.nan if h.mood == "diverges" else reached)
            run.flush()
        last = 0 * h.idle + h.height + 0.001 * settings.seed - 0.3 * (not h.weight_decay)
        run.status(val={"accuracy": last, "low": last, "high": last, "n": 100}, latency_ms=10 * h.height)
    return {"run": str(run.path), "prediction": {"label": "1", "probability": last}}
"""
CONFIG = """[hyperparam]
height = 0.5
weight_decay = 0.1
idle = 0.1
num_epochs = 3
mood = "fine"
[io]
training_input = "digits"
"""

Tells = Callable[..., tuple[str, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "heights"
    folder.mkdir()
    for name, text in (("app.py", APP), ("train.py", TRAIN), ("model-config.toml", CONFIG)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def tells(model: Path, capfd: pytest.CaptureFixture[str]) -> Tells:
    """Stdout and stderr of a verb about the model."""

    def call(verb: str, *words: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        ended = main([verb, str(model), *words])
        out, err = capfd.readouterr()
        assert ended == code, out + err
        return out, err

    return call


def test_a_grid_is_a_table_with_the_best_first_and_what_to_type_next(tells: Tells) -> None:
    out, err = tells("sweep", "hyperparam.height=0.2,0.8,0.5", "--workers", "2")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:4] == ["trial", "height", "val.accuracy", "for"]
    assert [row[:3] for row in rows[1:]] == [["1", "0.8", "0.8000"], ["2", "0.5", "0.5000"], ["0", "0.2", "0.2000"]]
    assert "3 done" in err
    assert "best     #1 of 3 tried: hyperparam.height=0.8" in err
    name = re.search(r"inflame why (\S+)", err)
    assert name is not None
    made = trials.find(name[1])
    assert made.state == "done"


def test_seeds_are_not_chosen_among(tells: Tells) -> None:
    _, err = tells("sweep", "seed=range(0,3)", "--workers", "2")
    assert "mean     val.accuracy 0.5010, standard deviation 0.0010, 3 seeds" in err
    assert "\nbest" not in err


def test_what_is_noted_last_is_that_it_is_done(tells: Tells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "_NOTE", 0.0)  # that it is running is noted each time something is told
    told = json.loads(tells("sweep", "hyperparam.height=0.2,0.8", "--json")[0])
    assert trials.find(told["sweep"]).state == "done"


def test_two_objectives_end_in_a_front(tells: Tells) -> None:
    _, err = tells("sweep", "hyperparam.height=0.2,0.8", "--objective", "val.accuracy,seconds", "--trials", "2")
    assert re.search(r"front    #\d", err)


def test_the_same_command_reuses_what_was_run(tells: Tells) -> None:
    first = json.loads(tells("sweep", "hyperparam.height=0.2,0.8", "--json")[0])
    again = json.loads(tells("sweep", "hyperparam.height=0.2,0.8,0.4", "--json")[0])
    assert [one["reason"][:3] for one in again["trials"]] == ["is ", "is ", ""]
    assert {one["run"] for one in first["trials"]} < {one["run"] for one in again["trials"]}


def test_one_that_fails_is_told_with_its_reason(tells: Tells) -> None:
    told = json.loads(tells("sweep", "hyperparam.height=0.2,0.9", "hyperparam.mood=fails", "--json")[0])
    assert [one["state"] for one in told["trials"]] == ["done", "failed"]
    assert "too high" in told["trials"][1]["reason"]
    assert told["best"][0]["number"] == 0


def test_where_all_fail_the_sweep_gives_up_with_a_command_to_try(tells: Tells) -> None:
    words = ["hyperparam.height=range(0.6,0.9,0.01)", "hyperparam.mood=fails", "--workers", "1"]
    _, err = tells("sweep", *words, code=1)
    assert "The first 3 trials all failed" in err
    assert "inflame train heights" in err


def test_one_that_says_nothing_is_ended(tells: Tells) -> None:
    told = json.loads(tells("sweep", "hyperparam.mood=hangs,fine", "--hang", "3s", "--json")[0])
    assert [one["state"] for one in told["trials"]] == ["failed", "done"]
    assert told["trials"][0]["reason"].startswith("hung: nothing new for ")


@pytest.mark.parametrize("more", [["--stopping"], []], ids=["competing", "a table"])
def test_one_that_diverges_is_stopped(tells: Tells, more: list[str]) -> None:
    words = ["hyperparam.mood=diverges,fine", "hyperparam.num_epochs=60", *more]
    told = json.loads(tells("sweep", *words, "--json")[0])
    assert told["trials"][0]["state"] == "stopped"
    assert "diverged" in told["trials"][0]["reason"]


def test_epochs_compete_and_few_come_to_the_end(tells: Tells) -> None:
    words = ["hyperparam.height=interval(0,1)", "hyperparam.num_epochs=9", "--trials", "7", "--workers", "2"]
    words += ["hyperparam.mood=slow"]  # or all have come to the end before a busy machine has looked
    told = json.loads(tells("sweep", *words, "--sampler", "random", "--json")[0])
    states = [one["state"] for one in told["trials"]]
    assert len(states) == 7
    assert 1 <= states.count("done") < 7
    best = max(told["trials"], key=lambda one: one["settings"]["hyperparam.height"])
    assert told["best"][0]["number"] == best["number"]


def test_what_is_not_a_sweep_is_refused_before_anything_starts(tells: Tells, tmp_path: Path) -> None:
    for words, said in [
        (["hyperparam.height=0.3"], "nothing to vary"),
        (["hyperparam.heigth=0.3,0.4"], "height"),
        (["seed=0,1", "--in", "1s"], "--in"),
        (["seed=0,1", "--max-money", "3"], "price of an hour"),
        (["seed=0,1", "--max-money", "-3"], "more than 0"),
        (["seed=0,1", "photos/", "birds/"], "one thing to train"),
        (["--space", "nowhere"], "no space"),
        (["seed=0,1", "--workers", "-1"], "--workers"),
        (["seed=0,1", "--trials", "0"], "--trials"),
    ]:
        assert said in tells("sweep", *words, code=2)[1]
    assert not list((Path(os.environ["INFLAME_HOME"]) / "runs").glob("*"))


def test_parts_that_earn_their_place_are_told_from_those_that_do_nothing(tells: Tells) -> None:
    words = ["--seeds", "3", "--off", "hyperparam.idle=0.0", "--workers", "2"]
    told = json.loads(tells("ablate", *words, "--json")[0])
    found = {part["key"]: part for part in told["parts"]}
    assert found["hyperparam.weight_decay"]["verdict"] == "earns its place"
    assert found["hyperparam.weight_decay"]["gain"] == pytest.approx(0.3)
    assert found["hyperparam.idle"]["verdict"] == "does nothing"
    out, err = tells("ablate", *words)  # nothing is run again
    assert "hyperparam.weight_decay" in out
    assert "+0.3000" in out
    assert "whole    val.accuracy 0.5010, mean of 3 seeds" in err


def test_an_ablation_needs_parts_seeds_and_time(tells: Tells) -> None:
    for words, said in [
        (["--seeds", "1"], "--seeds 5"),
        (["hyperparam.height=0.1,0.2"], "has several values"),
        (["hyperparam.weight_decay=0.1"], "no part that can be switched off"),
        (["--in", "5s", "hyperparam.num_epochs=0"], "or fewer --seeds"),
    ]:
        assert said in tells("ablate", *words, code=2)[1]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tells: Tells, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inflame.factory import drive

    told = drive.Driver._tell

    def interrupted(self: Any, **how: Any) -> None:
        told(self, **how)
        if any(trial.state == "done" for trial in self.journal.trials.values()):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drive.Driver, "_tell", interrupted)
        tells("sweep", "hyperparam.height=0.2,0.8,0.5", "--workers", "1", code=130)
    out = json.loads(tells("sweep", "hyperparam.height=0.2,0.8,0.5", "--workers", "1", "--json")[0])
    assert [one["state"] for one in out["trials"]] == ["done"] * 3
    assert all(
        Run(path=Path(os.environ["INFLAME_HOME"]) / "runs" / one["run"]).state == "done" for one in out["trials"]
    )
