"""Sweeps by their command: spaces, rungs, and everything that may die, hang or go wrong on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from inflame.factory import trials as known
from inflame.infra.pools.warm import Warm
from inflame.runs import Run

APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
# A linear model of the digits of scikit-learn. It goes on where it was killed, and notes each end in a file.
TRAIN = """import hashlib, math, os, time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from inflame.runs import Run


def train(settings):
    h = settings.hyperparam
    identity = hashlib.sha256(settings.identity().encode()).hexdigest()
    with Run.begin(settings, identity, settings.io.training_input) as run:
        done = len(run.metrics())
        run.write("dataset.json", {"classes": [str(digit) for digit in range(10)]})
        x, y = load_digits(return_X_y=True)
        x = x / 16
        order = np.random.default_rng(settings.seed).permutation(len(x))
        fit, val = order[:1000], order[1000:1400]
        if h.mood == "raises" or (h.mood == "some raise" and h.strength > 10):
            raise RuntimeError("the dog ate it")
        if h.mood == "wants too much":
            np.ones(2**50)
        if h.mood == "takes too much":
            np.ones(2**29)  # 4 GiB
        for epoch in range(h.num_epochs):
            rows = fit[: 1000 * (epoch + 1) // h.num_epochs]
            a, b = x[rows], np.eye(10)[y[rows]]
            weights = np.linalg.solve(a.T @ a + h.strength * np.eye(64), a.T @ b)
            right = float(((x[val] @ weights).argmax(1) == y[val]).mean())
            if h.mood == "by chance":
                right = 0.1
            if h.mood == "diverges":
                right = math.nan
            if epoch >= done:
                time.sleep(3600 if h.mood == "hangs" else h.wait)
                run.metric(epoch=epoch + 1, seconds=run.seconds, val_accuracy=right)
                run.flush()
        run.status(val={"accuracy": right, "low": right, "high": right, "n": len(val)})
    with (Path(os.environ["INFLAME_HOME"]) / "ended.log").open("a") as file:
        file.write(f"{os.environ.get('INFLAME_TRIAL')}\\n")
    return {"run": str(run.path), "prediction": {"label": "1", "probability": right}}
"""
CONFIG = """[hyperparam]
strength = 1.0
weight_decay = 0.1
num_epochs = 4
wait = 0.02
mood = "fine"
[io]
training_input = "digits"
"""
SPACE = "hyperparam.strength=range(1e-3,1e6,log)"
RANDOM = ("--sampler", "random", "--no-stopping", "--workers", "2")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "linear"
    folder.mkdir()
    train = TRAIN.replace("h.strength * np.eye(64)", "(h.strength + h.weight_decay) * np.eye(64)")
    for name, text in (("app.py", APP), ("train.py", train), ("model-config.toml", CONFIG)):
        (folder / name).write_text(text)
    return folder


def sweep(model: Path, *words: str, verb: str = "sweep") -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and stderr of the command."""
    done = subprocess.run(command(model, *words, verb=verb), capture_output=True, text=True, timeout=100)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def command(model: Path, *words: str, verb: str = "sweep") -> list[str]:
    return [sys.executable, "-m", "inflame", verb, str(model), *words, "--json"]


def ended(home: Path) -> list[str]:
    path = home / "ended.log"
    return path.read_text().split() if path.is_file() else []


def table(told: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one["number"], one["settings"], one["state"], one["values"]) for one in told["trials"]]


