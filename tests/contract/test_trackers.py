"""What every tracker must show of a run, read back as its own users would: offline, embedded, or from a real server.

MLflow holds pyarrow back to an older version than the one that is locked, so it is not among the parts for
development: its tests are skipped where it isn't installed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from inflame.config import Settings
from inflame.model.engine.trackers import champions, following, mirror
from inflame.runs import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what these packages deprecate of each other
    pytest.mark.timeout(300),
]
BUILT_IN = ("mlflow", "wandb", "tensorboard", "clearml")
VERSION = "c0ffee" * 10


@dataclass
class Seen:
    """What a tracker shows of a run."""

    runs: int = 0
    state: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    facts: str = ""  # wherever they stand, as text
    numbers: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pictures: list[bytes] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    summary: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, step: int, value: float) -> None:
        self.numbers.setdefault(name, []).append((step, round(float(value), 6)))


def train(tracker: str, epochs: range, *, end: bool) -> Run:
    """A sitting of a training, as far as its folder shows it."""
    settings = Settings(model="m", folder="m", seed=5, splits={"train": 0.9, "val": 0.1}, tracker=tracker)
    with suppress(KeyboardInterrupt), Run.begin(settings, "i", "d") as run:
        run.write("dataset.json", {"name": "birds", "version": VERSION, "classes": ["a", "b"], "source": "here"})
        for epoch in epochs:
            run.metric(epoch=epoch, step=10 * epoch, loss=1 / epoch, val_loss=2 / epoch, lr=0.1, seconds=epoch / 10)
        with (run.path / "system.jsonl").open("a") as file:
            file.write(
                json.dumps({"seconds": 10.0 * epochs[-1], "time": time.time(), "cpu": 50.0, "memory": 9.5}) + "\n"
            )
        if not end:
            raise KeyboardInterrupt
        (run.path / "bundle").mkdir()
        run.write("bundle/bundle.json", "{}")
        run.write("bundle/model.onnx", b"net")
        run.write("report.json", {"confusion": {"classes": ["a", "b"], "matrix": [[3, 1], [0, 4]]}})
        run.write("report.html", "<p>")
        run.status(test={"accuracy": 0.75, "low": 0.5, "high": 0.9, "n": 8})
    return Run(path=run.path)


# --- reading back --------------------------------------------------------------------------------


def see_tensorboard(run: Run) -> Seen:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    seen, files = Seen(runs=1), sorted((run.path / "trackers" / "tensorboard").glob("events*"))
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.HasField("tensor") and value.tensor.float_val:
                    seen.add(value.tag, event.step, value.tensor.float_val[0])
                elif value.metadata.plugin_data.plugin_name == "text":
                    _table(seen, value.tag, value.tensor.string_val[0].decode())
                elif value.metadata.plugin_data.plugin_name == "images":
                    seen.pictures.append(value.tensor.string_val[2])
    return seen


def _table(seen: Seen, tag: str, text: str) -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.splitlines()[2:])
    name = tag.removesuffix("/text_summary")
    if name == "settings":
        seen.settings = rows
    elif name == "summary":
        seen.state, seen.summary = rows.pop("state"), {key: float(value) for key, value in rows.items()}
    elif name == "facts":
        seen.facts = text
    else:
        seen.files.add(name)


def see_wandb(run: Run) -> Seen:
    from wandb.proto import wandb_internal_pb2 as records

    seen, keys = Seen(), set()
    for file in sorted((run.path / "trackers" / "wandb").glob("offline-run-*/*.wandb")):
        for content in _records(file.read_bytes()):
            record = records.Record.FromString(content)
            if record.HasField("run"):
                keys.add(record.run.run_id)
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                seen.settings |= {key: str(value) for key, value in config.items()}
                seen.facts = json.dumps(seen.settings)
            elif record.HasField("history"):
                items = record.history.item
                _row(
                    seen,
                    {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items},
                    file.parent / "files",
                )
            elif record.HasField("summary"):
                seen.summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
            elif record.HasField("artifact"):
                seen.files.add(record.artifact.name.partition("-")[2])
    seen.runs, seen.state = len(keys), str(seen.summary.pop("state", ""))
    return seen


def _row(seen: Seen, row: dict[str, Any], media: Path) -> None:
    step = row.get("step", row.get("system/seconds", 0))
    for name, value in row.items():
        if name.endswith(".path"):
            seen.pictures.append((media / value).read_bytes())
        elif isinstance(value, float | int) and name[0] != "_" and name not in ("step", "system/seconds"):
            seen.add(name, step, value)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: blocks of 32 KiB with parts of (checksum, length, kind), after 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of it, or its last part
            yield whole
            whole = b""


def see_clearml(run: Run) -> Seen:
    seen = Seen(runs=1)
    for archive in sorted(
        (run.path.parents[1] / "clearml").glob("offline/*.zip"), key=lambda file: file.stat().st_mtime
    ):
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
            task = json.loads(file.read("task.json"))
            seen.facts += json.dumps(task)
            found = task.get("hyperparams", {}).get("settings", {})
            seen.settings |= {name: item["value"] for name, item in found.items()}
            seen.files |= {item["key"] for item in task.get("execution", {}).get("artifacts") or ()}
            seen.pictures += [file.read(name) for name in names if name.endswith(".png")]
            for line in file.read("metrics.jsonl").decode().splitlines():
                for event in json.loads(line):
                    if event["type"] != "training_stats_scalar":
                        continue
                    if event["metric"] == "Summary":
                        seen.summary[event["variant"]] = event["value"]
                    elif event["metric"] == "system":
                        seen.add(f"system/{event['variant']}", event["iter"], event["value"])
                    else:
                        prefix = "val_" if event["variant"] == "val" else ""
                        seen.add(prefix + event["metric"], event["iter"], event["value"])
            seen.state = "done"  # offline sessions have no state but that they are closed
    return seen


def see_mlflow(run: Run) -> Seen:
    from mlflow import MlflowClient

    key = mirror.memo(run.path, "mlflow")
    client = MlflowClient(key["place"])
    experiment = client.get_experiment_by_name("inflame")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    shown = client.get_run(key["key"])
    seen = Seen(
        runs=len(found),
        state={"FINISHED": "done", "KILLED": "interrupted"}.get(shown.info.status, shown.info.status),
        settings=dict(shown.data.params),
        facts=str(shown.data.tags) + str([data.dataset.digest for data in shown.inputs.dataset_inputs]),
    )
    assert [data.dataset.digest for data in shown.inputs.dataset_inputs] == [VERSION[:36]]
    for name in shown.data.metrics:
        history = client.get_metric_history(key["key"], name)
        if name.startswith(("test_", "val_a")) or name == "seconds":
            seen.summary[name] = history[-1].value
        for point in history:
            seen.add(name, point.step, point.value)
    for item in client.list_artifacts(key["key"]):
        seen.files.add(Path(item.path).stem)
    picture = client.download_artifacts(key["key"], "pictures/confusion.png")
    seen.pictures.append(Path(picture).read_bytes())
    return seen


SEE = {"mlflow": see_mlflow, "wandb": see_wandb, "tensorboard": see_tensorboard, "clearml": see_clearml}


@pytest.fixture(
    params=[pytest.param(name, marks=() if name == "tensorboard" else pytest.mark.slow) for name in BUILT_IN]
)
def tracker(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tracker that needs nothing but this machine."""
    if find_spec(request.param) is None:
        pytest.skip(f"needs {request.param}: pip install 'inflame[{request.param}]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(home / "clearml"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(following, "SYNC", 200.0)
    return str(request.param)


def test_all_of_a_run_is_shown_and_a_second_sitting_goes_on(tracker: str) -> None:
    first = train(tracker, range(1, 3), end=False)
    following.sync(first, [tracker])
    run = train(tracker, range(3, 5), end=True)
    assert run.path == first.path
    following.sync(run, [tracker])
    following.sync(run, [tracker])  # changes nothing

    seen = SEE[tracker](run)
    assert seen.runs == 1
    assert seen.state == "done"
    assert seen.settings["seed"] == "5"
    assert seen.settings["splits.train"] == "0.9"
    assert VERSION[:36] in seen.facts
    assert "birds" in seen.facts
    assert seen.numbers["loss"] == [(10, 1.0), (20, 0.5), (30, 0.333333), (40, 0.25)]
    assert [step for step, _ in seen.numbers["val_loss"]] == [10, 20, 30, 40]
    assert seen.numbers["system/cpu"] == [(20, 50.0), (40, 50.0)]
    assert any(content.startswith(b"\x89PNG") for content in seen.pictures)
    assert {"bundle", "report"} <= seen.files
    assert seen.summary["test_accuracy"] == 0.75


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real server on this machine."""
    if find_spec("mlflow") is None:
        pytest.skip("needs mlflow: pip install 'inflame[mlflow]'")
    port = _free_port()
    words = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/m.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [*command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/health", timeout=1).close()
            break
        except OSError:
            time.sleep(0.2)
    yield address
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.slow
def test_mlflow_on_a_real_server(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setattr(following, "SYNC", 200.0)
    run = train("mlflow", range(1, 4), end=True)
    following.sync(run, ["mlflow"])
    seen = see_mlflow(run)
    assert mirror.memo(run.path, "mlflow")["place"] == mlflow_server
    assert [step for step, _ in seen.numbers["loss"]] == [10, 20, 30]
    assert {"bundle", "report", "pictures"} <= seen.files
    assert seen.pictures[0].startswith(b"\x89PNG")
    assert seen.state == "done"


def _champion(folder: Path, number: int, back_to: int = 0) -> None:
    """What a promotion leaves: a version and a line in the log, as far as MLflow is told of them."""
    place = folder / "versions" / f"{number:04}"
    if not back_to:
        (place / "bundle").mkdir(parents=True)
        (place / "bundle" / "model.onnx").write_text(f"weights {number}")
    action = "rollback" if back_to else "promote"
    entry = {"version": back_to or number, "run": f"run-{number}", "action": action, "who": "me", "time": "now"}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({**entry, "why": "better", "evidence": {"accuracy": 0.9}}) + "\n")
    (folder / "champion").unlink(missing_ok=True)
    (folder / "champion").symlink_to(f"versions/{back_to or number:04}")


@pytest.mark.slow
def test_mlflows_registry_is_told_about_champions(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setattr(champions, "WAIT", 200.0)
    folder, client = tmp_path / "birds", MlflowClient(mlflow_server)
    _champion(folder, 1)
    assert champions.told(folder) == f"birds@champion is version 1 at {mlflow_server}"
    _champion(folder, 2)
    _champion(folder, 3)
    assert "version 3" in champions.told(folder)
    found = client.get_model_version_by_alias("birds", "champion")
    assert (found.tags["inflame.version"], found.tags["inflame.why"]) == ("0003", "better")
    kept = client.download_artifacts(found.run_id, "bundle/model.onnx")
    assert Path(kept).read_text() == "weights 3"
    _champion(folder, 4, back_to=2)
    assert "version 2" in champions.told(folder)
    assert champions.told(folder) == champions.told(folder)
    assert len(client.search_model_versions("name='birds'")) == 3, "none is sent twice"


def test_a_registry_that_cannot_be_told_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _champion(tmp_path / "birds", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(champions, "WAIT", 5.0)
        said = champions.told(tmp_path / "birds")
    assert said.startswith("not told: ")
    reason = "no answer in 5 s" if find_spec("mlflow") else "pip install 'inflame[mlflow]'"
    assert reason in said


SECRET = "abcdef0123456789" * 3
ELSEWHERE = {
    "mlflow": {"MLFLOW_TRACKING_URI": "http://{server}", "MLFLOW_TRACKING_TOKEN": SECRET},
    "wandb": {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://{server}", "WANDB_API_KEY": SECRET[:40]},
    "clearml": {
        "CLEARML_OFFLINE_MODE": "0",
        "CLEARML_API_HOST": "http://{server}",
        "CLEARML_API_ACCESS_KEY": "key",
        "CLEARML_API_SECRET_KEY": SECRET,
    },
}


@pytest.mark.slow
def test_a_server_that_never_answers(
    tracker: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if tracker not in ELSEWHERE:
        pytest.skip("needs no server")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in ELSEWHERE[tracker].items():
            monkeypatch.setenv(name, value.format(server=f"127.0.0.1:{silent.getsockname()[1]}"))
        monkeypatch.setenv(following.WAIT, "3")
        with following.mirrored([tracker]) as begin:
            run = train(tracker, range(1, 3), end=True)
            begin(run)
            ended = time.monotonic()
        assert time.monotonic() - ended < 10
    said = capfd.readouterr().err
    assert "2 of 2 rows of numbers, the confusion, the bundle, the report" in said
    kept = [path.read_text(errors="replace") for path in (run.path / "trackers").glob("*.*") if path.is_file()]
    assert not any(SECRET[:40] in text for text in [said, *kept])
