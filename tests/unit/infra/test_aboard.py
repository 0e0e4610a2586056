"""A job aboard its machine: what it does to the training, and what its output folder says of each end."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inflame.infra import aboard, attempts, bootstrap
from inflame.infra.command import DUPLICATE, PREEMPTED

# A training of a few lines: it does what its first setting says, and notes its words.
APP = """import json, os, signal, sys, time

words = dict(word.split("=", 1) for word in sys.argv[2:])
mood = words.get("mood", "fine")
print("epoch 1", flush=True)
print(json.dumps({"words": sys.argv[1:], "code": os.environ["INFLAME_CODE"]}), flush=True)
if mood == "fails":
    sys.exit("error: the dog ate it")
if mood == "starves":
    os.kill(os.getpid(), signal.SIGKILL)
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mood in ("long", "stubborn"):
    time.sleep(60)
"""

Runs = Callable[..., tuple[int, dict[str, Any]]]


class Stop:
    """What `bootstrap.Stop` is to the job, without taking this process's signals."""

    signal = 0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT", 0.1)
    monkeypatch.setattr(aboard, "CHUNK", 0.1)
    monkeypatch.setattr(aboard, "TICK", 0.02)
    for name in ("SLURM_JOB_ID", "RAY_ADDRESS", "NODE_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    model = tmp_path / "work/model"
    model.mkdir(parents=True)
    (model / "app.py").write_text(APP)
    told = {"model": "model", "arguments": [], "inputs": [], "count": 1, "attempts": 3, "code": str(tmp_path)}
    return {**told, "output": str(tmp_path / "out")}


@pytest.fixture
def runs(job: dict[str, Any], tmp_path: Path) -> Runs:
    """Does the job with these changes: the code, and what `exit.json` says of it in the end."""

    def call(mood: str = "fine", *, stop: Stop | None = None, ago: float = 0.0, **changes: Any) -> Any:
        asked = {**job, "arguments": [f"mood={mood}"], **changes}
        code = aboard.run(asked, tmp_path / "work", stop or Stop(), time.time() - ago)
        file = tmp_path / "out/exit.json"
        return code, json.loads(file.read_text()) if file.is_file() else {}

    return call


def log(tmp_path: Path) -> str:
    return "\n".join(attempts.lines(str(tmp_path / "out"))[0])


def without_torchrun(python: str, program: str, words: list[str], *_: object) -> list[str]:
    """The command of a training on one of several machines, which here don't speak with each other."""
    return [python, program, "train", *words]


def soon(act: Callable[[], object], when: Callable[[], bool]) -> threading.Thread:
    """Does something as soon as it can be done."""

    def wait() -> None:
        end = time.monotonic() + 20
        while not when() and time.monotonic() < end:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_one_that_ends_well_leaves_its_log_and_its_bill(runs: Runs, tmp_path: Path) -> None:
    code, told = runs(price=3600.0, ago=2.0)
    assert (code, told["state"], told["code"], told["attempt"]) == (0, "done", 0, 1)
    assert 2.0 <= told["cost"] <= 20.0  # a dollar a second
    assert told["memory"] > 0
    said = log(tmp_path)
    assert said.startswith("epoch 1")
    words = json.loads(said.splitlines()[1])
    assert words["words"] == ["train", "mood=fine", f"output={tmp_path / 'out/run'}"]
    assert words["code"] == str(tmp_path / "work/.inflame/code.json")
    assert runs() == (0, told)  # it is done: nothing is done twice
    assert len(list((tmp_path / "out/attempts").glob("*.end.json"))) == 1


def test_one_that_fails_tells_its_last_word(runs: Runs) -> None:
    code, told = runs("fails")
    assert (code, told["state"], told["reason"]) == (1, "failed", "the dog ate it")
    assert told["cost"] is None


def test_one_that_the_kernel_kills_wanted_memory(runs: Runs) -> None:
    code, told = runs("starves")
    assert (code, told["state"]) == (137, "failed")
    assert "memory" in told["reason"]


@pytest.mark.parametrize(
    ("caps", "says"),
    [({"max_time": 0.3}, "cap on time is reached: 0.3 s"), ({"max_money": 0.5, "price": 3600.0}, "cap on money")],
)
def test_a_cap_ends_it(runs: Runs, caps: dict[str, float], says: str) -> None:
    code, told = runs("long", **caps)
    assert (code, told["state"]) == (143, "stopped")
    assert says in told["reason"]


def test_one_that_does_not_end_by_itself_is_killed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aboard, "GRACE", 0.3)
    code, told = runs("stubborn", max_time=0.5)
    assert (code, told["state"]) == (143, "stopped")
    assert told["seconds"] < 30