def test_a_grid_is_filled_and_each_trial_is_a_run(model: Path, home: Path) -> None:
    code, told, err = sweep(model, "hyperparam.strength=0.1,10", "seed=range(0,2)")
    assert code == 0, err
    assert [one["settings"] for one in told["trials"]] == [
        {"hyperparam.strength": strength, "seed": seed} for strength in (0.1, 10.0) for seed in (0, 1)
    ]
    assert all(one["state"] == "done" and 0.8 < one["values"][0] <= 1 for one in told["trials"])
    run = Run(path=home / "runs" / told["trials"][3]["run"])
    assert (run.state, run.read_status()["sweep"], run.read_status()["trial"]) == ("done", told["sweep"], 3)
    assert json.loads((run.path / "config.json").read_text())["hyperparam"]["strength"] == 10
    found = known.find(told["sweep"])
    assert found == known.find("linear-digits")
    assert (found.state, [trial.to_json() for trial in known.trials(found)]) == ("done", told["trials"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("hyperparam.strenght=1,2",), 'Did you mean "hyperparam.strength"'),
        (("hyperparam.strength=1,much",), "hyperparam.strength=much: hyperparam.strength must be a number"),
        (("hyperparam.num_epochs=2,0.5",), "must be a whole number"),
        (("hyperparam.strength=3",), "nothing to vary"),
        (("seed=range(4,4)",), "no value at all"),
        (("hyperparam.strength=interval(2,1)", "--trials", "3"), "is empty"),
        ((SPACE,), "no end"),
        ((SPACE, "--sampler", "grid", "--trials", "3"), "A grid needs values"),
        (("seed=1,2", "--objective", "test.accuracy"), "no longer tested by it"),
        (("seed=1,2", "--objective", "val.acuracy"), 'Did you mean "val.accuracy"'),
        (("seed=1,2", "--objective", "val.accuracy,seconds,size_mb"), "one objective or two"),
        (("seed=1,2", "in=60s", "--in", "30s"), "a single trial takes 60 s"),
        (("seed=1,2", "--in", "2s"), "a single trial takes 3 s"),
        (("seed=1,2", "output=here"), "a run folder of its own"),
        (("seed=1,2", "--on", "moon"), "can't run on moon"),
        (("--space", "nowhere"), 'no space "nowhere"'),
        (("seed=1,2", "--storage", "sqlite:////no/such/folder/x.db"), "can't be used"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(
    model: Path, home: Path, words: tuple[str, ...], says: str
) -> None:
    code, told, _ = sweep(model, *words)
    assert code == 2
    assert says in told["error"]
    assert not list((home / "runs").glob("*"))
    assert not (home / "jobs").exists()


def test_epochs_have_rungs_and_the_same_run_goes_on(model: Path, home: Path) -> None:
    words = (SPACE, "hyperparam.num_epochs=9", "hyperparam.wait=0.1", "--trials", "9", "--workers", "2")
    code, told, err = sweep(model, *words)
    assert code == 0, err
    done = [one for one in told["trials"] if one["state"] == "done"]
    stopped = [one for one in told["trials"] if one["state"] == "stopped"]
    assert 1 <= len(done) <= 4
    assert len(done) + len(stopped) == 9
    assert all("best third" in one["reason"] for one in stopped)
    for one in stopped:
        run = Run(path=home / "runs" / one["run"])
        assert run.state == "interrupted", "its checkpoint and folder are kept"
        assert one["rung"] < 2
        assert len(run.metrics()) < 9
    assert all(len(Run(path=home / "runs" / one["run"]).metrics()) == 9 for one in done)
    assert told["best"][0]["values"][0] == max(one["values"][0] for one in done)


def test_seconds_have_rungs_and_each_is_a_run_made_for_its_time(model: Path, home: Path) -> None:
    code, told, err = sweep(model, SPACE, "in=45s", "--trials", "9", "--in", "10m")
    assert code == 0, err
    best = told["best"][0]
    assert (best["budget"], best["rung"], best["state"]) == (45.0, 2, "done")
    number = f"{told['sweep']}.{best['number']:04}"
    budgets = [
        json.loads((home / "runs" / name / "config.json").read_text())["budget"]
        for name in (number, f"{number}-2", f"{number}-3")
    ]
    assert budgets == [5.0, 15.0, 45.0]
    assert sum(one["rung"] == 0 for one in told["trials"]) >= 5


def test_what_was_run_before_is_not_run_again(model: Path, home: Path) -> None:
    words = ("hyperparam.strength=0.1,1,10",)
    _, first, _ = sweep(model, *words)
    _, second, _ = sweep(model, *words, "--name", "again")
    assert second["sweep"] != first["sweep"]
    assert [one["values"] for one in second["trials"]] == [one["values"] for one in first["trials"]]
    assert [one["run"] for one in second["trials"]] == [one["run"] for one in first["trials"]]
    assert all(one["reason"].startswith("is ") for one in second["trials"])
    assert sorted(ended(home)) == ["0", "1", "2"]
    (model / "train.py").write_text((model / "train.py").read_text() + "\n# another code\n")
    sweep(model, *words, "--name", "other")
    assert len(ended(home)) == 6


def test_a_trial_that_raises_is_shown_with_its_reason_and_the_others_go_on(model: Path) -> None:
    code, told, _ = sweep(model, "hyperparam.strength=0.1,1,100,1000", "hyperparam.mood=some raise")
    assert code == 0
    assert [one["state"] for one in told["trials"]] == ["done", "done", "failed", "failed"]
    assert "RuntimeError: the dog ate it" in told["trials"][2]["reason"]


def test_a_trial_that_gets_no_memory_has_failed(model: Path) -> None:
    code, told, _ = sweep(model, "hyperparam.mood=fine,wants too much")
    assert code == 0
    assert [one["state"] for one in told["trials"]] == ["done", "failed"]
    assert "MemoryError: Unable to allocate" in told["trials"][1]["reason"]


def test_a_trial_that_the_kernel_kills_for_its_memory_has_failed(model: Path) -> None:
    """The driver and its workers may have 1 GiB together; the kernel ends who has most of it."""
    group = Path("/sys/fs/cgroup/memory/inflame-test")
    limit = group / "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group = Path("/sys/fs/cgroup/inflame-test")
        limit = group / "memory.max"
    try:
        group.mkdir(exist_ok=True)
        limit.write_text(str(2**30))
    except OSError as error:
        pytest.skip(f"needs a control group: {error}")
    words = command(model, "hyperparam.mood=fine,takes too much")
    try:
        inside = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *words]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=100)
        told = json.loads(done.stdout)
        assert [one["state"] for one in told["trials"]] == ["done", "failed"], done.stderr
        assert "out of memory" in told["trials"][1]["reason"]
    finally:
        while (group / "cgroup.procs").read_text().strip():  # its zygote goes when it notices
            time.sleep(0.05)
        group.rmdir()


