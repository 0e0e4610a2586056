"""Mirroring with trackers that strangers wrote, found by their entry points, which behave well or badly."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inflame import plugins
from inflame.config import Settings
from inflame.errors import MissingExtra, RunError, SettingError, UserError
from inflame.model.engine import hooks
from inflame.model.engine.trackers import following, mirror, story, system
from inflame.runs import Run, lock

STRANGER = '''
import json, os, socket, sys, time, urllib.request
from inflame.model.engine.trackers import Tracker

class Spy(Tracker):
    """Writes down what it is told."""
    def place(self): return os.environ.get("PLACE", "here")
    def begin(self, about, key):
        print("noise"); print("more noise", file=sys.stderr)
        self.tell("begin", about.run, about.version, about.settings["seed"], key)
        return key or "k1"
    def numbers(self, points): self.tell("numbers", [[p.step, dict(p.values)] for p in points])
    def picture(self, name, file): self.tell("picture", name, file.read_bytes()[:4].hex())
    def files(self, name, path): self.tell("files", name, path.name)
    def end(self, state, summary):
        self.tell("end", state, summary)
        return "somewhere"
    def tell(self, *words):
        with open(os.environ["SPY"], "a") as file: file.write(json.dumps(words) + "\\n")

class Raises(Spy):
    def numbers(self, points): raise ValueError("no numbers today")

class Mends(Spy):
    """Fails until the file is there."""
    def numbers(self, points):
        if not os.path.exists(os.environ["SPY"] + ".ok"): raise ConnectionError("not yet")
        super().numbers(points)

class Hangs(Spy):
    def begin(self, about, key):
        host, port = os.environ["SERVER"].split(":")
        with socket.create_connection((host, int(port))) as server:
            server.sendall(b"hello"); server.recv(1)

class Refused(Spy):
    def begin(self, about, key): urllib.request.urlopen("http://" + os.environ["SERVER"])

class Dies(Spy):
    def numbers(self, points): os.abort()

class Sleeper(Spy):
    """Leaves a process behind that nobody waits for."""
    def begin(self, about, key):
        import subprocess
        child = subprocess.Popen(["sleep", "300"])
        self.tell("child", child.pid)
        return "k1"
'''
NAMES = ("Spy", "Raises", "Mends", "Hangs", "Refused", "Dies", "Sleeper")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package of trackers."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "stranger.py").write_text(STRANGER)
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    lines = [f"{name.lower()} = stranger:{name}" for name in NAMES]
    (info / "entry_points.txt").write_text("[inflame.tracker]\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def told(strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """What the spies were told so far."""
    monkeypatch.syspath_prepend(strangers)
    monkeypatch.setenv("PYTHONPATH", str(strangers))
    monkeypatch.setenv("SPY", str(tmp_path / "spy"))
    monkeypatch.setenv(following.WAIT, "3")

    def read() -> list[Any]:
        file = tmp_path / "spy"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return read


def settings(**more: Any) -> Settings:
    return Settings(model="m", folder="m", seed=5, **more)


def fill(run: Run, epochs: int = 3) -> None:
    """What a training leaves in its folder."""
    for epoch in range(1, epochs + 1):
        run.metric(epoch=epoch, step=10 * epoch, loss=1 / epoch, nothing=None, odd="text", seconds=epoch / 10)
    (run.path / "bundle").mkdir(exist_ok=True)
    run.write("bundle/bundle.json", "{}")
    run.write("dataset.json", {"name": "d", "version": "v7", "classes": ["a", "b"]})
    run.write("report.json", {"confusion": {"classes": ["a", "b"], "matrix": [[3, 1], [0, 4]]}})
    run.write("report.html", "<p>")
    run.status(test={"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 20})


def finished(**more: Any) -> Run:
    with Run.begin(settings(**more), "i", "d") as run:
        fill(run)
    return Run(path=run.path)


def memo(run: Run, name: str) -> dict[str, Any]:
    return mirror.memo(run.path, name)


# --- a tracker that behaves ----------------------------------------------------------------------


def test_all_arrives_while_the_run_goes_on_and_at_its_end(
    told: Callable[[], list[Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    with following.mirrored(following.wanted("jsonl,spy")) as begin, Run.begin(settings(), "i", "d") as run:
        begin(run)
        run.metric(epoch=1, step=10, loss=0.5)
        run.flush()
        end = time.monotonic() + 30
        while len(told()) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        assert told()[1] == ["numbers", [[10, {"epoch": 1.0, "loss": 0.5}]]]
        fill(run)
    words = told()
    assert words[0] == ["begin", run.name, "", 5, ""]
    assert [[step for step, _ in word[1]] for word in words if word[0] == "numbers"] == [[10], [10, 20, 30]]
    assert words[2][1][0][1] == {"epoch": 1.0, "loss": 1.0, "seconds": 0.1}
    assert words[3:-1] == [
        ["picture", "confusion", "89504e47"],
        ["files", "bundle", "bundle"],
        ["files", "report", "report.html"],
    ]
    assert words[-1][:2] == ["end", "done"]
    assert words[-1][2]["test_accuracy"] == 0.9
    said = capfd.readouterr()
    assert "tracker  spy: all is there: somewhere" in said.err
    assert "noise" not in said.err + said.out
    assert "noise" in (run.path / "trackers" / "spy.log").read_text()
    assert (run.path / "log.txt").read_text().endswith("all is there: somewhere\n")
    assert memo(run, "spy")["sent"] == ["confusion", "bundle", "report"]


def test_what_was_told_is_not_told_again(told: Callable[[], list[Any]]) -> None:
    run = finished(tracker="spy")
    following.sync(run, ["spy"])
    before = len(told())
    following.sync(run, ["spy"])
    assert [word[0] for word in told()[before:]] == ["begin", "end"]
    assert told()[before][-1] == "k1"


def test_another_place_is_told_all(told: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished()
    following.sync(run, ["spy"])
    before = len(told())
    monkeypatch.setenv("PLACE", "there")
    following.sync(run, ["spy"])
    assert [word[0] for word in told()[before:]] == ["begin", "numbers", "picture", "files", "files", "end"]
    assert told()[before][-1] == ""


def test_a_resumed_run_goes_on_where_it_was_told_to(told: Callable[[], list[Any]]) -> None:
    def interrupted() -> None:
        with following.mirrored(["spy"]) as begin, Run.begin(settings(), "i", "d") as run:
            begin(run)
            fill(run, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert told()[-1][:2] == ["end", "interrupted"]
    with following.mirrored(["spy"]) as begin, Run.begin(settings(), "i", "d") as run:
        begin(run)
        run.rewind("epoch", 1)
        run.metric(epoch=2, step=20, loss=0.5)
        run.metric(epoch=3, step=30, loss=0.25)
    numbers = [point for word in told() if word[0] == "numbers" for point in word[1]]
    assert [step for step, _ in numbers] == [10, 20, 30]
    assert [word[-1] for word in told() if word[0] == "begin"] == ["", "k1"]
    assert told()[-1][:2] == ["end", "done"]


def test_a_killed_run_is_told_as_interrupted(told: Callable[[], list[Any]], tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from inflame.config import Settings\nfrom inflame.runs import Run\n"
        "from inflame.model.engine.trackers import following\n"
        "settings = Settings(model='m', folder='m', seed=5)\n"
        "with following.mirrored(['spy']) as begin, Run.begin(settings, 'i', 'd') as run:\n"
        "    begin(run)\n    run.metric(step=1, loss=1.0)\n    run.flush()\n"
        "    while not os.path.exists(os.environ['SPY']): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while (not told() or told()[-1][0] != "end") and time.monotonic() < end:
        time.sleep(0.05)
    assert told()[-1][:2] == ["end", "interrupted"]


def test_the_lock_of_a_killed_run_is_waited_for(told: Callable[[], list[Any]], tmp_path: Path) -> None:
    """The kernel closes what a killed process had in some order: the pipe to the mirror may be the first."""
    code = (
        "import time\nfrom inflame.config import Settings\nfrom inflame.runs import Run\n"
        "with Run.begin(Settings(model='m', folder='m', seed=5), 'i', 'd') as run:\n"
        "    print(run.path, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        mirrored = following.Process(Run(path=Path(held.stdout.readline().strip())), "spy", 30)
        mirrored.close()
        while not told():
            time.sleep(0.05)
        held.kill()
    mirrored.wait(30)
    assert told()[-1][:2] == ["end", "interrupted"]


# --- trackers that don't -------------------------------------------------------------------------


class _No(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401, "no rights")

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A server that never answers and one that refuses, by the name of the tracker that goes there."""
    silent = socket.create_server(("127.0.0.1", 0))
    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _No)
    thread = threading.Thread(target=refusing.serve_forever, daemon=True)
    thread.start()
    yield {"hangs": f"127.0.0.1:{silent.getsockname()[1]}", "refused": f"127.0.0.1:{refusing.server_port}"}
    refusing.shutdown()
    refusing.server_close()
    thread.join()
    silent.close()


