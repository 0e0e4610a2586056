"""What `check` finds of faults that were planted: sets on disk as a user has them, judged by what `examine` says.

Needs the data sets (`INFLAME_MIRROR`). Files are planted in a copy; wrong labels are wrong folders. `--only NAME` for
one set, `--seeds N` for more draws.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from inflame.artifact import checks, examining, getdata, packed, texts
from inflame.artifact.contents import Contents
from inflame.model.engine import embedding

NOISE = 0.05
SHARE = 0.05  # of the items that get a twin


@dataclass(slots=True)
class Planted:
    """What was planted: exact copies, conflicts and broken files as sets of names, twins as (original, twin)."""

    copies: set[frozenset[str]] = field(default_factory=set)
    conflicts: set[frozenset[str]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    twins: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)


def items(name: str, most: int) -> Iterator[tuple[str, str, bytes | np.ndarray]]:
    """(label, name, content) of a set's items: at most so many, the same every time."""
    data = getdata(name)
    rows = np.random.default_rng(0).permutation(len(data))[:most]
    labels, uris = data.items["label"].to_pylist(), data.items["uri"].to_pylist()
    pixels = packed.images(data) if packed.is_packed(data) else None
    source = Contents(data.root)
    for row in rows.tolist():
        if pixels is not None:
            yield labels[row], f"{row}.png", np.asarray(pixels[int(uris[row].rpartition("#")[2])])
        else:
            yield labels[row], f"{row}{Path(uris[row].partition('#')[0]).suffix or '.txt'}", source.read(uris[row])


def write(folder: Path, name: str, most: int) -> list[str]:
    """A folder of class folders; the names of the files."""
    names = []
    for label, file, content in items(name, most):
        path = folder / label.replace("/", "-") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            text = Path(file).suffix in (".jsonl", ".txt", ".xz")
            path = path.with_suffix(".txt") if text else path
            path.write_bytes(texts.decode(content)[0].encode() if text else content)
        else:
            Image.fromarray(content).save(path)
        names.append(str(path.relative_to(folder)))
    return sorted(names)


TWINS: dict[str, Callable[[Image.Image, Path], None]] = {
    "JPEG 85": lambda image, path: image.save(path.with_suffix(".jpg"), quality=85),
    "JPEG 50": lambda image, path: image.save(path.with_suffix(".jpg"), quality=50),
    "JPEG 30": lambda image, path: image.save(path.with_suffix(".jpg"), quality=30),
    "WebP 60": lambda image, path: image.save(path.with_suffix(".webp"), quality=60),
    "0.7 times": lambda image, path: _resized(image, 0.7).save(path.with_suffix(".png")),
    "half": lambda image, path: _resized(image, 0.5).save(path.with_suffix(".png")),
    "double": lambda image, path: _resized(image, 2.0).save(path.with_suffix(".png")),
    "0.7 times, JPEG 75": lambda image, path: _resized(image, 0.7).save(path.with_suffix(".jpg"), quality=75),
    "mirrored": lambda image, path: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_suffix(".png")),
    "3 % cut off": lambda image, path: _cut(image, 0.03).save(path.with_suffix(".png")),
}
EXTRA = ("mirrored", "3 % cut off")  # beyond what is promised


def _resized(image: Image.Image, factor: float) -> Image.Image:
    width, height = image.size
    return image.resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)


def _cut(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(width * share), round(height * share), round(width * (1 - share)), height))