def test_a_sweep_in_which_all_trials_fail_gives_up(model: Path, home: Path) -> None:
    code, told, _ = sweep(model, "seed=range(0,20)", "hyperparam.mood=raises", "--workers", "2")
    assert code == 1
    assert "all failed" in told["error"]
    assert "the dog ate it" in told["error"]
    assert len(list((home / "runs").iterdir())) < 20


def test_a_trial_that_hangs_is_ended(model: Path) -> None:
    code, told, _ = sweep(model, "hyperparam.mood=fine,hangs", "--hang", "2s")
    assert code == 0
    assert [one["state"] for one in told["trials"]] == ["done", "failed"]
    assert "hung: nothing new for" in told["trials"][1]["reason"]


def test_a_trial_that_diverges_or_learns_nothing_is_stopped(model: Path) -> None:
    words = ("hyperparam.mood=fine,diverges,by chance", "hyperparam.wait=0.25", "hyperparam.num_epochs=9", "--stopping")
    code, told, _ = sweep(model, *words, "--workers", "3")
    assert code == 0
    assert told["trials"][0]["state"] == "done"
    assert told["trials"][1]["state"] == "stopped"
    assert "no longer finite" in told["trials"][1]["reason"]
    assert told["trials"][2]["state"] == "stopped"


def test_the_time_of_the_sweep_is_kept(model: Path) -> None:
    code, told, _ = sweep(model, SPACE, "hyperparam.wait=0.4", "--in", "8s", "--sampler", "random", "--no-stopping")
    assert code == 0
    noted = json.loads((known.find(told["sweep"]).path / known.STATE).read_text())
    assert noted["seconds"] < 10
    assert sum(one["state"] == "done" for one in told["trials"]) >= 2
    assert all(one["state"] in ("done", "stopped") for one in told["trials"])


def test_two_objectives_have_a_front(model: Path) -> None:
    code, told, err = sweep(model, SPACE, "--objective", "val.accuracy,seconds", "--trials", "6")
    assert code == 0, err
    values = [tuple(one["values"]) for one in told["trials"]]
    front = {tuple(one["values"]) for one in told["best"]}
    for value in front:
        assert not any(a >= value[0] and s <= value[1] and (a, s) != value for a, s in values)


