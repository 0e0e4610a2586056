import errno
import fcntl
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
from typing import Any

import pytest

from inflame import host, runs, store
from inflame.config import Hyperparam, Settings
from inflame.errors import DataError, NetworkError, StorageError, UserError
from inflame.runs import Run, lock, provenance
from inflame.runs.provenance import gather
from inflame.runs.run import Cost

# A training that does as it is told: `hold` until it is killed, `leave` the folder, or `finish`.
CHILD = """\
import sys, time
from inflame.config import Settings
from inflame.runs import Run
what, identity, output = sys.argv[1:]
settings = Settings(model="m", folder="m", output=output)
if what == "finish":
    with Run.begin(settings, identity, "d") as run:
        print(run.path, run.resumed, flush=True)
else:
    run = Run.begin(settings, identity, "d")
    run.metric(epoch=1)
    run.flush()
    print(run.path, run.resumed, flush=True)
    time.sleep(60 if what == "hold" else 0)
"""


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts such a training in a process of its own and waits until it has its folder."""
    started: list[subprocess.Popen[str]] = []

    def begin(what: str, identity: str = "i", output: str = "") -> tuple[subprocess.Popen[str], Path, bool]:
        words = [sys.executable, "-c", CHILD, what, identity, output]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        path, _, resumed = child.stdout.readline().rpartition(" ")
        return child, Path(path), resumed.strip() == "True"

    yield begin
    for child in started:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def settings(**more: Any) -> Settings:
    return Settings(model="my model", folder="m", **more)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def raise_in(run: Run, error: BaseException) -> None:
    with run:
        raise error


# --- one run -------------------------------------------------------------------------------------


def test_a_run_from_begin_to_end(home: Path) -> None:
    with Run.begin(settings(seed=5), "abc", "my photos/é") as run:
        assert run.path == home / "runs" / "my-model-my-photos-é-001"
        assert (run.state, run.resumed, run.bundle) == ("running", False, None)
        assert json.loads((run.path / "config.json").read_text())["seed"] == 5
        run.status(epoch=3)
        run.write("bundle/bundle.json", {"version": 1})
    status = run.read_status()
    assert (run.state, status["epoch"], status["identity"], status["dataset"]) == ("done", 3, "abc", "my photos/é")
    assert 0 <= time.time() - status["updated"] < 60
    assert run.bundle == run.path / "bundle"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (SystemExit(0), "done"),
        (ValueError("boom"), "failed"),
        (UserError("no", remedy="do"), "failed"),
    ],
)
def test_how_a_run_ended_is_written_down(error: BaseException, state: str) -> None:
    run = Run.begin(settings(), "i", "d")
    with pytest.raises(type(error)):
        raise_in(run, error)
    assert runs.find(run.name).state == state
    if state == "failed":
        assert str(error) in run.read_status()["error"]
        assert str(error) in (run.path / "log.txt").read_text()


def test_what_is_said_goes_to_people_and_to_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Run.begin(settings(), "i", "d") as run:
        run.say("half way \udce9")
    assert "half way" in capsys.readouterr().err
    assert "half way \\udce9\n" in (run.path / "log.txt").read_text()


def test_metrics_are_rows_and_what_is_not_finite_is_null() -> None:
    import numpy as np

    with Run.begin(settings(), "i", "d") as run:
        run.metric(epoch=1, loss=np.float32(0.5), n=np.int64(3))
        run.metric(epoch=2, loss=float("nan"), accuracy=np.float64("inf"))
        assert run.metrics() == [{"epoch": 1, "loss": 0.5, "n": 3}, {"epoch": 2, "loss": None, "accuracy": None}]


def test_metrics_wait_in_memory_for_less_than_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("inflame.runs.run.time.monotonic", lambda: now[0])
    with Run.begin(settings(), "i", "d") as run:
        run.metric(epoch=1)
        assert runs.read_metrics(run.path / "metrics.jsonl") == []
        now[0] += 1.5
        run.metric(epoch=2)
        assert len(runs.read_metrics(run.path / "metrics.jsonl")) == 2


def test_a_resume_drops_the_rows_after_its_checkpoint() -> None:
    with Run.begin(settings(), "i", "d") as run:
        for epoch in range(5):
            run.metric(epoch=epoch)
        run.metric(note="kept")
        run.rewind("epoch", 2)
        run.metric(epoch=3)
        assert run.metrics() == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}, {"note": "kept"}, {"epoch": 3}]


def test_a_resume_leaves_the_rows_of_other_stages() -> None:
    with Run.begin(settings(), "i", "d") as run:
        for stage in ("first", "second"):
            for epoch in range(3):
                run.metric(epoch=epoch, stage=stage)
        run.rewind("epoch", 0, stage="second")
        assert [(row["stage"], row["epoch"]) for row in run.metrics()] == [
            ("first", 0),
            ("first", 1),
            ("first", 2),
            ("second", 0),
        ]


def test_a_found_run_is_for_reading() -> None:
    with Run.begin(settings(), "i", "d") as run:
        pass
    with pytest.raises(StorageError, match="reading only"):
        runs.find(run.name).metric(epoch=1)


def test_the_seconds_of_all_sittings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("inflame.runs.run.time.monotonic", lambda: now[0])
    run = Run.begin(settings(), "i", "d")
    now[0] += 10
    with pytest.raises(KeyboardInterrupt):
        raise_in(run, KeyboardInterrupt())
    again = Run.begin(settings(), "i", "d")
    now[0] += 5
    again.status()
    again.close()
    assert (again.resumed, again.read_status()["seconds"], again.read_status()["sittings"]) == (True, 15.0, 2)


def test_provenance_names_code_machine_and_versions(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "train.py").write_text("one\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (tmp_path / "train.py").write_text("two\n")
    (tmp_path / "new.py").touch()
    facts = gather(Settings(model="m", folder=str(tmp_path), seed=4))
    assert len(facts["git"]["commit"]) == 40
    assert "+two" in facts["git"]["diff"]
    assert facts["git"]["untracked"] == ["new.py"]
    assert facts["versions"]["python"].startswith("3.")
    assert facts["seed"] == 4
    assert facts["hardware"]["cores"] >= 1
    json.dumps(facts)


def test_provenance_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert gather(Settings(model="m", folder=str(tmp_path)))["git"] is None


# --- going on ------------------------------------------------------------------------------------


def test_a_killed_run_is_gone_on_with(start: Any) -> None:
    child, path, resumed = start("hold")
    assert not resumed
    assert runs.find(path).state == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert runs.find(path).state == "interrupted"
    (path / ".tmp-1-0123abcd").write_text("half a checkpoint")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epo')  # as a kill leaves it
    child, again, resumed = start("finish")
    assert (again, resumed, child.wait()) == (path, True, 0)
    assert runs.find(path).state == "done"
    assert not any(name.startswith(".tmp-") for name in names(path))
    assert (path / "metrics.jsonl").read_text() == '{"epoch":1}\n'


def test_a_finished_run_another_identity_and_fresh_begin_anew(start: Any) -> None:
    _, first, _ = start("leave")
    assert Run.begin(settings(), "other", "d").path != first
    assert Run.begin(settings(fresh=True), "i", "d").path != first
    with Run.begin(settings(), "i", "d") as run:
        assert (run.path, run.resumed) == (first, True)
    assert Run.begin(settings(), "i", "d").path != first


def test_a_living_run_is_left_alone(start: Any) -> None:
    _, first, _ = start("hold")
    with Run.begin(settings(), "i", "d") as run:
        assert run.path != first
        assert not run.resumed


def test_many_starts_at_once_have_a_folder_each() -> None:
    words = [sys.executable, "-c", CHILD, "hold", "i", ""]
    children = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    lines = []
    for child in children:
        assert child.stdout is not None
        lines.append(child.stdout.readline())
        child.stdout.close()
    for child in children:
        child.kill()
        child.wait()
    assert len(set(lines)) == 6
    assert all(line.endswith("False\n") for line in lines)


def test_a_forked_worker_does_not_keep_the_run_of_its_dead_parent() -> None:
    fork = "import os; ready, go = os.pipe(); worker = os.fork() == 0"
    wait = "os.write(go, b'1') and time.sleep(30) if worker else os.read(ready, 1)"
    code = CHILD.replace("    print(run.path", f"    {fork}\n    {wait}\n    print(run.path")
    words = [sys.executable, "-c", code, "hold", "i", ""]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    path = Path(child.stdout.readline().rpartition(" ")[0])
    try:
        assert runs.find(path).state == "running"
        child.kill()
        child.wait()
        assert runs.find(path).state == "interrupted"
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()


def test_resume_names_a_run_wherever_it_runs_and_for_however_long(start: Any) -> None:
    _, first, _ = start("leave", "old identity")
    moved = Settings(
        model="m", folder="elsewhere", resume=first.name, devices=2, tracker="mlflow", budget=9.0, cache_gb=1.0
    )
    with Run.begin(moved, "new identity", "d") as run:
        assert (run.path, run.resumed) == (first, True)
        assert run.read_status()["differs"] == []
    with pytest.raises(UserError, match="is finished"):
        Run.begin(settings(resume=first.name), "i", "d")
    _, living, _ = start("hold")
    with pytest.raises(UserError, match="another process"):
        Run.begin(settings(resume=living.name), "i", "d")


def trained_with(**hyperparam: Any) -> Run:
    """An unfinished run with these settings, on data of version 0123456789."""
    given = Settings(model="m", folder="m", hyperparam=Hyperparam(**hyperparam))
    run = Run.begin(given, "old", "d", "0123456789")
    run.write("dataset.json", {"name": "digits", "version": "0123456789"})
    run.close()
    return run


def test_resume_with_other_settings_is_refused_with_what_differs_and_force_goes_on() -> None:
    run = trained_with(learning_rate=0.1, size=28)
    other = Settings(model="m", folder="m", resume=run.name, seed=3, hyperparam=Hyperparam(learning_rate=0.2, size=28))
    with pytest.raises(UserError, match="other settings or data") as caught:
        Run.begin(other, "new", "d", "9876543210")
    for line in (
        "hyperparam.learning_rate=0.1 there, 0.2 here",
        "seed=0 there, 3 here",
        "digits, version 01234567 there, version 98765432 here",
    ):
        assert line in caught.value.message
    assert "size" not in caught.value.message
    assert "force=true" in caught.value.remedy
    again = Run.begin(replace(other, force=True), "new", "d", "9876543210")
    assert (again.path, again.resumed) == (run.path, True)
    assert len(again.read_status()["differs"]) == 3
    again.close()
    with Run.begin(replace(other, force=True), "new", "d", "9876543210") as third:  # the same words once more
        assert third.read_status()["differs"] == []


def test_no_more_than_five_differences_are_told() -> None:
    run = trained_with(**{f"h{number}": number for number in range(8)})
    other = Settings(model="m", folder="m", code="new", resume=run.name, hyperparam=Hyperparam())
    with pytest.raises(UserError) as caught:
        Run.begin(other, "new", "d", "0123456789")
    assert caught.value.message.count(" there, ") + caught.value.message.count("code:") == 5
    assert "and 4 more" in caught.value.message


# --- output elsewhere ----------------------------------------------------------------------------


def test_output_elsewhere_is_known_by_a_link(tmp_path: Path, home: Path) -> None:
    with Run.begin(settings(output=str(tmp_path / "out é")), "i", "d") as run:
        assert run.path == tmp_path / "out é"
    link = home / "runs" / "my-model-d-001"
    assert link.resolve() == run.path
    assert [found.path for found in runs.list_runs()] == [run.path]
    assert runs.find(link.name).path == runs.find("out é").path == runs.find(run.path).path == run.path
    assert Run.begin(settings(), "i", "d").path.name == "my-model-d-002"


def test_output_is_gone_on_with_when_it_is_the_same_run(tmp_path: Path, start: Any) -> None:
    output = str(tmp_path / "out")
    start("leave", "i", output)
    _, _, resumed = start("finish", "i", output)
    assert resumed


def test_output_with_another_run_is_refused(tmp_path: Path, start: Any) -> None:
    output = str(tmp_path / "out")
    start("leave", "one", output)
    with pytest.raises(UserError, match="an unfinished one") as caught:
        Run.begin(replace(settings(output=output), seed=2, budget=9.0), "two", "d")
    assert "seed=0 there, 2 here; in=null there, 9.0 here" in caught.value.message
    assert "fresh=true" in caught.value.remedy
    with Run.begin(settings(output=output, fresh=True), "two", "d") as run:
        assert not run.resumed
    for fresh in (False, True):
        with pytest.raises(UserError, match="a finished one"):
            Run.begin(settings(output=output, fresh=fresh), "three", "d")
    assert run.state == "done"


def test_output_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"):
        Run.begin(settings(output=str(tmp_path)), "i", "d")
    assert names(tmp_path) == ["thesis.tex"]


def test_output_where_another_process_works_is_refused(tmp_path: Path, start: Any) -> None:
    start("hold", "i", str(tmp_path / "out"))
    with pytest.raises(UserError, match="Another process"):
        Run.begin(settings(output=str(tmp_path / "out")), "i", "d")


def test_output_done_again_keeps_the_old_model_until_the_new_one_is_there(tmp_path: Path) -> None:
    there = settings(output=str(tmp_path / "out"))
    with Run.begin(there, "i", "d") as run:
        run.write("bundle/bundle.json", {"version": 1})
    again = Run.begin(there, "i", "d")
    assert (again.resumed, again.bundle) == (False, None)
    assert (again.path / ".previous" / "bundle" / "bundle.json").is_file()
    with pytest.raises(KeyboardInterrupt):
        raise_in(again, KeyboardInterrupt())
    third = Run.begin(there, "i", "d")
    assert third.resumed
    with third:
        assert (third.path / ".previous" / "bundle").is_dir()
    assert ".previous" not in names(third.path)


def test_output_at_a_uri_is_a_copy(home: Path) -> None:
    uri = f"memory://box-{home.name}/run"
    with Run.begin(settings(output=uri), "i", "d") as run:
        assert json.loads(store.read_text(f"{uri}/status.json"))["state"] == "running"
        run.write("last/x.bin", b"1")
        run.push()
        assert store.read_bytes(f"{uri}/last/x.bin") == b"1"
    assert json.loads(store.read_text(f"{uri}/status.json"))["state"] == "done"
    assert run.path.parent == home / "runs"


def test_an_interrupted_run_does_not_wait_for_a_bucket_that_takes_for_ever(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    free, put = threading.Event(), MemoryFileSystem.put_file

    def slow(self: Any, path: str, place: str, **how: Any) -> None:
        if path.endswith("x.bin"):
            free.wait(60)
        put(self, path, place, **how)

    monkeypatch.setattr(MemoryFileSystem, "put_file", slow)
    monkeypatch.setattr("inflame.runs.run.PUSHING", 0.2)
    uri = f"memory://box-{home.name}/run"
    run = Run.begin(settings(output=uri), "i", "d")
    run.write("last/x.bin", b"1")
    with pytest.raises(KeyboardInterrupt):
        raise_in(run, KeyboardInterrupt())
    assert not free.is_set()
    assert run.read_status()["state"] == run.state == "interrupted"
    assert f"it is in {run.path}" in capsys.readouterr().err
    free.set()


def test_an_unreachable_uri_says_that_the_run_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.begin(settings(output="memory://box/unreachable"), "i", "d")

    def refuse(path: Path, uri: str) -> None:
        raise NetworkError("No route.", remedy="x")

    (run.path / "new").touch()
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", refuse)
        with pytest.raises(NetworkError, match="The run itself is whole"):
            run.push()
        run.pushed(run.path / "new")  # while training goes on that stops nothing
    assert "not copied yet" in (run.path / "log.txt").read_text()
    run.close()


def test_a_run_at_a_uri_goes_on_on_another_machine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"memory://box-{home.name}/elsewhere"
    run = Run.begin(settings(output=uri), "i", "d")
    run.write("last/x.bin", b"1")
    run.metric(epoch=1)
    run.status()
    run.push()
    run.close()  # a power cut
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "another"))
    with Run.begin(settings(output=uri), "i", "d") as again:
        assert again.resumed
        assert again.path.is_relative_to(tmp_path / "another")
        assert (again.path / "last" / "x.bin").read_bytes() == b"1"
        assert again.metrics() == [{"epoch": 1}]
        assert again.read_status()["sittings"] == 2
    with pytest.raises(UserError, match="holds another run, a finished one"):
        Run.begin(settings(output=uri), "j", "d")


# --- finding -------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_the_last_model_found() -> None:
    assert runs.list_runs() == []
    assert runs.latest() is None
    made = []
    for identity in "abc":
        with Run.begin(settings(), identity, "d") as run:
            made.append(run.path)
            if identity != "c":
                run.write("bundle/bundle.json", {})
        time.sleep(0.005)
    assert [run.path for run in runs.list_runs()] == made[::-1]
    model, last = runs.latest(), runs.latest(with_bundle=False)
    assert model is not None
    assert last is not None
    assert (model.path, last.path) == (made[1], made[2])
    assert runs.find(made[1] / "bundle").path == made[1]


def test_an_unknown_run_gets_a_guess() -> None:
    with pytest.raises(DataError, match="There is no run") as caught:
        runs.find("x")
    assert "inflame train" in caught.value.remedy
    with Run.begin(settings(), "i", "d"):
        pass
    with pytest.raises(DataError, match='Did you mean "my-model-d-001"'):
        runs.find("my-model-d-01")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"updated": "yesterday"}', '{"updated": null}'])
def test_a_spoilt_status_spoils_no_list(content: str) -> None:
    with Run.begin(settings(), "i", "d") as run:
        pass
    with Run.begin(settings(), "i", "d"):
        pass
    (run.path / "status.json").write_text(content)
    assert len(runs.list_runs()) == 2
    assert runs.find(run.name).state == "interrupted"


# --- places that refuse --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_place_that_refuses_is_a_storage_error(monkeypatch: pytest.MonkeyPatch, home: Path, number: int) -> None:
    store.home()

    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError) as caught:
        Run.begin(settings(), "i", "d")
    assert "INFLAME_HOME" in caught.value.remedy


def test_a_full_disk_at_the_end_does_not_hide_what_went_wrong_first(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.begin(settings(), "i", "d")

    def refuse(*args: object) -> None:
        raise StorageError("full", remedy="x")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", refuse)
        with pytest.raises(ZeroDivisionError):
            raise_in(run, ZeroDivisionError())
    assert runs.find(run.name).state == "interrupted"


def test_metrics_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    run = Run.begin(settings(), "i", "d")
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    run.metric(epoch=1)
    with pytest.raises(StorageError, match="full"):
        run.flush()
    run.close()


# --- the lock ------------------------------------------------------------------------------------


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not lock.held(path)
    mine = lock.take(path)
    assert mine is not None
    assert lock.held(path)
    assert lock.take(path) is None
    mine.release()
    mine.release()
    assert not lock.held(path)


def test_a_lock_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StorageError, match="full"):
        lock.take(tmp_path / "lock")
    assert not lock.held(tmp_path / "lock")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system without locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_process_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    mine = lock.take(path)
    assert mine is not None
    assert lock.held(path)
    assert lock.take(path) is None
    mine.release()
    again = lock.take(path)
    assert again is not None
    again.release()


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(
    ("owner", "silent", "alive"),
    [
        ({"pid": 2**22 + 1, "born": "1"}, 0, False),  # no such process
        ({"born": "1"}, 0, False),  # its number was given to another one
        ({"host": "elsewhere"}, 0, True),
        ({"host": "elsewhere"}, lock.STALE + 60, False),
        ({}, lock.STALE + 60, True),
        (None, 0, False),
    ],
)
def test_without_locks_who_counts_as_alive(tmp_path: Path, owner: Any, silent: float, alive: bool) -> None:
    path = tmp_path / "lock"
    path.write_text("torn {" if owner is None else json.dumps({**lock._me(), **owner}))
    os.utime(path, (time.time() - silent,) * 2)
    assert lock.held(path) == alive


def test_importing_the_floor_imports_nothing_heavy() -> None:
    code = (
        "import sys, inflame.errors, inflame.store, inflame.plugins, inflame.runs, inflame.records\n"
        "heavy = ('numpy', 'torch', 'pyarrow', 'fsspec', 'hydra', 'omegaconf', 'tomllib', 'subprocess')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_a_run_costs_is_counted_over_all_sittings(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([100.0, *[107.5] * 20])
    monkeypatch.setattr(host, "cpu_seconds", lambda: next(used))
    monkeypatch.setattr(host, "holds_gpu", lambda: True)
    with pytest.raises(KeyboardInterrupt), Run.begin(Settings(model="m", folder="m", devices=2), "abc", "x") as run:
        raise KeyboardInterrupt
    cost = run.read_status()["cost"]
    assert cost["cpu_s"] == 7.5
    assert cost["gpu_s"] == pytest.approx(2 * cost["wall_s"], abs=0.002)
    used = iter([1.0, *[2.0] * 20])
    with Run.begin(Settings(model="m", folder="m", devices=2), "abc", "x") as again:
        pass
    assert again.resumed
    assert again.read_status()["cost"]["cpu_s"] == 8.5


def test_the_first_run_of_a_process_bears_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_seconds", lambda: 30.0)
    monkeypatch.setattr(Cost, "alone", True)
    monkeypatch.setenv("INFLAME_STARTED", repr(time.time() - 50))
    first, second = Cost().now(), Cost().now()
    assert (first["cpu_s"], second["cpu_s"]) == (30.0, 0.0)
    assert first["wall_s"] == pytest.approx(50, abs=1)
    assert second["wall_s"] < 1


def test_runs_that_differ_in_their_seed_share_a_recipe() -> None:
    found = []
    for settings in (
        Settings(model="m", folder="m"),
        Settings(model="m", folder="m", seed=7),
        Settings(model="n", folder="m"),
    ):
        with Run.begin(settings, settings.identity(), "x") as run:
            found.append(run.read_status())
    assert found[0]["recipe"] == found[1]["recipe"] != found[2]["recipe"]
    assert [status["seed"] for status in found] == [0, 7, 0]


def test_the_version_of_the_code_is_the_commit_and_what_was_changed_since() -> None:
    around = {"commit": "abcdef0123456789", "diff": "", "untracked": []}
    assert provenance.code("f" * 64, around, "0.1") == "abcdef0"
    assert provenance.code("f" * 64, None, "0.1.0") == "0.1.0-fffffff"
    changed = provenance.code("f" * 64, {**around, "diff": "- a\n+ b"}, "0.1")
    assert changed.startswith("abcdef0+")
    assert changed != provenance.code("f" * 64, {**around, "diff": "- a\n+ c"}, "0.1")
