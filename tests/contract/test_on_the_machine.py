"""What every launcher starts, started as its provider would: with its environment variables and folders, on one machine
and on two. Each setting, input and output must land where it should, whoever's machine it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from inflame import store
from inflame.infra import attempts, launch
from inflame.infra.command import EXIT, PREEMPTED, RUN, command, variables
from inflame.infra.pack import package, wheel
from inflame.records import JobSpec

INFLAME = wheel.files()

APP = """
import json, os, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
run = pathlib.Path(words["output"].removeprefix("file://")); run.mkdir(parents=True, exist_ok=True)
rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
total = 1
if world != "1":
    import torch
    import torch.distributed as together
    together.init_process_group("gloo")
    share = torch.tensor(float(together.get_rank() + 1)); together.all_reduce(share); total = share.item()
seen = {"argv": sys.argv[1:], "token": os.environ.get("TOKEN"), "rank": rank, "world": world, "total": total,
        "here": sorted(os.listdir(".")), "data": [open(words["io.training_input"]).read()]}
(run / f"seen-{rank}.json").write_text(json.dumps(seen))
print("rank", rank, "of", world, flush=True)
def leave(*_):
    print("saved", flush=True); sys.exit(143)
signal.signal(signal.SIGTERM, leave)
time.sleep(float(words.get("pause", 0)))
"""

Start = Callable[..., tuple[list[subprocess.Popen[str]], str]]
Given = Callable[[Path, int, int, int], dict[str, str]]


def _sagemaker(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    root = folder / f"ml-{rank}"
    file = root / "input" / "config" / "resourceconfig.json"
    file.parent.mkdir(parents=True)
    hosts = [f"algo-{number + 1}" for number in range(count)]
    file.write_text(json.dumps({"current_host": hosts[rank], "hosts": hosts, "network_interface_name": "lo"}))
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"SAGEMAKER_BASE_DIR": str(root), "TRAINING_JOB_NAME": "j", **meet}


def _vertex(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    cluster = {"workerpool0": [f"127.0.0.1:{port}"]}
    if count > 1:
        cluster["workerpool1"] = [f"127.0.0.1:{port + number}" for number in range(1, count)]
    task = {"type": "workerpool1" if rank else "workerpool0", "index": max(0, rank - 1)}
    return {"CLUSTER_SPEC": json.dumps({"cluster": cluster, "task": task}), "AIP_MODEL_DIR": "gs://b/model"}


def _azureml(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    many = {"NODE_RANK": str(rank), "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(count)}
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"AZUREML_RUN_ID": "r", **(many | meet if count > 1 else {})}


def _slurm(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    told = {"SLURM_JOB_ID": "7", "SLURM_NNODES": str(count), "SLURM_NODEID": str(rank), "SLURM_PROCID": str(rank)}
    return {**told, "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": str(port)}


def _kubernetes(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    told = {"JOB_COMPLETION_INDEX": str(rank), "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": f"inflame-{rank}"}
    return {**told, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _elsewhere(folder: Path, rank: int, count: int, port: int) -> dict[str, str]:
    return {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


PROVIDERS: dict[str, Given] = {
    "sagemaker": _sagemaker,
    "vertexai": _vertex,
    "azureml": _azureml,
    "slurm": _slurm,
    "kubernetes": _kubernetes,
    "elsewhere": _elsewhere,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_BEAT", "0.3")
    monkeypatch.setattr(attempts, "BEAT", 0.3)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "code" / "my model"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Start:
    """Starts the job on so many machines of a provider: their processes, and the job's output. `hosts`: network
    namespaces, one for each; `more`: variables that they have besides."""

    def begin(
        provider: str, count: int, *words: str, hosts: Sequence[str] = (), **more: str
    ) -> tuple[list[subprocess.Popen[str]], str]:
        place = (tmp_path / "bucket").as_uri()
        data = "s3://somewhere/data.csv"
        mounted = tmp_path / "mounted.csv"
        mounted.write_text("a,b\n")
        arguments = ("name=two words and 'quotes' $HOME", f"io.training_input={data}", *words)
        spec = JobSpec(model=str(model), arguments=arguments, inputs=(data,), environment=("TOKEN",), output=place)
        plan = launch.plan(spec, "local")
        package.upload(plan.luggage, place)
        told = variables(JobSpec(**{**plan.spec.to_json(), "count": count}), plan.package)
        port = _free()
        found = []
        for rank in range(count):
            folder = tmp_path / f"machine-{rank}"
            ours = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), "TOKEN": "hush"}
            ours |= {"INFLAME_BEAT": "0.3", "INFLAME_PARTS": str(tmp_path / "parts"), "INFLAME_WORK": str(folder / "w")}
            given = {
                **ours,
                **told,
                "INFLAME_INPUT_0": str(mounted),
                **PROVIDERS[provider](tmp_path, rank, count, port),
                **more,
            }
            how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            there = ["ip", "netns", "exec", hosts[rank]] if hosts else []
            found.append(subprocess.Popen([*there, *command(plan.package.archive)], env=given, **how))
        return found, plan.spec.output

    return begin


def test_every_provider_has_its_machines_here() -> None:
    from inflame import plugins

    elsewhere = set(plugins.SEAMS["launcher"]) - {"local", "ray", "clearml"}
    assert elsewhere <= set(PROVIDERS), "a launcher whose machines are not tried"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_everything_arrives_on_one_machine(provider: str, start: Start) -> None:
    (process,), output = start(provider, 1)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    told = json.loads(store.read_text(store.join(output, EXIT)))
    assert (told["state"], told["code"], told["attempt"]) == ("done", 0, 1)
    assert told["memory"] > 1e6
    seen = json.loads(store.read_text(store.join(output, RUN, "seen-0.json")))
    assert seen["argv"][:2] == ["train", "name=two words and 'quotes' $HOME"]
    assert seen["argv"][-1] == f"output={output}/{RUN}"
    assert (seen["token"], seen["world"], seen["data"]) == ("hush", "1", ["a,b\n"])
    assert seen["here"] == [".inflame", "app.py"]
    assert attempts.lines(output)[0] == ["rank 0 of 1"]
    assert "rank 0 of 1" in said  # the provider's own log has it as well


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_machines_meet(provider: str, start: Start) -> None:
    _met(*start(provider, 2))


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces with nothing but a cable between them: 10.99.0.1 and 10.99.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2: network namespaces are made")
    names = [f"inflame-{os.getpid()}-{number}" for number in (1, 2)]
    lines = [f"netns add {name}" for name in names]
    lines += [f"link add cable netns {names[0]} type veth peer name cable netns {names[1]}"]
    for number, name in enumerate(names, 1):
        lines += [f"-n {name} addr add 10.99.0.{number}/24 dev cable", f"-n {name} link set cable up"]
        lines += [f"-n {name} link set lo up"]
    try:
        for line in lines:
            done = subprocess.run(["ip", *line.split()], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: ip {line}: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_meet_over_their_cable(hosts: list[str], start: Start) -> None:
    """Each has its own addresses; the loopback of one is not that of the other."""
    _met(*start("elsewhere", 2, hosts=hosts, MASTER_ADDR="10.99.0.1", GLOO_SOCKET_IFNAME="cable"))


def _met(machines: list[subprocess.Popen[str]], output: str) -> None:
    """Two machines have trained as one."""
    said = [process.communicate(timeout=110)[0] for process in machines]
    assert [process.returncode for process in machines] == [0, 0], said
    for rank in ("0", "1"):
        seen = json.loads(store.read_text(store.join(output, RUN, f"seen-{rank}.json")))
        assert (seen["rank"], seen["world"], seen["total"]) == (rank, "2", 3.0)
        assert any(f"rank {rank} of 2" in line for line in attempts.lines(output, int(rank))[0])
    assert json.loads(store.read_text(store.join(output, EXIT)))["state"] == "done"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_notice_on_each(provider: str, start: Start) -> None:
    (process,), output = start(provider, 1, "pause=60")
    deadline = time.monotonic() + 60
    while not attempts.lines(output)[0]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == PREEMPTED
    assert json.loads(store.read_text(store.join(output, EXIT)))["state"] == "preempted"
    assert attempts.lines(output)[0][-1] == "saved"


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
