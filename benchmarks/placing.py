"""Where the items of a training lie, and what that costs: all on the device, sent ahead of their turn, or moved when it
has come. Random pictures, the small net of `auto` and its moves; items/s, the best of some epochs after one to warm up.
Beside it the batch size that is found there. On a GPU; `--device cpu` runs the same code, where nothing is to be moved.
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import partial

import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.model.engine import nets, pace, placing
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner, TimeBudget
from inflame.records import Preprocess

MOVES = augment.chain(augment.flip, partial(augment.shift, by=2, mode="reflect"))


def given(items: int, side: int, batch_size: int) -> loader.Batches:
    """Batches of random pictures."""
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (items, side, side, 3), dtype=torch.uint8, generator=dice)
    pictures = loader.Pictures(pixels=pixels, labels=torch.arange(items) % 10, uris=("",) * items)
    plan = Preprocess(size=side, resize=side)
    return loader.Batches(pictures, plan, batch_size=batch_size, shuffle=True, transform=MOVES)


class Plain:
    """The batches of a loader as they are: the learner moves those that are elsewhere when their turn has come."""

    def __init__(self, batches: loader.Batches) -> None:
        self.epoch, self.count, self.items = batches.epoch, len(batches), len(batches) * batches.batch_size

    def __len__(self) -> int:
        return self.count


def speed(batches: Plain, device: One, side: int, epochs: int) -> float:
    """Items a second in the best epoch."""
    torch.manual_seed(0)
    net = nets.small(size=side, channels=3, classes=10)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    learner = Learner(
        net=net, criterion=nn.CrossEntropyLoss(), optimizer=optimizer, train_loader=batches, device=device
    )
    ends: list[float] = []
    learner.add(type("Clock", (), {"after_epoch": lambda self, _: ends.append(time.perf_counter())})())
    learner.fit(epochs + 1, budget=TimeBudget())
    took = min(after - before for before, after in itertools.pairwise(ends))
    return batches.items / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("not run: no CUDA device here")
        return
    precision = "bf16" if asked.device == "cuda" else "fp32"
    device = One(asked.device, precision, channels_last=True)
    batches = given(asked.items, asked.side, asked.batch_size)
    why = placing.placed(batches, device.place)[1] or "nothing to choose"
    print(f"{device.describe()}, torch {torch.__version__}; {why}\n")
    print("| items | items/s |\n|---|---|")
    ways = {"all on the device": batches.on(device.place, held=True), "moved when their turn has come": batches}
    if device.place.type != "cpu":
        ways["sent ahead of their turn"] = batches.on(device.place, held=False)
    for name, way in ways.items():
        print(f"| {name} | {speed(Plain(way), device, asked.side, asked.epochs):,.0f} |", flush=True)
    x, y = next(iter(batches.epoch(0)))
    found = pace.batch_size(
        device,
        nets.small(size=asked.side, channels=3, classes=10),
        lambda count: (x[torch.arange(count) % len(y)], y[torch.arange(count) % len(y)]),
        nn.CrossEntropyLoss(),
        least=128,
        most=8192,
    )
    print(f"\nbatches of {found.items}: {found.why}")


if __name__ == "__main__":
    main()
