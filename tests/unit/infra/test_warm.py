"""Jobs forked from a process that has everything in memory, with a model folder that is not even inflame's."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame.errors import DataError, UserError
from inflame.factory.sweep import cards, slots
from inflame.infra.launcher import ENDED
from inflame.infra.pools.warm import Warm
from inflame.records import Job, JobSpec

APP = """
import json, os, pathlib, signal, sys, threading, time
import numpy  # this takes a while
if "--help" in sys.argv:
    print("some help")
    sys.exit()
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"]); run.mkdir(parents=True)
import colorsys  # on the way
arrived = {
    "argv": sys.argv, "token": os.environ.get("TOKEN"), "threads": os.environ.get("OMP_NUM_THREADS"),
    "cores": sorted(os.sched_getaffinity(0)), "parent": os.getppid(), "session": os.getsid(0), "pid": os.getpid(),
    "dice": float(numpy.random.random()), "alive": threading.active_count(), "warm": "colorsys" in before,
    "name": __name__, "cwd": os.getcwd(), "stdin": sys.stdin.read(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
}
(run / "words.json").write_text(json.dumps(arrived))
def save(*_):
    (run / "saved").touch(); print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("Grüße, line one", flush=True)
if "child" in words:
    os.fork()
time.sleep(float(words.get("sleep", 0)))
print('{"a": 1}')
if words.get("code") == "raise":
    raise ValueError("no")
sys.exit(int(words.get("code", 0)))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    app = APP.replace("import numpy", "before = set(sys.modules)\nimport numpy", 1)
    (folder / "app.py").write_text(app, encoding="utf-8")
    return folder


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    cores = sorted(os.sched_getaffinity(0))
    with Warm([[core] for core in cores[:2]]) as made:
        yield made


def send(pool: Warm, model: Path, *words: str, name: str = "", slot: int = 0, **variables: str) -> Job:
    request = pool.request(JobSpec(model=str(model), arguments=words))
    return pool.send(pool.asked(request, name=name, slot=slot, variables=variables))


def wait(pool: Warm, job: Job, seconds: float = 30) -> Job:
    end = time.monotonic() + seconds
    while (now := pool.status(job)).status not in ENDED:
        assert time.monotonic() < end, f"{now} after {seconds} s"
        pool.wait(0.05)
    return now


def arrived(pool: Warm, job: Job) -> dict[str, Any]:
    return dict(json.loads((pool.fetch(job) / "words.json").read_text()))


def until(there: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_words_variables_cores_and_output_arrive(pool: Warm, model: Path) -> None:
    jobs = [send(pool, model, "name=two words $HOME", slot=slot, TOKEN=f"hush {slot}") for slot in (0, 1)]
    done = [wait(pool, job) for job in jobs]
    assert [(job.status, job.code) for job in done] == [("done", 0), ("done", 0)]
    told = [arrived(pool, job) for job in done]
    for slot, (job, one) in enumerate(zip(done, told, strict=True)):
        assert one["argv"] == [str(model / "app.py"), "train", "name=two words $HOME", f"output={job.output}"]
        assert (one["token"], one["name"], one["stdin"]) == (f"hush {slot}", "__main__", "")
        assert one["cores"] == pool.slots[slot % len(pool.slots)]
        assert (one["threads"], one["alive"]) == ("1", 1)
        assert one["session"] == one["pid"]
        assert one["cwd"] == str(Path.cwd())
    assert told[0]["parent"] == told[1]["parent"], "one zygote"
    assert told[0]["dice"] != told[1]["dice"], "not the same numbers in every fork"
    assert list(pool.logs(done[0])) == ["Grüße, line one", '{"a": 1}']
    assert pool.said(done[0])[0] == "Grüße, line one"


def test_a_line_is_in_the_log_when_it_is_said(pool: Warm, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, time\nif '--help' in sys.argv: sys.exit()\nprint('half way')\ntime.sleep(60)\n"
    )
    job = send(pool, tmp_path)
    until(lambda: list(pool.logs(job)) == ["half way"])
    assert pool.cancel(job, signal.SIGKILL).status == "running"


def test_an_app_may_have_a_stdout_of_its_own(pool: Warm, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys\nclass Tee:\n    def write(self, text): sys.__stdout__.write(text.upper())\n"
        "    def flush(self): sys.__stdout__.flush()\nsys.stdout = Tee()\n"
        "if '--help' not in sys.argv: print('half way')\n"
    )
    job = wait(pool, send(pool, tmp_path))
    assert (job.status, list(pool.logs(job))) == ("done", ["HALF WAY"])


def test_each_job_sees_the_gpus_of_its_slot(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,MIG-b,7")
    with Warm(slots(3), cards(3)) as pool:
        sent = [wait(pool, send(pool, model, slot=slot)) for slot in (0, 1, 2)]
        told = [arrived(pool, one) for one in sent]
        assert [Warm(slots(3), cards(3)).place(one) for one in sent] == [0, 1, 2], "also where they share a core"
    assert [one["gpus"] for one in told] == ["GPU-a", "MIG-b", "7"]
    assert told[0]["parent"] == told[2]["parent"], "the process that they are forked from has none of its own"
    with Warm(slots(1)) as pool:
        assert arrived(pool, wait(pool, send(pool, model)))["gpus"] == "GPU-a,MIG-b,7", "as it is, where nobody deals"


def test_what_the_first_job_imports_the_next_ones_have(pool: Warm, model: Path) -> None:
    assert not arrived(pool, wait(pool, send(pool, model)))["warm"]
    until(lambda: arrived(pool, wait(pool, send(pool, model)))["warm"])


@pytest.mark.parametrize(("code", "found"), [("3", 3), ("0", 0), ("raise", 1)])
def test_codes(pool: Warm, model: Path, code: str, found: int) -> None:
    job = wait(pool, send(pool, model, f"code={code}"))
    assert (job.code, job.status) == (found, "failed" if found else "done")
    if code == "raise":
        assert "ValueError: no" in "\n".join(pool.logs(job))


def test_a_job_of_the_same_name_is_not_begun_again(pool: Warm, model: Path) -> None:
    first = wait(pool, send(pool, model, name="trial-1"))
    assert pool.knows(first)
    before = (pool.fetch(first) / "words.json").stat().st_mtime_ns
    assert wait(pool, send(pool, model, name="trial-1")).code == 0
    with Warm([[0]]) as other:
        assert wait(other, send(other, model, name="trial-1")).code == 0
        assert (other.fetch(first) / "words.json").stat().st_mtime_ns == before


def test_cancel_lets_it_save_and_sigkill_does_not(pool: Warm, model: Path) -> None:
    for number, code, saved in ((signal.SIGTERM, 143, True), (signal.SIGKILL, 137, False)):
        job = send(pool, model, "sleep=60")
        until(lambda job=job: list(pool.logs(job)))
        pool.cancel(job, number)
        ended = wait(pool, job)
        assert ended.code == code
        assert ended.status == ("stopped" if saved else "failed")
        assert (pool.fetch(ended) / "saved").exists() == saved


def test_who_comes_later_sees_it_and_a_job_outlives_its_zygote(pool: Warm, model: Path, home: Path) -> None:
    job = send(pool, model, "sleep=1.5", "code=4")
    until(lambda: list(pool.logs(job)))
    zygote = arrived(pool, job)["parent"]
    os.kill(zygote, signal.SIGKILL)
    other = Warm(pool.slots)
    assert other.status(job).status == "running"
    assert other.place(job) == 0
    assert wait(other, job).code == 4
    again = wait(pool, send(pool, model))
    assert again.code == 0, "another zygote was made"
    assert arrived(pool, again)["parent"] != zygote


def test_a_job_that_was_killed_with_its_zygote_is_seen_as_killed(pool: Warm, model: Path) -> None:
    job = send(pool, model, "sleep=60", "child=1")
    until(lambda: list(pool.logs(job)))
    told = arrived(pool, job)
    os.kill(told["parent"], signal.SIGKILL)
    os.kill(told["pid"], signal.SIGKILL)
    found = wait(pool, job)
    assert (found.status, found.code) == ("failed", 137), "also where a child of it lives on"
    os.killpg(told["session"], signal.SIGKILL)


def test_an_order_that_a_dead_zygote_took_with_it_is_stopped_not_killed(pool: Warm, model: Path) -> None:
    (model / "app.py").write_text("import time; time.sleep(60)")
    job = send(pool, model)
    assert pool._zygote is not None
    pool._zygote.kill()
    found = wait(pool, job, 10)
    assert (found.status, found.code) == ("stopped", 143)


def test_what_is_refused(pool: Warm, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no app\.py"):
        pool.request(JobSpec(model=str(tmp_path)))
    with pytest.raises(UserError, match="NOT_SET"):
        pool.send(pool.request(JobSpec(model=str(model), environment=("NOT_SET",))))
    with pytest.raises(UserError, match="one machine"):
        pool.request(JobSpec(model=str(model), count=2))
    with pytest.raises(UserError, match="nowhere-7"):
        pool.status(Job(id="nowhere-7", backend="warm", status="running"))
    assert pool.request(JobSpec(model=str(model))) == json.loads(json.dumps(pool.request(JobSpec(model=str(model)))))