def trained(make_learner: Callable[..., Any], trackers: list[str]) -> tuple[Run, dict[str, Any], float, float]:
    """A training of some hundred steps: the run, its weights, the CPU seconds of its thread, and those of waiting."""
    with following.mirrored(trackers) as begin:
        with Run.begin(settings(fresh=True), "i", "d") as run:
            begin(run)
            torch.manual_seed(0)
            learner = make_learner(hooks=[hooks.Metrics(run.metric)])
            began = time.thread_time()
            learner.fit(40)
            busy = time.thread_time() - began
            fill(run)
        ended = time.monotonic()
    return run, learner.net.state_dict(), busy, time.monotonic() - ended


BAD = {
    "raises": "ValueError: no numbers today",
    "refused": "HTTPError: HTTP Error 401: no rights",
    "hangs": "it did not answer in time",
    "dies": "its process died, code -6",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_tracker_changes_nothing_and_is_left_behind(
    name: str,
    told: Callable[[], list[Any]],
    servers: dict[str, str],
    make_learner: Callable[..., Any],
    same: Callable[[Any, Any], bool],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SERVER", servers.get(name, ""))
    _, alone, _, _ = trained(make_learner, [])
    capfd.readouterr()
    run, weights, _, waited = trained(make_learner, [name])
    assert same(alone, weights)
    assert Run(path=run.path).state == "done"
    assert waited < 8
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "not delivered" in line]
    assert "43 of 43 rows of numbers, the confusion, the bundle, the report" in line
    assert BAD[name] in line
    assert line.endswith(f"inflame runs --sync {run.name}")


def test_what_failed_first_is_tried_again_and_sent_later(
    told: Callable[[], list[Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(following.WAIT, "20")
    run = finished()
    with pytest.raises(RunError, match="mends did not get all") as caught:
        following.sync(run, ["mends"])
    assert "mends.log" in caught.value.where
    assert "ConnectionError: not yet" in capfd.readouterr().err
    (tmp_path / "spy.ok").touch()
    following.sync(run, ["mends"])
    assert [word[0] for word in told()][-5:] == ["numbers", "picture", "files", "files", "end"]
    assert memo(run, "mends")["error"] == ""


def test_nothing_that_a_tracker_started_is_left_running(told: Callable[[], list[Any]]) -> None:
    following.sync(finished(), ["sleeper"])
    (pid,) = [word[1] for word in told() if word[0] == "child"]
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":  # ended, and nobody's child
            return
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_a_hanging_tracker_costs_the_thread_of_the_training_nothing(
    told: Callable[[], list[Any]],
    servers: dict[str, str],
    make_learner: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SERVER", servers["hangs"])
    monkeypatch.setenv(following.WAIT, "1")
    times: dict[str, list[float]] = {"": [], "hangs": []}
    for _ in range(5):
        for name, found in times.items():
            found.append(trained(make_learner, [name] if name else [])[2])
    assert min(times["hangs"]) < 1.1 * min(times[""])


def test_a_run_at_work_is_not_synced(told: Callable[[], list[Any]]) -> None:
    with Run.begin(settings(), "i", "d") as run, pytest.raises(UserError, match="at work"):
        following.sync(run, ["spy"])


def test_two_sittings_do_not_tell_at_once(told: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SYNC", 2.0)
    run = finished()
    (run.path / "trackers").mkdir()
    held = lock.take(run.path / "trackers" / "spy.lock")
    assert held is not None
    with pytest.raises(RunError):
        following.sync(run, ["spy"])
    assert told() == []
    held.release()
    following.sync(run, ["spy"])
    assert told()[-1][:2] == ["end", "done"]


# --- words ---------------------------------------------------------------------------------------


def test_which_trackers_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    assert following.wanted("jsonl") == following.wanted("") == ()
    with pytest.raises(UserError, match=r'no tracker "mlfow"\. Did you mean "mlflow"'):
        following.wanted("jsonl,mlfow")
    gone = plugins.Plugin(target="x:Y", extra="wandb", needs="not_here")
    monkeypatch.setitem(plugins.SEAMS["tracker"], "wandb", gone)
    with pytest.raises(MissingExtra) as caught:
        following.wanted("wandb")
    assert caught.value.remedy == "pip install 'inflame[wandb]'"


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_wait_that_is_none(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(following.WAIT, seconds)
    with pytest.raises(SettingError, match=following.WAIT), following.mirrored(["tensorboard"]):
        pass


# --- what is told --------------------------------------------------------------------------------


def test_rows_are_read_on_from_where_they_ended(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    tail = story.Tail(file)
    assert tail.read(0) == []
    file.write_text('{"a":1}\n{"a":2}\n{"a"')
    assert tail.read(0) == [{"a": 1}, {"a": 2}]
    assert tail.read(tail.row) == []
    with file.open("a") as more:
        more.write(':3}\nno json\n{"a":5}\n')
    assert tail.read(tail.row) == [{"a": 3}, {"a": 5}]
    assert tail.row == 5
    assert tail.read(4) == [{"a": 5}]
    assert story.Tail(file).read(1, most=2) == [{"a": 2}, {"a": 3}]
    new = tmp_path / "new"
    new.write_text('{"b":1}\n{"b":2}\n')
    new.replace(file)
    assert tail.read(1) == [{"b": 2}]


def test_a_row_as_a_point() -> None:
    row = {"step": 7, "loss": 0.5, "bad": None, "word": "x", "flag": True, "far": float("inf"), "seconds": 2}
    found = story.point(row, 100.0, 1)
    assert (found.step, found.time, dict(found.values)) == (7, 102.0, {"loss": 0.5, "seconds": 2.0})
    assert story.point({"loss": 1}, 100.0, 4).step == 4


@pytest.mark.parametrize("count", [1, 3, 25, 60, 700])
def test_the_confusion_as_a_picture(count: int) -> None:
    matrix = [[9 if row == column else row % 2 for column in range(count)] for row in range(count)]
    picture = story.confusion([f"class {number} with a rather long name Ω" for number in range(count)], matrix)
    assert max(picture.size) <= 1000
    colours = picture.getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 2


def test_about_a_folder_with_little_in_it(tmp_path: Path) -> None:
    found = story.about(Run(path=tmp_path))
    assert (found.data, found.version, dict(found.settings)) == ("", "", {})
    assert story.summary(Run(path=tmp_path)) == {"seconds": 0.0}
    assert story.pictures(Run(path=tmp_path)) == {}


def test_settings_by_their_full_names() -> None:
    run = finished(splits={"train": 0.8, "val": 0.2})
    values = story.about(run).settings
    assert values["seed"] == 5
    assert values["splits.train"] == 0.8
    assert "weights" not in values


def test_the_machine_is_sampled(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    file = tmp_path / "system.jsonl"
    sampler = system.Sampler(file, lambda: 3.0, every=0.05)
    end = time.monotonic() + 20
    while (not file.exists() or file.read_text().count("\n") < 2) and time.monotonic() < end:
        time.sleep(0.02)
    sampler.close()
    row = json.loads(file.read_text().splitlines()[0])
    assert row["seconds"] == 3.0
    assert 0 < row["memory"] <= 100
    assert row["process_memory"] > 0.05
    assert story.sample(row).values["system/cpu"] >= 0


def test_a_picture_is_not_drawn_twice(told: Callable[[], list[Any]]) -> None:
    run = finished()
    file = story.pictures(run)["confusion"]
    before = file.stat().st_mtime_ns
    assert story.pictures(run)["confusion"].stat().st_mtime_ns == before
    with Image.open(file) as picture:
        assert picture.format == "PNG"
