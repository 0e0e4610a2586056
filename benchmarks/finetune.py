"""Photos a second while a net is fine-tuned, data loading included: ours against Lightning's Trainer and timm's loader.

The same class folders of JPEGs, random resized crop, mirror, normalise, batches of 32, 2 cores. Whole processes, in
turns; the first epoch (ours decodes into its cache) is left out. Needs the data sets: `INFLAME_MIRROR`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inflame.artifact import getdata
from inflame.artifact.listing import locate

NETS = ("resnet18", "mobilenetv3_small_100")
SIDE, BATCH, WARM = 160, 32, 3

_COMMON = f"""
import sys, time, torch, timm, warnings
warnings.filterwarnings("ignore")
from torch import nn
folder, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
SIDE, BATCH, WARM = {SIDE}, {BATCH}, {WARM}
loss = nn.CrossEntropyLoss()
"""

_TORCHVISION = """
from torchvision import datasets, transforms as t
data = datasets.ImageFolder(folder, t.Compose([t.RandomResizedCrop(SIDE), t.RandomHorizontalFlip(), t.ToTensor(),
    t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]))
loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True)
net = timm.create_model(name, num_classes=len(data.classes))
"""

_LIGHTNING = (
    _COMMON
    + _TORCHVISION
    + """
import lightning
class Module(lightning.LightningModule):
    def __init__(self): super().__init__(); self.net = net
    def training_step(self, batch, _): return loss(self.net(batch[0]), batch[1])
    def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), lr=1e-4)
class Clock(lightning.Callback):
    times = []
    def on_train_batch_end(self, *_): self.times.append(time.perf_counter())
clock = Clock()
lightning.Trainer(max_steps=steps + WARM, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                  enable_model_summary=False, callbacks=[clock]).fit(Module(), loader)
print(BATCH * (len(clock.times) - 1 - WARM) / (clock.times[-1] - clock.times[WARM]))
"""
)

_TIMM = (
    _COMMON
    + """
from timm.data import create_dataset, create_loader
data = create_dataset("", folder)
loader = create_loader(data, (3, SIDE, SIDE), BATCH, is_training=True, num_workers=2, use_prefetcher=False)
net = timm.create_model(name, num_classes=len(data.reader.class_to_idx)).to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
times = []
while len(times) < steps + WARM:
    for x, y in loader:
        value = loss(net(x.contiguous(memory_format=torch.channels_last)), y)
        optimizer.zero_grad(); value.backward(); optimizer.step()
        times.append(time.perf_counter())
        if len(times) == steps + WARM: break
print(BATCH * (len(times) - 1 - WARM) / (times[-1] - times[WARM]))
"""
)

_OURS = (
    _COMMON
    + """
from dataclasses import replace
from functools import partial
from inflame import artifact
from inflame.artifact import augment, reading
from inflame.model.engine import nets, optim, pace
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess
data = artifact.open(folder, splits={"train": 1.0})
plan = Preprocess(size=SIDE, resize=round(SIDE * 1.14))
changes = augment.chain(partial(augment.zoom, size=SIDE, smallest=0.08), augment.flip)
stream = reading.Stream(data, plan, batch_size=BATCH, shuffle=True, transform=changes)
for _ in stream.epoch(0): pass
net = nets.named(name, classes=len(data.classes))
chosen = pace.choose(net, *next(iter(stream.epoch(0))), loss, left=float(sys.argv[4]))
print(chosen.why, file=sys.stderr)
class Clock:
    times = []
    def after_batch(self, learner): self.times.append(time.perf_counter())
clock = Clock()
optimizer = optim.adam([{"params": list(net.parameters()), "lr": 1e-4}])
learner = Learner(net=net, criterion=loss, optimizer=optimizer, train_loader=stream, device=chosen.device,
                  hooks=[clock])
learner.fit(1 + (steps + WARM) // len(stream))
print(BATCH * (len(clock.times) - 1 - WARM) / (clock.times[-1] - clock.times[WARM]))
"""
)

WAYS = {"inflame": _OURS, "Lightning Trainer, torchvision": _LIGHTNING, "timm's loader, channels last": _TIMM}


def folders(root: Path) -> None:
    """Class folders of the photos at hand."""
    for name in ("butterflies", "clothing"):
        found = getdata(name)
        for uri, label in zip(found.items["uri"].to_pylist(), found.items["label"].to_pylist(), strict=True):
            place = root / f"{name}-{label}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(locate(found.root, uri), place / Path(uri).name)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--nets", nargs="*", default=NETS)
    parser.add_argument("--left", type=float, default=60.0, help="seconds of training that ours is told to lie ahead")
    words = parser.parse_args()
    print("| net | " + " | ".join(WAYS) + " | ours × the best other |\n|---" * 1 + "|---" * (len(WAYS) + 1) + "|")
    with tempfile.TemporaryDirectory() as place:
        folders(Path(place) / "photos")
        environment = {**os.environ, "INFLAME_HOME": place}
        for net in words.nets:
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(words.rounds):
                for way, program in WAYS.items():
                    done = subprocess.run(
                        [
                            sys.executable,
                            "-W",
                            "ignore",
                            "-c",
                            program,
                            f"{place}/photos",
                            net,
                            str(words.steps),
                            str(words.left),
                        ],
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    speeds[way].append(float(done.stdout.splitlines()[-1]))
                    if way == "inflame":
                        print(done.stderr.splitlines()[-1], file=sys.stderr, flush=True)
            medians = [statistics.median(values) for values in speeds.values()]
            cells = " | ".join(f"{value:.0f}" for value in medians)
            print(f"| {net} | {cells} | **{medians[0] / max(medians[1:]):.2f}** |", flush=True)


if __name__ == "__main__":
    main()
