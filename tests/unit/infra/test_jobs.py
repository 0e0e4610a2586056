"""A job from here to its end, by the real local launcher: packed, unpacked elsewhere, run by its bootstrap. What is
trained is a small program, so that only the job itself takes time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inflame import store
from inflame.errors import DataError, NetworkError, UserError
from inflame.infra import attempts, jobs, launch
from inflame.infra.command import DUPLICATE, EXIT, PREEMPTED, RUN, command, variables
from inflame.infra.jobs import Sent
from inflame.infra.local import Local
from inflame.infra.pack import package, wheel
from inflame.records import Job, JobSpec

BEAT = 0.2
INFLAME = wheel.files()
STATUS = Local.status

# Counts to `steps`, saves each, goes on from what is saved; SIGTERM in the middle of a save lets the save end. With
# `hold`, the last step is not begun before that file is there: how fast a machine is decides no test.
APP = """
import json, os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"].removeprefix("file://")); run.mkdir(parents=True, exist_ok=True)
saved = run / "step"
step = int(saved.read_text()) if saved.exists() else 0
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("begins at", step, os.environ.get("TOKEN", "-"), flush=True)
(run / "where.json").write_text(json.dumps([os.getcwd(), sys.argv, os.environ.get("INFLAME_CODE", "")]))
while step < int(words.get("steps", 1)):
    time.sleep(float(words.get("pause", 0)))
    while step + 1 == int(words.get("steps", 1)) and "hold" in words and not os.path.exists(words["hold"]) and not told:
        time.sleep(0.02)
    if step + 1 == int(words.get("fail", -1)):
        raise SystemExit("error: it went wrong at step %d" % step)
    temporary = run / ".step"
    temporary.write_text(str(step + 1)); time.sleep(float(words.get("save", 0))); temporary.replace(saved)
    step += 1
    print("step", step, flush=True)
    if told:
        print("saved and stopped", flush=True); sys.exit(143)
