"""Photos from a class folder to batches of 224 px (random resized crop, mirror, normalise): CPU seconds a photo.

Whole processes, alternating, on the same files. `python -m benchmarks.reading --photos FOLDER`; without FOLDER the
mirror's butterflies and clothes, each three times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
    from functools import partial

    import torch

    from inflame import artifact
    from inflame.artifact import augment, reading
    from inflame.records import Preprocess

    torch.set_num_threads(1)
    plan = Preprocess(size=SIZE, resize=256, mean=MEAN, std=STD)
    found = artifact.open(folder, splits={"train": 1.0})
    change = augment.chain(partial(augment.zoom, size=SIZE, smallest=0.08), augment.flip)
    stream = reading.Stream(found, plan, batch_size=BATCH, shuffle=True, transform=change, threads=2)
    return timed(lambda epoch: sum(len(y) for _, y in stream.epoch(epoch)), epochs)


def loader(dataset: object, epochs: int) -> list[tuple[int, float, float]]:
    import torch

    torch.set_num_threads(1)
    batches = torch.utils.data.DataLoader(  # type: ignore[var-annotated]
        dataset, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    return timed(lambda epoch: sum(len(y) for _, y in batches), epochs)


def torchvision(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
    from torchvision import datasets, transforms

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return loader(datasets.ImageFolder(folder, transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])), epochs)


def torchvision_v2(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
    import torch
    from torchvision import datasets, io
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(SIZE, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    change = v2.Compose([*steps, v2.Normalize(MEAN, STD)])
    return loader(datasets.ImageFolder(folder, change, loader=lambda path: io.decode_image(path, mode="RGB")), epochs)


def timm(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
    from timm.data import create_transform
    from torchvision import datasets

    change = create_transform(SIZE, is_training=True, auto_augment=None, color_jitter=None, mean=MEAN, std=STD)
    return loader(datasets.ImageFolder(folder, change), epochs)


def huggingface(folder: Path, epochs: int) -> list[tuple[int, float, float]]:
    import datasets
    from torchvision import transforms

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    change = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    found = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    found.set_transform(
        lambda rows: {"x": [change(image.convert("RGB")) for image in rows["image"]], "y": rows["label"]}
    )

    class Pairs:
        def __len__(self) -> int:
            return len(found)

        def __getitem__(self, row: int) -> tuple[object, int]:
            one = found[row]
            return one["x"], one["y"]

    return loader(Pairs(), epochs)


PEERS = {
    "inflame": ours,
    "torchvision ImageFolder": torchvision,
    "torchvision v2 on tensors": torchvision_v2,
    "timm": timm,
    "Hugging Face datasets": huggingface,
}


def timed(one: object, epochs: int) -> list[tuple[int, float, float]]:
    """(photos, wall seconds, CPU seconds of this process and its workers) of each epoch."""
    rows = []
    for epoch in range(epochs):
        wall, cpu = time.perf_counter(), spent()
        count = one(epoch)  # type: ignore[operator]
        rows.append((count, time.perf_counter() - wall, spent() - cpu))
    return rows


def spent() -> float:
    """CPU seconds of this process and of all that are its children now."""
    total = time.process_time()
    tick = os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def photos() -> Path:
    """A class folder of the mirror's photos at 500 x 375 pixels (they come smaller), each three times, mirrored and
    turned over so that no two are the same."""
    from PIL import Image

    mirror, folder = Path(os.environ["INFLAME_MIRROR"]), Path(tempfile.mkdtemp(prefix="photos"))
    for name in ("butterflies", "clothing"):
        for path in sorted((mirror / name).rglob("*.jpg")):
            for copy in range(3):
                place = folder / f"{name}_{path.parent.name}" / f"{path.stem}_{copy}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                image = Image.open(path).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
                turns = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
                turn = turns[copy]
                (image if turn is None else image.transpose(turn)).save(place, quality=92)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(PEERS))
    parser.add_argument("--run", nargs=2, metavar=("PEER", "FOLDER"), help="one run, in this process")
    words = parser.parse_args()
    if words.run:
        print(json.dumps(PEERS[words.run[0]](Path(words.run[1]), words.epochs)))
        return
    folder = words.photos or photos()
    found: dict[str, list[list[list[float]]]] = {name: [] for name in words.only}
    for _ in range(words.rounds):
        for name in words.only:
            home = tempfile.mkdtemp(prefix="home")
            command = [sys.executable, "-m", "benchmarks.reading", "--run", name, str(folder)]
            environment = {**os.environ, "INFLAME_HOME": home, "HF_HOME": home}
            done = subprocess.run(
                [*command, "--epochs", str(words.epochs)], capture_output=True, text=True, env=environment, check=False
            )
            shutil.rmtree(home, ignore_errors=True)
            if done.returncode:
                print(name, "failed:", done.stderr.strip().splitlines()[-1:], file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| loader | epoch 1, CPU ms/photo | later epochs, CPU ms/photo | later epochs, photos/s |\n|---|---|---|---|")
    for name, rounds in found.items():
        if rounds:
            first = statistics.median(1000 * r[0][2] / r[0][0] for r in rounds)
            later = statistics.median(1000 * e[2] / e[0] for r in rounds for e in r[1:])
            speed = statistics.median(e[0] / e[1] for r in rounds for e in r[1:])
            print(f"| {name} | {first:.2f} | {later:.2f} | {speed:,.0f} |")


if __name__ == "__main__":
    main()
