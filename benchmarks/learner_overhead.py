"""What the Learner costs per step: the same tiny net and batches in hand-written loops, in the Learner and in Fabric.

    python benchmarks/learner_overhead.py [--rounds 40] [--steps 400] [--json]

A round is one epoch of `steps` steps. Rounds alternate between the loops, so that other work on the machine hits all
alike; medians of a round's time per step, and the median over rounds of the ratio to the plain loop of the same round,
by the wall clock and by the CPU time of this process (the better one on a busy machine). CPU, one thread, fp32.

plain     forward, backward, step, zero_grad: nothing else
counting  the same, with the loss and the accuracy added up by `.item()` and a learning rate set in each step
learner   Learner without hooks: sets the rate, counts loss and accuracy
guarded   Learner with NonFinite, Progress, Metrics and SaveLast (which writes and syncs checkpoints, 2 % of the time)
fabric    the plain loop through Lightning Fabric, where installed
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from benchmarks.history import note
from torch import Tensor, nn

from inflame.model.engine.device import One
from inflame.model.engine.hooks import Metrics, NonFinite, Progress, SaveLast
from inflame.model.engine.learner import Learner

Loop = Callable[[], None]


class Batches:
    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (torch.randn(32, 64, generator=generator), torch.randint(0, 10, (32,), generator=generator))
            for _ in range(16)
        ]
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(start, self.steps):
            yield self.batches[index % len(self.batches)]


def tiny() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def plain(batches: Batches) -> Loop:
    net, optimizer = tiny()
    criterion = nn.CrossEntropyLoss()

    def loop() -> None:
        net.train()
        for x, y in batches.epoch(0):
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return loop


def counting(batches: Batches) -> Loop:
    net, optimizer = tiny()
    criterion = nn.CrossEntropyLoss()

    def loop() -> None:
        net.train()
        total, hits, seen = 0.0, 0, 0
        for step, (x, y) in enumerate(batches.epoch(0)):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (1 - step / len(batches))
            logits = net(x)
            loss = criterion(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(y)
            hits += int((logits.argmax(1) == y).sum().item())
            seen += len(y)

    return loop


class Stopwatch:
    """A clock that stands still while the other loops run, so that hooks save as often as in a real training."""

    def __init__(self) -> None:
        self.spent, self.began = 0.0, time.monotonic()

    def __call__(self) -> float:
        return self.spent + time.monotonic() - self.began


def learner(batches: Batches, folder: Path | None = None) -> Loop:
    net, optimizer = tiny()
    watch = Stopwatch()
    hooks: list[object] = []
    if folder is not None:
        hooks = [
            NonFinite(folder),
            Progress(stream=io.StringIO()),
            Metrics(lambda **row: None),
            SaveLast(folder / "last", clock=watch),
        ]
    made = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        train_loader=batches,
        schedule=lambda progress: 1 - progress,
        device=One("cpu"),
        hooks=hooks,
    )
    made.fit(1)
    for hook in hooks:  # as in the middle of a training: what comes before and after is not part of a step
        if hasattr(hook, "before_fit"):
            hook.before_fit(made)
    made.epochs = 10**9

    def loop() -> None:
        watch.began = time.monotonic()
        made.epoch()
        watch.spent = watch()
        watch.began = time.monotonic()

    return loop


def fabric(batches: Batches) -> Loop | None:
    try:
        from lightning.fabric import Fabric
    except ImportError:
        return None
    warnings.simplefilter("ignore")
    made = Fabric(accelerator="cpu", devices=1)
    made.launch()
    net, optimizer = made.setup(*tiny())
    criterion = nn.CrossEntropyLoss()

    def loop() -> None:
        net.train()
        for x, y in batches.epoch(0):
            loss = criterion(net(x), y)
            made.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    return loop


def measure(loops: dict[str, Loop], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(rounds + 2):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            loops[name]()
            if number >= 2:  # two rounds to warm up
                times[name].append(((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps))
    found = {}
    for name, taken in times.items():
        found[name] = {}
        for kind, own, bare in zip(
            ("wall", "cpu"), zip(*taken, strict=True), zip(*times["plain"], strict=True), strict=True
        ):
            found[name][f"{kind}_us"] = statistics.median(own) * 1e6
            found[name][f"{kind}_ratio"] = statistics.median(a / b for a, b in zip(own, bare, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    torch.set_num_threads(1)
    batches = Batches(words.steps)
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "plain": plain(batches),
            "counting": counting(batches),
            "learner": learner(batches),
            "guarded": learner(batches, Path(folder)),
        }
        other = fabric(batches)
        if other is not None:
            loops["fabric"] = other
        found = measure(loops, words.rounds, words.steps)
    if words.json:
        print(json.dumps(found))
        return
    print(f"torch {torch.__version__}, {os.cpu_count()} CPUs, {words.rounds} rounds of {words.steps} steps")
    for name, row in found.items():
        note(f"learner_overhead: {name}", row["wall_us"], "µs", ratio=row["wall_ratio"])
        print(
            f"{name:9} wall {row['wall_us']:6.1f} µs a step, {row['wall_ratio']:.3f} x plain"
            f"   cpu {row['cpu_us']:6.1f} µs, {row['cpu_ratio']:.3f} x"
        )


if __name__ == "__main__":
    main()
