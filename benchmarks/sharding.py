"""JPEG files to TFRecord with the short side at 256: pictures a second, one and two processes, and memory.

`python -m benchmarks.sharding`; the peer is `webdataset` with Pillow, as its documentation does it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.reading import photos


def ours(folder: Path, workers: int) -> float:
    from inflame.artifact import manifest, shard

    target = tempfile.mkdtemp(prefix="shards")
    found = manifest.listed(folder)
    began = time.perf_counter()
    index = shard.shard(found, target, shard.Recipe(shard_mb=8), workers=workers)
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return float(index["items"] / seconds)


def webdataset(folder: Path, workers: int) -> float:
    import webdataset
    from PIL import Image

    target = tempfile.mkdtemp(prefix="shards")
    began, count = time.perf_counter(), 0
    with webdataset.ShardWriter(f"{target}/%05d.tar", maxsize=8e6, verbose=0) as sink:
        for path in sorted(folder.rglob("*.jpg")):
            image = Image.open(path).convert("RGB")
            factor = 256 / min(image.size)
            if factor < 1:
                image = image.resize((round(image.width * factor), round(image.height * factor)), Image.BILINEAR)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90)
            sink.write({"__key__": f"{count:06d}", "jpg": file.getvalue(), "cls": path.parent.name})
            count += 1
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return count / seconds


RUNS = {
    "inflame, 1 process": (ours, 1),
    "webdataset + Pillow, 1 process": (webdataset, 1),
    "inflame, 2 processes": (ours, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--run", nargs=2)
    words = parser.parse_args()
    if words.run:
        task, workers = RUNS[words.run[0]]
        speed = task(Path(words.run[1]), workers)
        print(json.dumps([speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
        return
    folder = words.photos or photos()
    found: dict[str, list[list[float]]] = {name: [] for name in RUNS}
    for _ in range(words.rounds):
        for name in RUNS:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.sharding", "--run", name, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print("| writer | pictures/s | memory MB |\n|---|---|---|")
    for name, rows in found.items():
        print(f"| {name} | {statistics.median(r[0] for r in rows):,.0f} | {max(r[1] for r in rows):,.0f} |")


if __name__ == "__main__":
    main()