def test_a_second_driver_is_refused(model: Path, home: Path) -> None:
    words = (SPACE, "--trials", "6", "hyperparam.wait=0.5", *RANDOM)
    with subprocess.Popen(command(model, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
        wait_for(lambda: len(list((home / "runs").glob("*/metrics.jsonl"))) >= 1)
        code, told, _ = sweep(model, *words)
        assert code == 2
        assert "Another process is working on the sweep" in told["error"]
        out, _ = first.communicate(timeout=60)
        assert len(json.loads(out)["trials"]) == 6


def test_ctrl_c_lets_trials_save_and_the_same_command_goes_on(model: Path, home: Path) -> None:
    words = (SPACE, "--trials", "4", "hyperparam.wait=0.3", *RANDOM)
    with subprocess.Popen(command(model, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        wait_for(lambda: len(list((home / "runs").glob("*/metrics.jsonl"))) >= 2)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=40)
        assert driver.returncode == 130
    found = known.find("linear-digits")
    assert found.state == "interrupted"
    assert all(Run(path=path).state == "interrupted" for path in (home / "runs").iterdir())
    code, told, err = sweep(model, *words)
    assert code == 0, err
    assert told["sweep"] == found.name
    assert sorted(ended(home)) == ["0", "1", "2", "3"]
    first = Run(path=home / "runs" / told["trials"][0]["run"])
    assert first.read_status()["sittings"] == 2
    assert len(first.metrics()) == 4


@pytest.mark.parametrize("seed", [1])
def test_kills_lose_nothing_repeat_nothing_and_change_nothing(model: Path, home: Path, seed: int) -> None:
    """SIGKILL of driver, zygote and workers at random."""
    words = (SPACE, "--trials", "12", "hyperparam.wait=0.05", *RANDOM)
    told = _disturbed(model, home, words, kills=5, dice=random.Random(seed))
    assert sorted(map(int, ended(home))) == list(range(12))
    os.environ["INFLAME_HOME"] = str(home.parent / "quiet")
    _, quiet, _ = sweep(model, *words)
    assert table(told) == table(quiet)


def _disturbed(model: Path, home: Path, words: tuple[str, ...], *, kills: int, dice: random.Random) -> dict[str, Any]:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command(model, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    driver, killed = start(), 0
    while True:
        try:
            out = driver.communicate(timeout=dice.uniform(0.2, 1.0) if killed < kills else 60)[0]
            assert killed == kills, "over too early"
            return dict(json.loads(out))
        except subprocess.TimeoutExpired:
            victim = _victim(home, driver.pid, dice)
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed += 1
            if victim == driver.pid:
                driver.communicate()
                driver = start()


def _victim(home: Path, driver: int, dice: random.Random) -> int:
    workers = [pid for path in (home / "jobs").glob("*/lock") if (pid := _at_work(path))]
    zygotes = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()[:1]
    return dice.choice([driver, *map(int, zygotes), *workers])


def _at_work(path: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        pid = int(json.loads(path.read_text())["pid"])
        return pid if not (path.parent / "code").exists() and Path(f"/proc/{pid}").exists() else None
    return None


def test_workers_have_cores_of_their_own_and_are_processes_of_their_own(model: Path, home: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    words = (SPACE, "--trials", "2", "hyperparam.wait=1", *RANDOM)
    with subprocess.Popen(command(model, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        wait_for(lambda: len([1 for path in (home / "jobs").glob("*/lock") if _at_work(path)]) == 2)
        pids = [pid for path in (home / "jobs").glob("*/lock") if (pid := _at_work(path))]
        pinned = [os.sched_getaffinity(pid) for pid in pids]
        assert all(os.getsid(pid) == pid for pid in pids)
        driver.communicate(timeout=60)
    if len(cores) >= 2:
        assert not pinned[0] & pinned[1]


def test_a_space_from_a_file(model: Path) -> None:
    place = model / "conf" / "sweep"
    place.mkdir(parents=True)
    (place / "both.yaml").write_text("hyperparam:\n  strength: [0.1, 1]\nseed: range(0,2)\n")
    code, told, err = sweep(model, "--space", "both", "hyperparam.wait=0")
    assert code == 0, err
    assert len(told["trials"]) == 4
    (place / "both.yaml").write_text("hyperparam: {strength: [0.1, much]}")
    assert "hyperparam.strength=much" in sweep(model, "--space", "both")[1]["error"]


def test_a_journal_in_sqlite(model: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/sweeps.db"
    code, told, err = sweep(model, "hyperparam.strength=0.1,1,10", "--storage", uri)
    assert code == 0, err
    found = known.find(told["sweep"])
    assert [trial.to_json() for trial in known.trials(found)] == told["trials"]
    assert not (found.path / known.JOURNAL).exists()


def test_ablate_says_what_earns_its_place(model: Path) -> None:
    words = ("--seeds", "5", "hyperparam.num_epochs=1", "hyperparam.wait=0", "--off", "hyperparam.strength=1000000")
    code, told, err = sweep(model, *words, verb="ablate")
    assert code == 0, err
    parts = {part["key"]: part for part in told["parts"]}
    assert set(parts) == {"hyperparam.strength", "hyperparam.weight_decay"}
    assert parts["hyperparam.strength"]["verdict"] == "earns its place"
    assert parts["hyperparam.strength"]["gain"] > 0.1
    assert parts["hyperparam.weight_decay"]["verdict"] in ("can't tell", "does nothing")
    assert sweep(model, "--seeds", "1", verb="ablate")[0] == 2


def wait_for(there: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_zygote_whose_master_is_killed_outlives_its_jobs_and_no_longer(model: Path, home: Path) -> None:
    words = (SPACE, "--trials", "2", "hyperparam.wait=0.3", *RANDOM)
    with subprocess.Popen(command(model, *words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        wait_for(lambda: len(list((home / "runs").glob("*/metrics.jsonl"))) == 2)
        zygote = int(Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()[0])
        driver.kill()
    wait_for(lambda: len(ended(home)) == 2)
    wait_for(lambda: not Path(f"/proc/{zygote}").exists())
    assert [path.read_text() for path in sorted((home / "jobs").glob("*/code"))] == ["0", "0"]
    assert len(list(Warm([]).logs(known_job(home)))) > 0
    code, told, _ = sweep(model, *words)
    assert (code, len(ended(home))) == (0, 2), "what ended while nobody looked is found"
    assert all(one["attempt"] == 1 for one in told["trials"])


def known_job(home: Path) -> Any:
    from inflame.records import Job

    name = next((home / "jobs").glob("*/job.json")).parent.name
    return Job(id=name, backend="warm", status="running")