def test_whoever_asks_for_the_end_gets_it(runs: Runs, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    asker = soon(lambda: attempts.ask_to_stop(out), lambda: attempts.read(out).state == "running")
    code, told = runs("long")
    asker.join()
    assert (code, told["state"], told["reason"]) == (143, "stopped", "it was asked to stop")


def test_a_machine_that_is_taken_away_is_followed_by_another_until_there_were_enough(
    runs: Runs, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    for number in (1, 2, 3):
        stop = Stop()
        taker = soon(lambda stop=stop: setattr(stop, "signal", int(signal.SIGTERM)), lambda: "epoch" in log(tmp_path))
        code, told = runs("long", stop=stop, ago=5.0)
        taker.join()
        assert (code, told["state"], told["attempt"]) == (PREEMPTED, "preempted", number)
        assert "SIGTERM" in told["reason"]
    assert attempts.spent(out) >= 15.0  # seconds of all that were begun
    code, told = runs()
    assert (code, told["state"], told["reason"]) == (1, "failed", "taken away 3 times")


def test_a_training_that_heard_the_signal_itself_is_no_failure(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "work/model/app.py").write_text("import sys; sys.exit(143)")
    code, told = runs()
    assert (code, told["state"]) == (PREEMPTED, "preempted")


def test_a_second_machine_leaves_the_job_alone(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT", 0.5)  # it looks for four of them
    out = str(tmp_path / "out")
    assert attempts.begin(out, limit=3, me={"host": "other"}) == 1
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.05):
            attempts.beat(out, 1, 1.0)

    beats = threading.Thread(target=live)
    beats.start()
    try:
        assert runs()[0] == DUPLICATE
    finally:
        over.set()
        beats.join()


def test_one_that_was_taken_for_dead_ends_and_does_not_overwrite_the_end(runs: Runs, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    second = tmp_path / "out/attempts/002.json"
    other = soon(lambda: second.write_text("{}"), lambda: attempts.read(out).state == "running")
    code, told = runs("long")
    other.join()
    assert code == PREEMPTED
    assert told == {}  # the end of the job is the second one's to tell
    ended = json.loads((tmp_path / "out/attempts/001.end.json").read_text())
    assert ended["reason"] == "another machine has taken over"


def test_inputs_are_where_the_machine_has_them(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_INPUT_1", "/mnt/photos")
    words = ["io.training_input=s3://b/photos", "weights=s3://b/w"]
    runs(inputs=["s3://b/none", "s3://b/photos"], arguments=words)
    assert json.loads(log(tmp_path).splitlines()[1])["words"][1:3] == ["io.training_input=/mnt/photos", words[1]]


def test_large_code_comes_in_parts(runs: Runs, tmp_path: Path) -> None:
    place = tmp_path / aboard.CODE / aboard.PARTS
    place.mkdir(parents=True)
    for name in ("one", "two"):
        data, content = io.BytesIO(), f"{name}\n".encode()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            info = tarfile.TarInfo(f"model/{name}.txt")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        (place / f"{name}.tar.gz").write_bytes(data.getvalue())
    (tmp_path / "work/.inflame").mkdir()
    (tmp_path / "work/.inflame/parts.json").write_text('["one", "two"]')
    assert runs()[0] == 0
    assert (tmp_path / "work/model/two.txt").read_text() == "two\n"
    (place / "two.tar.gz").unlink()
    (tmp_path / "out/exit.json").unlink()
    code, told = runs()
    assert (code, told["state"]) == (1, "failed")
    assert "two.tar.gz" in told["reason"]


def test_an_output_that_cannot_be_written_is_told(
    runs: Runs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "conclude", lambda *_: None)
        assert aboard.run({"output": str(tmp_path / "out"), "attempts": 3, "count": 1}, tmp_path, Stop(), 0.0) == 1
    assert "error: " in capfd.readouterr().err


def test_a_further_machine_follows_the_first(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setattr(aboard, "training", without_torchrun)
    out = str(tmp_path / "out")
    assert attempts.begin(out, limit=3, me={"host": "first"}) == 1
    attempts.beat(out, 1, 0.0)
    assert runs(count=2)[0] == 0
    assert attempts.lines(out, 1)[0][0] == "epoch 1"
    shutil.rmtree(tmp_path / "out/log")
    stop = Stop()
    taker = soon(lambda: setattr(stop, "signal", 15), lambda: "epoch 1" in attempts.lines(out, 1)[0])
    assert runs("long", count=2, stop=stop)[0] == PREEMPTED
    taker.join()
    assert (tmp_path / "out/attempts/001.lost-1").is_file()


def test_the_first_of_several_is_not_to_blame_for_another_that_was_taken(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aboard, "training", without_torchrun)
    monkeypatch.setattr(attempts, "BEAT", 0.5)
    lost = tmp_path / "out/attempts/001.lost-1"
    other = soon(lambda: lost.write_text(""), (tmp_path / "out/attempts").is_dir)
    code, told = runs("fails", count=2)
    other.join()
    assert (code, told["state"]) == (PREEMPTED, "preempted")
    assert told["reason"] == "another one of its machines is taken away"


# --- before inflame is there ---------------------------------------------------------------------


def test_the_first_signal_counts_and_all_are_handed_on() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    try:
        stop, heard = bootstrap.Stop(), list[int]()
        stop.heard.append(heard.append)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGHUP
        assert heard == [signal.SIGHUP, signal.SIGTERM]
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