(run / "status.json").write_text(json.dumps({"state": "done"}))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_BEAT", str(BEAT))
    monkeypatch.setattr(attempts, "BEAT", BEAT)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))  # also while somebody edits it


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process of a job outlives its test."""
    yield
    for one in jobs.every():
        if one.native is not None:
            for pid in Local().processes(one.native):
                try:
                    os.killpg(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
            while STATUS(jobs.launcher("local"), one.native).status == "running":
                time.sleep(0.01)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> str:
    return (tmp_path / "place").as_uri()


def send(model: Path, place: str, *words: str, **more: object) -> Sent:
    spec = JobSpec(model=str(model), arguments=words, output=place, **more)  # type: ignore[arg-type]
    return launch.plan(spec, "local").send()


def until(sent: Sent, *states: str, seconds: float = 40) -> Sent:
    deadline = time.monotonic() + seconds
    while (sent := jobs.refresh(sent)).state not in states:
        assert time.monotonic() < deadline, f"{sent.state}: {sent.reason}\n" + "\n".join(jobs.logs(sent)[0])
        time.sleep(0.05)
    return sent


def working(sent: Sent, line: str = "step") -> Sent:
    deadline = time.monotonic() + 40
    while not any(line in said for said in jobs.logs(sent)[0]):
        assert time.monotonic() < deadline, jobs.refresh(sent)
        time.sleep(0.05)
    return jobs.refresh(sent)


def kill(sent: Sent) -> None:
    """As a power cut: nobody gets to say a word."""
    assert sent.native is not None
    for pid in Local().processes(sent.native):
        os.killpg(pid, signal.SIGKILL)


def test_from_here_to_the_end(model: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hush")
    monkeypatch.setenv("NOT_ASKED_FOR", "x")
    sent = send(model, place, "steps=2", "name=two words and 'quotes' $HOME", environment=("TOKEN",))
    assert sent.state in ("queued", "running")
    done = until(sent, *jobs.ENDED)
    assert (done.state, done.reason, done.code, done.sent) == ("done", "", 0, 1), jobs.logs(done)
    lines = jobs.logs(done)[0]
    assert lines[0] == "begins at 0 hush"
    assert "step 2" in lines
    folder = jobs.fetch(done)
    where, argv, code = json.loads((folder / "where.json").read_text())
    assert folder == store.home() / "runs" / done.id
    assert argv[1:4] == ["train", "steps=2", "name=two words and 'quotes' $HOME"]
    assert not Path(where).is_relative_to(model)
    assert json.loads(Path(code).read_text())["tree"] == sent.package.tree
    with (store.home() / jobs.FILE).open("rb") as file:
        assert b"hush" not in file.read()
    assert jobs.refresh(done) == done


def test_a_failure_has_its_reason(model: Path, place: str) -> None:
    ended = until(send(model, place, "steps=3", "fail=2"), *jobs.ENDED)
    assert (ended.state, ended.code, ended.reason) == ("failed", 1, "it went wrong at step 1")


def test_the_same_command_sends_nothing_twice(model: Path, place: str) -> None:
    first = working(send(model, place, "steps=500", "pause=0.1"))
    again = send(model, place, "steps=500", "pause=0.1")
    assert (again.id, again.native, again.sent) == (first.id, first.native, 1)
    assert send(model, place, "steps=501", "pause=0.1").id != first.id
    assert len(jobs.every()) == 2
    for one in jobs.every():
        jobs.stop(one)
        until(one, "stopped")


def test_stopped_it_saves_and_the_same_command_goes_on(model: Path, place: str) -> None:
    sent = working(send(model, place, "steps=30", "pause=0.05", "save=0.3"))
    jobs.stop(sent)
    ended = until(sent, *jobs.ENDED)
    assert (ended.state, ended.reason) == ("stopped", "it was asked to stop")
    lines = jobs.logs(ended)[0]
    assert lines[-1] == "saved and stopped"
    saved = int(store.read_text(store.join(sent.spec.output, RUN, "step")))
    assert lines[-2] == f"step {saved}"  # the save that was under way was ended
    (model / "app.py").touch()
    again = send(model, place, "steps=30", "pause=0.05", "save=0.3")
    assert again.id == sent.id
    working(again, f"begins at {saved}")
    jobs.stop(again)
    until(again, "stopped")


def test_a_machine_that_vanishes_is_replaced_and_the_work_goes_on(model: Path, place: str, tmp_path: Path) -> None:
    sent = working(send(model, place, "steps=12", "pause=0.02", f"hold={tmp_path / 'go'}", spot=True))
    kill(sent)
    (tmp_path / "go").touch()
    again = until(sent, "starting", "queued", "running", "preempted")
    done = until(again, *jobs.ENDED)
    assert (done.state, done.sent) == ("done", 2), done.reason
    lines = jobs.logs(done)[0]
    begun = [int(line.split()[2]) for line in lines if line.startswith("begins at")]
    assert begun[0] == 0
    assert begun[1] > 0
    assert store.read_text(store.join(done.spec.output, RUN, "step")) == "12"
    names = store.listdir(store.join(done.spec.output, "attempts"))
    assert [name for name in names if name.count(".") == 1] == ["001.json", "002.json"]


def test_notice_is_preempted_and_not_failed(model: Path, place: str) -> None:
    """SIGTERM to the bootstrap is what a provider gives: in the middle of a save, too."""
    sent = working(send(model, place, "steps=20", "pause=0.02", "save=0.3"))
    assert sent.native is not None
    for group in Local().processes(sent.native):
        os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while Local().status(sent.native).code is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Local().status(sent.native).code == PREEMPTED
    told = json.loads(store.read_text(store.join(sent.spec.output, EXIT)))
    assert (told["state"], told["code"]) == ("preempted", PREEMPTED)
    assert "taken away (SIGTERM)" in told["reason"]
    done = until(sent, *jobs.ENDED)
    assert (done.state, done.sent) == ("done", 2)


def test_taken_away_too_often(model: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ATTEMPTS", 2)
    sent = send(model, place, "steps=1000", "pause=0.2", spot=True)
    deadline = time.monotonic() + 60
    killed = 0
    while sent.state != "failed":
        assert time.monotonic() < deadline, sent
        if attempts.read(sent.spec.output).attempt > killed and sent.sent > killed:
            kill(sent)
            killed += 1
        time.sleep(0.1)
        sent = jobs.refresh(sent)
    assert killed == 2
    assert "taken away 2 times" in sent.reason


def test_a_cut_network_while_submitting(
    model: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer got lost, the job runs: sent again, it finds itself at work and leaves itself alone."""
    send_for_real = Local.send
    words = ("steps=20", "pause=0.02", f"hold={tmp_path / 'go'}")

    def cut(self: Local, request: dict[str, object]) -> Job:
        send_for_real(self, request)
        raise NetworkError("The line is dead.", remedy="Give the same command again.")

    monkeypatch.setattr(Local, "send", cut)
    with pytest.raises(NetworkError):
        send(model, place, *words)
    (lost,) = jobs.every()
    assert (lost.state, lost.native) == ("sending", None)
    assert "give the launch command again" in jobs.refresh(lost).reason
    monkeypatch.setattr(Local, "send", send_for_real)
    working(lost)
    again = send(model, place, *words)
    assert again.id == lost.id
    (tmp_path / "go").touch()
    done = until(again, *jobs.ENDED)
    assert (done.state, store.read_text(store.join(done.spec.output, RUN, "step"))) == ("done", "20")
    names = store.listdir(store.join(done.spec.output, "attempts"))
    assert [name for name in names if name.count(".") == 1] == ["001.json"], "exactly one has worked"
    codes = [Local().status(Job(id=f"local-00{number}", backend="local", status="running")).code for number in (1, 2)]
    assert codes in ([0, DUPLICATE], [0, 0])  # the second one leaves it alone, or comes when it is done


