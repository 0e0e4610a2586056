"""Kill it anywhere, start it again: real processes, real signals, and the same bits in the end.

A nursery imports torch once and forks a child for each training, so that a child costs milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame.model.engine import checkpoint

Begun = Callable[..., subprocess.Popen[str]]
Same = Callable[[Path, Path], None]

_NURSERY = '''
import json, os, random, sys, time
from pathlib import Path
import numpy as np
import torch
from torch import nn
from inflame.model.engine import checkpoint
from inflame.model.engine.device import One
from inflame.model.engine.hooks import Clip, Ema, Metrics, NonFinite, SaveBest, SaveLast
from inflame.model.engine.learner import Learner

def tell(**what):
    os.write(1, (json.dumps(what) + "\\n").encode())

class Batches:
    def __init__(self, items, size, log=None):
        generator = torch.Generator().manual_seed(1)
        self.x, self.size, self.log = torch.randn(items, 1, 8, 8, generator=generator), size, log
        self.y = (self.x.mean((1, 2, 3)) > 0).long()
    def __len__(self):
        return len(self.y) // self.size
    def epoch(self, epoch, start=0):
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(epoch))
        for index in range(start, len(self)):
            if self.log:
                tell(batch=[epoch, index])
            rows = order[index * self.size:(index + 1) * self.size]
            noise = torch.randn(len(rows), 1, 8, 8, generator=torch.Generator().manual_seed(1000 * epoch + index))
            yield self.x[rows] + 0.1 * noise, self.y[rows]

def noisy_step(learner, x, y):
    """Draws from all three global generators, as careless code does."""
    from inflame.model.engine.learner import plain_step
    return plain_step(learner, x * (1 + 0.1 * (random.random() + np.random.rand())), y)

def train(folder, slow, log):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    if slow:  # a disk so slow that a kill falls into a write
        sync = os.fsync
        def fsync(descriptor):
            tell(writing=True)
            time.sleep(0.03)
            sync(descriptor)
        os.fsync = fsync
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 2)
    )
    device = One("cpu", channels_last=True)
    learner = Learner(
        net=net, criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer=torch.optim.AdamW(net.parameters(), lr=0.01),
        train_loader=Batches(640, 16, log), val_loader=Batches(128, 32), schedule=lambda progress: 1 - progress,
        device=device, step=noisy_step,
        hooks=[
            NonFinite(folder), Clip(1.0), SaveBest(folder / "best"),
            SaveLast(folder / "last", every=0.03, share=1e9), Ema(0.95), Metrics(lambda **row: None),
        ],
    )
    resumed = checkpoint.resume(learner, folder / "last", lambda text: tell(said=text))
    tell(started=learner.at.step, resumed=resumed)
    row = learner.fit(6)
    with (folder / "metrics.jsonl").open("w") as rows:
        rows.write(json.dumps(row) + "\\n")

torch.set_num_threads(1)
torch.optim.AdamW(nn.Linear(1, 1).parameters())  # imports half of torch
tell(ready=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(Path(order["folder"]), order["slow"], order["log"])
            code = 0
        except KeyboardInterrupt as stop:
            code = 128 + getattr(stop, "signum", 2)
        except BaseException as error:
            tell(error=repr(error))
        os._exit(code)
    tell(pid=pid)
    _, status = os.waitpid(pid, 0)
    tell(ended=os.waitstatus_to_exitcode(status))
'''


class Nursery:
    """Forks trainings, and reads what they tell."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.read() == {"ready": True}

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def train(self, folder: Path, *, slow: bool = False, log: bool = False) -> Iterator[dict[str, Any]]:
        """Starts a training; gives what it tells until it has ended. `pid` comes first, or nearly so."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "slow": slow, "log": log}) + "\n")
        self.process.stdin.flush()
        while True:
            told = self.read()
            yield told
            if "ended" in told:
                return

    def finish(self, folder: Path, **how: bool) -> list[dict[str, Any]]:
        """A training that nobody disturbs; gives all that it told."""
        told = list(self.train(folder, **how))
        assert told[-1] == {"ended": 0}, told
        return told

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    nursery.finish(folder)
    return folder


def _kill(nursery: Nursery, folder: Path, chance: random.Random, number: int, *, in_write: bool, longest: float) -> int:
    """Kills a training at a random moment of its first `longest` seconds, or in the midst of a write; gives how it
    ended."""
    pid, writes, wanted = 0, 0, chance.randint(2, 6)
    for told in nursery.train(folder, slow=in_write):
        pid = told.get("pid", pid)
        writes += "writing" in told
        if (in_write and writes == wanted and pid) or (not in_write and "started" in told):
            time.sleep(chance.uniform(0, 0.03 if in_write else longest))
            writes = -1000
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if "ended" in told:
            return int(told["ended"])
    raise AssertionError("not reached")


@pytest.mark.parametrize("in_write", [False, True], ids=["any moment", "during a write"])
def test_killed_at_thirty_moments_it_ends_with_the_same_bits(
    nursery: Nursery, undisturbed: Path, same_end: Same, tmp_path: Path, in_write: bool
) -> None:
    """Half of them here and half in a write, of as many trainings as that takes."""
    chance, kills, trainings = random.Random(f"kill {in_write}"), 15, 0
    while kills > 0:
        trainings += 1
        folder = tmp_path / str(trainings)
        kills -= _killed(nursery, folder, chance, in_write=in_write, most=kills)
        same_end(folder, undisturbed)


def _killed(nursery: Nursery, folder: Path, chance: random.Random, *, in_write: bool, most: int) -> int:
    """Kills a training `most` times, or as long as it lasts, and lets it end then; gives how often."""
    killed, steps, longest = 0, [0], 0.05
    while killed < most and steps[-1] < 240:
        code = _kill(nursery, folder, chance, signal.SIGKILL, in_write=in_write, longest=longest)
        killed += code == -signal.SIGKILL
        said: list[str] = []
        state = checkpoint.load(folder / "last", said.append)
        assert said == []  # whatever is there is whole
        steps.append(state["at"]["step"] if state else 0)
        longest *= 2 if steps[-1] == steps[-2] else 1  # a machine on which a step takes longer than it was given
    assert steps == sorted(steps)  # what was done is never lost again
    told = nursery.finish(folder)
    assert {"started": steps[-1], "resumed": steps[-1] > 0} in told
    assert list(folder.rglob(".tmp-*")) == []  # the leftovers of the killed are cleared away
    return killed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_at_once_and_loses_nothing(
    nursery: Nursery, undisturbed: Path, same_end: Same, tmp_path: Path, number: signal.Signals
) -> None:
    pid, done, sent = 0, [], 0.0
    for told in nursery.train(tmp_path, log=True):
        pid = told.get("pid", pid)
        done += [told["batch"]] if "batch" in told else []
        if len(done) == 57 and pid and not sent:  # in the second epoch
            sent = time.monotonic()
            os.kill(pid, number)
    assert told == {"ended": 128 + number}
    assert time.monotonic() - sent < 5
    rest = [told["batch"] for told in nursery.finish(tmp_path, log=True) if "batch" in told]
    # Exactly the remaining batches: none twice, none left out.
    assert done + rest == [[epoch, index] for epoch in range(6) for index in range(40)]
    same_end(tmp_path, undisturbed)


def test_a_damaged_checkpoint_costs_only_what_was_done_since_the_one_before(
    nursery: Nursery, undisturbed: Path, same_end: Same, tmp_path: Path
) -> None:
    chance = random.Random(5)
    for _ in range(20):
        _kill(nursery, tmp_path, chance, signal.SIGKILL, in_write=False, longest=0.2)
        newest, previous = (tmp_path / "last" / name for name in (checkpoint.NEWEST, checkpoint.PREVIOUS))
        if newest.exists() and previous.exists():  # a kill may come when the one has become the other
            break
    newest.write_bytes(newest.read_bytes()[:-100])
    told = nursery.finish(tmp_path)
    assert any(str(newest) in line.get("said", "") for line in told)
    assert any(line.get("resumed") for line in told)
    same_end(tmp_path, undisturbed)


_INFLAME = [sys.executable, "-m", "inflame", "train"]
# Compiled, or not; dropout, a mean of the weights, pictures moved and mirrored; a checkpoint three times a second.
_PLAIN = ["limit=400", "hyperparam.dropout=0.3", "hyperparam.ema=0.9", "hyperparam.batch_size=8"]
_PLAIN += ["hyperparam.num_epochs=4", "hyperparam.every=0.3", "hyperparam.slow=0.03"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_training_that_is_stopped_and_killed_ends_with_the_same_bits(
    begun: Begun, same_end: Same, plain: Path, tmp_path: Path, compiled: bool
) -> None:
    words = [*_INFLAME, str(plain), *_PLAIN, f"hyperparam.compiled={str(compiled).lower()}"]
    _finished([*words, f"output={tmp_path / 'whole'}"])
    chance, folder, within = random.Random(f"plain {compiled}"), tmp_path / "stopped", []
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        child = begun([*words, f"output={folder}"], folder)
        time.sleep(chance.uniform(0.0, 0.3))
        sent = time.monotonic()
        child.send_signal(number)
        _, err = child.communicate()
        assert time.monotonic() - sent < 5
        assert child.returncode == {signal.SIGTERM: 143}.get(number, -number), err
        state = checkpoint.load(folder / "last")
        assert state is not None
        within.append(state["at"]["batch"] > 0)
    assert any(within)  # in the midst of an epoch
    assert "resume" in _finished([*words, f"output={folder}"])
    same_end(folder, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("caches", [(0, 0), (1, 1), (0, 1)], ids=["decoded anew", "cached", "cached later, of shards"])
def test_photos_that_threads_read_go_on_with_the_same_bits(
    begun: Begun, same_end: Same, photos: Path, tmp_path: Path, home: Path, caches: tuple[int, int]
) -> None:
    """The recipe for photos as it is: random windows, mirrored, other colours, a mean of the weights, a pretrained net
    of which layers learn at other rates. In the end there may be room for a cache that there wasn't at first."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path / "test_resnet.untrained.safetensors"
    net = timm.create_model("test_resnet", num_classes=7)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, file)
    if caches[0] != caches[1]:
        shards = [sys.executable, "-m", "inflame", "shard", str(photos), str(tmp_path / "shards"), "--to", "webdataset"]
        subprocess.run(shards, capture_output=True, check=True)
        photos = tmp_path / "shards"
    words = [*_INFLAME, "fowl_classifier", f"io.training_input={photos}", "net=test_resnet", f"weights={file}"]
    words += ["hyperparam.batch_size=2", "hyperparam.size=64", "hyperparam.num_epochs=30"]
    _finished([*words, f"cache_gb={caches[0]}", f"output={tmp_path / 'whole'}"])
    folder, chance = tmp_path / "stopped", random.Random(f"photos {caches}")
    _begun_like(tmp_path / "whole", folder)
    shutil.rmtree(home / "cache" / "squares", ignore_errors=True)
    for number in (signal.SIGTERM, signal.SIGKILL):
        child = begun([*words, f"cache_gb={caches[0]}", f"output={folder}"], folder)
        time.sleep(chance.uniform(0.0, 0.5))
        child.send_signal(number)
        _, err = child.communicate()
        assert child.returncode == {signal.SIGTERM: 143}.get(number, -number), err
    assert "resume" in _finished([*words, f"cache_gb={caches[1]}", f"output={folder}"])
    same_end(folder, tmp_path / "whole")