def plant(folder: Path, names: list[str], seed: int) -> Planted:
    """Broken files, copies, conflicts and twins."""
    random, done = np.random.default_rng(seed), Planted()
    count = max(8, int(SHARE * len(names)))
    picked = random.choice(names, min(count * len(TWINS) // 2 + 40, len(names)), replace=False).tolist()
    labels = sorted({name.split("/")[0] for name in names})
    for number in range(10):
        one, two, three, four = (picked.pop() for _ in range(4))
        copy = f"{Path(one).parent}/copy{number}{Path(one).suffix}"
        shutil.copy(folder / one, folder / copy)
        done.copies.add(frozenset((one, copy)))
        other = next(label for label in labels if label != two.split("/")[0])
        stray = f"{other}/stray{number}{Path(two).suffix}"
        shutil.copy(folder / two, folder / stray)
        done.conflicts.add(frozenset((two, stray)))
        data = (folder / three).read_bytes()
        (folder / three).write_bytes(b"" if number % 3 == 0 else data[: len(data) // 2])
        (folder / four).write_bytes(b"<html><body>404</body></html>")
        done.broken |= {three, four}
    for number, original in enumerate(picked):
        way = list(TWINS)[number % len(TWINS)]
        path = folder / Path(original).parent / f"twin{number}.png"
        with Image.open(folder / original) as image:
            TWINS[way](image.convert("L" if image.mode == "L" else "RGB"), path)
        made = next(path.parent.glob(f"twin{number}.*"))
        done.twins.setdefault(way, []).append((original, str(made.relative_to(folder))))
    return done


def mislabel(folder: Path, names: list[str], seed: int) -> Planted:
    """Every twentieth file into the folder of another class."""
    random, done = np.random.default_rng(seed), Planted()
    labels = sorted({name.split("/")[0] for name in names})
    for name in random.choice(names, int(NOISE * len(names)), replace=False).tolist():
        own, file = name.split("/")
        other = str(random.choice([label for label in labels if label != own]))
        (folder / name).rename(folder / other / file)
        done.wrong.add(f"{other}/{file}")
    return done


def found(check: checks.Check, kind: str) -> list[frozenset[str]]:
    """The items of each fault of a kind."""
    return [frozenset(fault.items) for fault in check.faults if fault.kind == kind]


def whole(folder: Path, done: Planted, known: set[frozenset[str]], check: checks.Check) -> Iterator[tuple[str, str]]:
    """(what, how much of it was found)."""
    bad = set().union(*found(check, "unreadable"))
    yield "unreadable", f"{len(done.broken & bad)} of {len(done.broken)}, {len(bad - done.broken)} others"
    exact, conflicts = found(check, "duplicate"), found(check, "label_conflict")
    yield "copies", f"{sum(any(pair <= f for f in exact) for pair in done.copies)} of {len(done.copies)}"
    yield "conflicts", f"{sum(any(pair <= f for f in conflicts) for pair in done.conflicts)} of {len(done.conflicts)}"
    near = [f for f in [*found(check, "near_duplicate"), *conflicts] if f not in known]
    right = {way: [any({*pair} <= f for f in near) for pair in pairs] for way, pairs in done.twins.items()}
    promised = [hit for way, hits in right.items() if way not in EXTRA for hit in hits]
    yield "twins", f"{sum(promised)} of {len(promised)} ({100 * sum(promised) / len(promised):.1f} %)"
    for way, hits in right.items():
        yield f"  {way}", f"{sum(hits)} of {len(hits)}"
    real = {frozenset(pair) for pairs in done.twins.values() for pair in pairs} | done.conflicts | done.copies
    false = sum(not any(pair <= f for pair in real) for f in near)
    yield "twins that are none", f"{false} of {len(near)} ({100 * false / max(1, len(near)):.1f} %)"


def judged(done: Planted, check: checks.Check) -> tuple[float, float]:
    """(precision, recall) of suspected labels."""
    said = set().union(*found(check, "suspected_label"))
    right = len(said & done.wrong)
    return right / max(1, len(said)), right / max(1, len(done.wrong))


SETS = {"butterflies": 2000, "clothing": 2000, "mnist": 5000, "fashion-mnist": 5000, "cifar10": 4000}
TEXTS = {"20newsgroups": 20000, "bbc-news": 3000}


def main() -> None:
    """Prints a table for each set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    parser.add_argument("--seeds", type=int, default=1)
    words = parser.parse_args()
    embeds = embedding.at_hand()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    for name, most in {**SETS, **TEXTS}.items():
        if words.only and name not in words.only.split(","):
            continue
        with tempfile.TemporaryDirectory() as place:
            clean = Path(place) / "clean"
            names = write(clean, name, most)
            check = examining.check(clean, embed=embeds)
            print(f"\n### {name}, {len(names):,} items, clean: {check.seconds} s")
            suspected = sum(len(f) for f in found(check, "suspected_label"))
            near = found(check, "near_duplicate")
            print(
                f"clean set: suspected labels {suspected}, near duplicates {len(near)}, kinds "
                f"{sorted({fault.kind for fault in check.faults})}",
                flush=True,
            )
            rates = []
            for seed in range(words.seeds):
                folder = Path(shutil.copytree(clean, Path(place) / f"wrong{seed}"))
                done = mislabel(folder, names, seed)
                began = time.perf_counter()
                rates.append((*judged(done, examining.check(folder, embed=embeds)), time.perf_counter() - began))
            middle = [statistics.mean(column) for column in zip(*rates, strict=True)]
            print(f"wrong labels: precision {middle[0]:.2f} recall {middle[1]:.2f}, {middle[2]:.1f} s", flush=True)
            if name in SETS:
                known = {*near, *found(check, "label_conflict")}
                folder = Path(shutil.copytree(clean, Path(place) / "faults"))
                done = plant(folder, names, 0)
                for what, how in whole(folder, done, known, examining.check(folder, embed=embeds)):
                    print(f"{what:<24}{how}")


if __name__ == "__main__":
    main()