def test_a_place_that_cannot_be_asked_now(
    model: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired token, a network that is down: the job is as it was known last, and found again afterwards."""
    sent = working(send(model, place, "steps=20", "pause=0.02", f"hold={tmp_path / 'go'}", spot=True))

    def refuse(self: Local, job: Job) -> Job:
        raise UserError("Your token has expired.", remedy="Log in again.")

    monkeypatch.setattr(Local, "status", refuse)
    seen = jobs.refresh(sent)
    assert (seen.state, seen.reason) == ("running", "as last known: Your token has expired.")
    monkeypatch.setattr(Local, "status", STATUS)
    send_for_real = Local.send

    def cut(self: Local, request: dict[str, object]) -> Job:
        raise NetworkError("The line is dead.", remedy="Give the same command again.")

    monkeypatch.setattr(Local, "send", cut)
    kill(sent)
    (tmp_path / "go").touch()
    seen = until(sent, "preempted")
    assert "can't be sent again yet: The line is dead." in seen.reason
    monkeypatch.setattr(Local, "send", send_for_real)
    done = until(seen, *jobs.ENDED)
    assert (done.state, done.sent) == ("done", 2)


def test_a_machine_that_should_not_vanish_is_replaced_once(model: Path, place: str) -> None:
    sent = working(send(model, place, "steps=1000", "pause=0.1"))
    killed = 0
    deadline = time.monotonic() + 60
    while sent.state != "failed":
        assert time.monotonic() < deadline, sent
        if attempts.read(sent.spec.output).attempt > killed and sent.sent > killed:
            kill(sent)
            killed += 1
        time.sleep(0.1)
        sent = jobs.refresh(sent)
    assert killed == jobs.PATIENT


def test_many_senders_send_one(model: Path, place: str) -> None:
    plan = launch.plan(JobSpec(model=str(model), arguments=("steps=30", "pause=0.1"), output=place), "local")
    package.upload(plan.luggage, place)
    threads = [threading.Thread(target=jobs.submit, args=(plan.id, "local", plan.spec, plan.package)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (sent,) = jobs.every()
    assert sent.sent == 1
    assert len(list((store.home() / "jobs").glob("local-*"))) == 1
    jobs.stop(sent)
    until(sent, "stopped", "done")


def test_caps_end_it_and_say_why(model: Path, place: str) -> None:
    ended = until(send(model, place, "steps=1000", "pause=0.05", max_time=2.0), *jobs.ENDED)
    assert (ended.state, ended.reason) == ("stopped", "the cap on time is reached: 2 s")
    assert "saved and stopped" in jobs.logs(ended)[0]


def test_a_cap_on_money(model: Path, place: str, tmp_path: Path) -> None:
    spec = JobSpec(model=str(model), arguments=("steps=1000", "pause=0.05"), output=place, max_money=0.001)
    with pytest.raises(UserError, match="unknown, so a cap on money"):
        launch.plan(spec, "local")
    plan = launch.plan(replace(spec, max_money=None), "local")
    package.upload(plan.luggage, place)
    told = variables(replace(plan.spec, max_money=0.001), plan.package, price=1.8)  # two seconds
    given = {**os.environ, **told, "INFLAME_WORK": str(tmp_path / "w"), "INFLAME_PARTS": str(tmp_path / "parts")}
    words = command(plan.package.archive)
    done = subprocess.run(words, env=given, capture_output=True, text=True)
    ended = json.loads(store.read_text(store.join(plan.spec.output, EXIT)))
    assert done.returncode == 143, done.stderr
    assert (ended["state"], ended["reason"]) == ("stopped", "the cap on money is reached: $0.001 at $1.8 an hour")
    assert ended["cost"] == pytest.approx(0.001, abs=0.001)


def test_process_1_hears_sigterm(model: Path, place: str, tmp_path: Path) -> None:
    """As the first process of a container: in a PID namespace of its own, where the system gives us one."""
    plan = launch.plan(JobSpec(model=str(model), arguments=("steps=1000", "pause=0.05"), output=place), "local")
    package.upload(plan.luggage, place)
    told = variables(plan.spec, plan.package)
    given = {**os.environ, **told, "INFLAME_WORK": str(tmp_path / "w"), "INFLAME_PARTS": str(tmp_path / "parts")}
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command(plan.package.archive)]
    if subprocess.run([*words[:5], "true"], capture_output=True).returncode:
        pytest.skip("this system gives us no namespaces")
    process = subprocess.Popen(words, env=given)
    deadline = time.monotonic() + 40
    while "step 1" not in attempts.lines(plan.spec.output)[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert process.wait(30) == PREEMPTED


def test_large_code_goes_in_parts_and_only_changes_are_uploaded(model: Path, place: str) -> None:
    for number in range(40):
        (model / f"part{number}.bin").write_bytes(os.urandom(50_000))
    spec = JobSpec(model=str(model), arguments=("steps=1",), output=place)
    first = package.upload(package.collect(spec, place, small=1000), place)
    assert first.bytes > 2_000_000
    (model / "part7.bin").write_bytes(os.urandom(50_000))
    luggage = package.collect(spec, place, small=1000)
    assert len(luggage.parts) > 10
    second = package.upload(luggage, place)
    assert second.archive != first.archive
    assert package.upload(luggage, place).bytes == 0
    assert second.bytes < 1_500_000  # a part or two, and inflame itself
    sent = jobs.submit("parts-1", "local", replace(spec, output=store.join(place, "jobs", "p")), second)
    done = until(sent, *jobs.ENDED)
    assert done.state == "done", jobs.logs(done)
    where = json.loads((jobs.fetch(done) / "where.json").read_text())[0]
    for file in model.iterdir():
        assert (Path(where) / file.name).read_bytes() == file.read_bytes()


def test_names_of_jobs(model: Path, place: str) -> None:
    sent = until(send(model, place, "steps=1"), "done")
    assert jobs.get(sent.id[:9]).id == sent.id
    with pytest.raises(UserError, match=rf'no job "{sent.id[:-1]}x".*Did you mean "{sent.id}"'):
        jobs.get(sent.id[:-1] + "x")
    assert send(model, place, "steps=1").id == f"{sent.id}-2"  # what is done is done anew when it is asked for


def test_nothing_to_fetch(model: Path, place: str) -> None:
    (model / "app.py").write_text("raise SystemExit(3)\n")
    ended = until(send(model, place), *jobs.ENDED)
    assert (ended.state, ended.code) == ("failed", 3)
    with pytest.raises(DataError, match="no run folder"):
        jobs.fetch(ended)


def test_what_cannot_be_sent(model: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="spot machine is taken away"):
        launch.plan(JobSpec(model=str(model), spot=True), "local")
    with pytest.raises(DataError, match=r"no app\.py"):
        launch.plan(JobSpec(model=str(tmp_path)), "local")
    with pytest.raises(UserError, match=r'no launcher "loca".*Did you mean "local"'):
        launch.plan(JobSpec(model=str(model)), "loca")
    with pytest.raises(UserError, match='no machine "gpu-huge"'):
        launch.plan(JobSpec(model=str(model), machine="gpu-huge"), "local")
    (model / ".env").write_text("TOKEN=hush")
    with pytest.raises(DataError, match=r"hold secrets.*\.env"):
        launch.plan(JobSpec(model=str(model)), "local")
    (model / ".env").unlink()
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UserError, match="TOKEN"):
        send(model, place, environment=("TOKEN",))


def test_attempts_one_of_many_begins(tmp_path: Path) -> None:
    """Eight machines at once: one gets the job, the others leave it alone."""
    out = str(tmp_path / "out")
    code = (
        "import os, sys; from inflame.infra import attempts\n"
        "n = attempts.begin(sys.argv[1], limit=5, me={'sign': os.urandom(8).hex()})\n"
        "import time\n"
        "for _ in range(20 if n else 0): attempts.beat(sys.argv[1], n, 1.0); time.sleep(0.1)\n"
        "print(n)"
    )
    many = [subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert sorted(int(one.communicate()[0]) for one in many) == [0] * 7 + [1]