def _finished(words: list[str]) -> str:
    """What a training that nobody disturbs says."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _begun_like(run: Path, folder: Path) -> None:
    """A run that was killed as soon as it had measured the ways to compute, and chosen as `run` did: another choice
    would round in another way."""
    folder.mkdir()
    for name in ("config.json", "dataset.json", "items.parquet"):
        shutil.copy(run / name, folder / name)
    status = json.loads((run / "status.json").read_text())
    chosen = ("format", "identity", "kept", "devices", *(name for name in status if name.startswith("pace")))
    (folder / "status.json").write_text(
        json.dumps({name: status[name] for name in chosen if name in status} | {"state": "running"})
    )


@pytest.mark.slow
def test_a_run_with_another_rate_is_gone_on_with_by_force_alone(begun: Begun, home: Path) -> None:
    words = [*_INFLAME, "mnist", "io.training_input=digits", "hyperparam.num_epochs=40"]
    child = begun(words, home)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate()
    assert child.returncode == 143, err
    (run,) = home.glob("runs/*")
    other = [*words, "hyperparam.learning_rate=3e-3", f"resume={run.name}"]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "hyperparam.learning_rate=0.01 there, 0.003 here" in refused.stderr
    assert "force=true" in refused.stderr
    done = subprocess.run([*other, "--force", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the net goes on from step" in done.stderr
    assert "all choices are made anew" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["run"] == str(run)
    rates = [json.loads(line)["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rates[-1] < 3e-3


_SLOW_BUCKET = """
import sys, time
from pathlib import Path
from fsspec.implementations.memory import MemoryFileSystem
import inflame
from inflame.model.engine import switchboard

put = MemoryFileSystem.put_file

def slow(self, path, place, **how):
    if path.endswith(".safetensors"):
        print("on its way", flush=True)
        time.sleep(600)
    put(self, path, place, **how)

MemoryFileSystem.put_file = slow
sys.exit(switchboard.main(Path(inflame.__file__).parent / "model" / "mnist", sys.argv[1:]))
"""


@pytest.mark.slow
def test_told_to_stop_it_does_not_wait_for_a_slow_bucket(home: Path) -> None:
    words = ["train", "digits", "hyperparam.num_epochs=400", "output=memory://slow/run"]
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW_BUCKET, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "on its way\n"
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=120)  # not ten minutes
    assert child.returncode == 143, err
    (run,) = home.glob("runs/*")
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    state = checkpoint.load(run / "last")
    assert state is not None
    assert state["at"]["step"] > 0
    assert f"it is in {run}" in err
