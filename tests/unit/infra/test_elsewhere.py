"""Many jobs of one model folder at a place: here the real local launcher, which runs packed jobs as other machines do.
What is trained is a small program, so that only the jobs themselves take time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from inflame import store
from inflame.errors import RunError
from inflame.infra import attempts, jobs, launch
from inflame.infra.launcher import ENDED
from inflame.infra.local import Local
from inflame.infra.pack import wheel
from inflame.infra.pools import elsewhere
from inflame.infra.pools.elsewhere import Elsewhere
from inflame.records import Job, JobSpec
from inflame.runs.begin import REUSE, SWEEP, TRIAL

BEAT = 0.2
INFLAME = wheel.files()

# Counts to `steps` and goes on from what is saved; the last step waits for the file `hold`, where one is named.
APP = """
import json, os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"].removeprefix("file://")); run.mkdir(parents=True, exist_ok=True)
rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("begins at", len(rows), flush=True)
about = {name: os.environ.get(name) for name in ("INFLAME_SWEEP", "INFLAME_TRIAL", "INFLAME_REUSE")}
(run / "dataset.json").write_text(json.dumps({"classes": ["a", "b"]}))
while len(rows) < int(words.get("steps", 2)) and not told:
    while len(rows) and "hold" in words and not os.path.exists(words["hold"]) and not told:
        time.sleep(0.01)
    rows.append(json.dumps({"epoch": len(rows) + 1}))
    (run / "metrics.jsonl").write_text("".join(row + "\\n" for row in rows))
if "wrong" in words:
    raise SystemExit("error: " + words["wrong"])
