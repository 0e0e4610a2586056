"""Two processes of one thread each against one process of two threads: the same batches, the same cores.

Pictures in memory, mirrored and moved, batches of 128 (small net, 32 pixels) and 64 (resnet18, 64 pixels), gradients
over gloo. Whole processes, in turns; the first steps are left out. Threads wait asleep, as `inflame train` has it on a
busy machine, where pictures a second say little and processor time more. `fp32` is plain, `chosen` what `pace` would
choose on this machine for the one process: channels last, for resnet18 bf16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETS = ("small", "resnet18")
WARM = 3

_PROGRAM = """
import sys, time, warnings
warnings.simplefilter("ignore")
from functools import partial
import torch
from torch import nn
from inflame.artifact import augment, loader
from inflame.model.engine import nets, optim
from inflame.model.engine.device import One
from inflame.model.engine.processes import Many
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess
processes, name, precision, steps, WARM = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
side, size = (32, 128) if name == "small" else (64, 64)
last = precision != "fp32"
kind = "bf16" if last and name == "resnet18" else "fp32"
device = One("cpu", kind, channels_last=last) if processes == 1 else Many(processes, accelerator="cpu")
if processes > 1: device.use(kind, channels_last=last)
torch.manual_seed(0)
count = size * (steps + WARM)
pictures = loader.Pictures(pixels=torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8),
                           labels=torch.arange(count) % 10, uris=tuple(map(str, range(count))))
move = augment.chain(augment.flip, partial(augment.shift, by=side // 8, mode="reflect"))
batches = loader.Batches(pictures, Preprocess(size=side, resize=side), batch_size=size, shuffle=True, transform=move)
net = nets.small(size=side, channels=3, classes=10) if name == "small" else nets.named(name, classes=10)
times, used = [], []
class Clock:
    def after_batch(self, learner):
        times.append(time.perf_counter())
        used.append(time.process_time())
learner = Learner(net=net, criterion=nn.CrossEntropyLoss(), device=device, train_loader=batches, hooks=[Clock()],
                  optimizer=optim.sgd(net, learning_rate=1e-3, weight_decay=1e-5))
learner.fit(1)
items = size * (len(times) - 1 - WARM)
spent = device.reduce(torch.tensor(1e3 * (used[-1] - used[WARM]) / items)).item()
if device.main: print(items / (times[-1] - times[WARM]), spent)
"""


def speed(processes: int, net: str, precision: str, steps: int) -> tuple[float, float]:
    """Pictures a second, and milliseconds of processors for a picture."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"  # the second process is started by the same command
        program.write_text(_PROGRAM)
        done = subprocess.run(
            [sys.executable, str(program), str(processes), net, precision, str(steps), str(WARM)],
            env={"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(2 // processes)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    found, spent = done.stdout.splitlines()[-1].split()
    return float(found), float(spent)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--nets", nargs="*", default=NETS)
    words = parser.parse_args()
    head = (
        "net",
        "precision",
        "1 process: pictures/s",
        "2 processes",
        "two × one",
        "CPU ms a picture, 1 and 2",
        "two × one",
    )
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for net in words.nets:
        for precision in ("fp32", "chosen"):
            rounds = [
                [speed(processes, net, precision, words.steps) for processes in (1, 2)] for _ in range(words.rounds)
            ]
            cells = []
            for what, better in ((0, 1), (1, -1)):  # more pictures a second are better, and fewer milliseconds
                one, two = (statistics.median(row[index][what] for row in rounds) for index in (0, 1))
                ratio = statistics.median((two[what] / one[what]) ** better for one, two in rounds)
                cells += [f"{one:.3g} | {two:.3g}" if what == 0 else f"{one:.3g}, {two:.3g}", f"**{ratio:.2f}**"]
            print(f"| {net} | {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