(run / "status.json").write_text(json.dumps({"state": "interrupted" if told else "done", **about, "words": words}))
sys.exit(143 if told else 0)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFLAME_BEAT", str(BEAT))
    monkeypatch.setattr(attempts, "BEAT", BEAT)
    monkeypatch.setattr(elsewhere, "LOOK", 0.05)
    monkeypatch.setattr(elsewhere, "AGAIN", 0.05)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))  # also while somebody edits it


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process of a job outlives its test."""
    yield
    for one in jobs.every():
        if one.native is not None:
            for group in Local().processes(one.native):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def made(model: Path, tmp_path: Path) -> Callable[..., Elsewhere]:
    """A pool of two jobs at a time, made as for a sweep: another call is another process that goes on with it."""

    def make(price: float | None = None) -> Elsewhere:
        spec = JobSpec(model=str(model), output=(tmp_path / "place").as_uri())
        pool = Elsewhere(launch.plan(spec, "local"), tmp_path, workers=2, mark="abc", price=price)
        pool.prepare(spec)
        return pool

    return make


def send(pool: Elsewhere, model: Path, name: str, *words: str, attempt: int = 1) -> Job:
    request = pool.request(JobSpec(model=str(model), arguments=words, output=f"/home/runs/{name}"))
    variables = {SWEEP: "nice", TRIAL: "7", REUSE: "1"}
    return pool.send(pool.asked(request, name=f"{name}-{attempt}", slot=0, variables=variables))


def until(pool: Elsewhere, job: Job, there: Callable[[Job], Any] = lambda job: job.status in ENDED) -> Job:
    end = time.monotonic() + 60
    while not there(now := pool.status(job)):
        assert time.monotonic() < end, f"{now}\n" + "\n".join(pool.logs(job))
        pool.wait(0.02)
    return now


def rows(home: Path, name: str) -> int:
    file = home / "runs" / name / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def test_a_run_comes_here_as_it_grows_and_whole_in_the_end(
    made: Callable[..., Elsewhere], model: Path, tmp_path: Path, home: Path
) -> None:
    pool, hold = made(price=3600.0), tmp_path / "hold"
    job = send(pool, model, "nice.0007", "steps=3", f"hold={hold}")
    until(pool, job, lambda _: rows(home, "nice.0007") == 1)
    assert not (home / "runs" / "nice.0007" / "status.json").exists(), "what is not whole is not called a run"
    until(pool, job, lambda job: pool.said(job)[0] == "begins at 0")
    (model / "app.py").write_text("raise SystemExit('edited meanwhile')")  # of no concern to what was packed
    other = send(made(), model, "nice.0008")
    hold.touch()
    assert [until(pool, one).status for one in (job, other)] == ["done", "done"]
    status = json.loads((home / "runs" / "nice.0007" / "status.json").read_text())
    assert (status[SWEEP], status[TRIAL], status[REUSE]) == ("nice", "7", None), "a home there has nothing to reuse"
    assert status["words"]["steps"] == "3"
    assert len(store.listdir(tmp_path / "place" / "code")) == 1, "packed once"
    cost = pool.cost("nice.0007")
    assert cost is not None
    assert cost == pytest.approx(attempts.spent(str(tmp_path / "place" / "jobs" / "nice.0007-abc")))  # $1 a second
    assert made().cost("nice.0007") is None


class Killed(BaseException):
    """The end of the process that sends."""


def killed(self: Local, request: dict[str, Any]) -> Job:
    raise Killed


def test_nothing_is_sent_twice(
    made: Callable[..., Elsewhere], model: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, words = made(), ("steps=2", f"hold={tmp_path / 'hold'}")
    first = send(pool, model, "nice.0001", *words)
    until(pool, first, lambda _: rows(home, "nice.0001") == 1)
    later = made()
    assert later.knows(first)
    assert send(later, model, "nice.0001", *words).status == "running"
    assert len(list((home / "jobs").glob("local-*"))) == 1
    cut = Job(id="nice.0002-1", backend="local", status="queued")
    with monkeypatch.context() as patch:  # before its place has heard of it
        patch.setattr(Local, "send", killed)
        with pytest.raises(Killed):
            send(later, model, "nice.0002", *words)
    assert jobs.get(cut.id).native is None
    assert not later.knows(cut)
    (tmp_path / "hold").touch()
    assert until(later, send(later, model, "nice.0002", *words)).status == "done"
    assert until(later, first).status == "done"
    assert [until(made(), one).status for one in (first, cut)] == ["done", "done"], "also for who comes later"


def test_stopped_it_saves_and_the_same_run_goes_on_under_the_next_name(
    made: Callable[..., Elsewhere], model: Path, tmp_path: Path, home: Path
) -> None:
    pool, words = made(), ("steps=4", f"hold={tmp_path / 'hold'}")
    job = send(pool, model, "nice.0001", *words)
    until(pool, job, lambda _: rows(home, "nice.0001") == 1)
    pool.cancel(job)
    pool.cancel(job, signal.SIGKILL)
    assert until(pool, job).status == "stopped"
    assert rows(home, "nice.0001") == 2
    (tmp_path / "hold").touch()
    again = until(pool, send(pool, model, "nice.0001", *words, attempt=2))
    assert again.status == "done"
    assert "begins at 2" in list(pool.logs(again))
    assert rows(home, "nice.0001") == 4
    assert json.loads((home / "runs" / "nice.0001" / "status.json").read_text())["state"] == "done"


def test_a_machine_that_vanishes_is_replaced_and_a_failure_has_its_reason(
    made: Callable[..., Elsewhere], model: Path, tmp_path: Path, home: Path
) -> None:
    pool = made()
    job = send(pool, model, "nice.0001", "steps=3", f"hold={tmp_path / 'hold'}")
    wrong = send(pool, model, "nice.0002", "wrong=the dog ate it")
    until(pool, job, lambda _: rows(home, "nice.0001") == 1)
    native = jobs.get(job.id).native
    assert native is not None
    for group in Local().processes(native):
        os.killpg(group, signal.SIGKILL)
    (tmp_path / "hold").touch()
    assert until(pool, job).status == "done"
    assert jobs.get(job.id).sent == 2
    assert rows(home, "nice.0001") == 3
    failed = until(pool, wrong)
    assert (failed.status, failed.reason) == ("failed", "the dog ate it")


class Full(Local):
    """A place with room for one job."""

    def send(self, request: dict[str, Any]) -> Job:
        at_work = [one for one in jobs.every() if one.native is not None and not one.ended]
        if at_work:
            raise RunError("No room", remedy="Wait")
        return super().send(request)


def test_what_a_full_place_refuses_waits_while_others_are_at_work(
    made: Callable[..., Elsewhere], model: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "launcher", lambda backend: Full())
    pool = made()
    first = send(pool, model, "nice.0001", f"hold={tmp_path / 'hold'}")
    second, third = (send(pool, model, f"nice.000{number}") for number in (2, 3))
    assert (second.status, second.reason) == ("queued", "No room")
    assert pool.cancel(third).status == "stopped"
    (tmp_path / "hold").touch()
    assert until(pool, first).status == "done"
    assert until(pool, second).status == "done"
    assert not (home / "runs" / "nice.0003").exists()


def test_alone_it_says_what_the_place_says(
    made: Callable[..., Elsewhere], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Local, request: dict[str, Any]) -> Job:
        raise RunError("No room", remedy="Wait")

    pool = made()
    monkeypatch.setattr(Local, "send", refuse)
    with pytest.raises(RunError, match="No room"):
        send(pool, model, "nice.0001")
