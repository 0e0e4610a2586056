"""JPEG files to shards with the short side at 256: pictures a second, CPU time of a picture, and memory.

`python -m benchmarks.sharding` compares one process with `webdataset`, tf.io, MDS (mosaicml-streaming) and
img2dataset, each where `.peers/NAME` holds an environment with it, and two processes with one. `--scale` writes
10³, 10⁴ and 10⁵ files as they are, and 10 GB of them: what a picture costs beside its resizing.
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
from collections.abc import Callable, Iterator
from pathlib import Path

SIZE, QUALITY, SHARD = 256, 90, 8e6
PEERS = Path(__file__).parents[1] / ".peers"

Paths = list[Path]


def ours(folder: Path, target: str, workers: int) -> int:
    from inflame.artifact import finding, shard

    return int(shard.shard(finding.listed(folder), target, shard.Recipe(shard_mb=8), workers=workers)["items"])


def as_they_are(folder: Path, target: str) -> int:
    from inflame.artifact import finding, shard

    return int(shard.shard(finding.listed(folder), target, shard.Recipe(size=0), workers=2)["items"])


def encoded(paths: Paths) -> Iterator[tuple[Path, bytes]]:
    """By Pillow, as the documentation of webdataset and MDS does it."""
    from PIL import Image

    for path in paths:
        image = Image.open(path).convert("RGB")
        factor = SIZE / min(image.size)
        if factor < 1:
            image = image.resize((round(image.width * factor), round(image.height * factor)), Image.BILINEAR)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        yield path, file.getvalue()


def webdataset(folder: Path, target: str) -> int:
    import webdataset

    paths = sorted(folder.rglob("*.jpg"))
    with webdataset.ShardWriter(f"{target}/%05d.tar", maxsize=SHARD, verbose=0) as sink:
        for count, (path, data) in enumerate(encoded(paths)):
            sink.write({"__key__": f"{count:06d}", "jpg": data, "cls": path.parent.name})
    return len(paths)


def mds(folder: Path, target: str) -> int:
    from streaming import MDSWriter

    paths = sorted(folder.rglob("*.jpg"))
    columns = {"image": "bytes", "label": "str"}
    with MDSWriter(out=target, columns=columns, hashes=["sha1"], size_limit=int(SHARD)) as sink:
        for path, data in encoded(paths):
            sink.write({"image": data, "label": path.parent.name})
    return len(paths)


def tf_io(folder: Path, target: str) -> int:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    paths = sorted(folder.rglob("*.jpg"))
    sink, written, shards = None, SHARD, 0
    for path in paths:
        pixels = tf.io.decode_jpeg(path.read_bytes(), channels=3)
        height, width = pixels.shape[:2]
        factor = SIZE / min(height, width)
        if factor < 1:
            pixels = tf.image.resize(pixels, (round(height * factor), round(width * factor)), "bilinear")
            pixels = tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
        data = tf.io.encode_jpeg(pixels, quality=QUALITY).numpy()
        features = {"image/encoded": data, "image/class/text": path.parent.name.encode()}
        example = tf.train.Example(
            features=tf.train.Features(
                feature={
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                    for name, value in features.items()
                }
            )
        )
        if written >= SHARD:
            sink, written, shards = tf.io.TFRecordWriter(f"{target}/{shards:05d}.tfrecord"), 0, shards + 1
        sink.write(example.SerializeToString())
        written += len(data)
    sink.close()
    return len(paths)


def img2dataset(folder: Path, target: str) -> int:
    from img2dataset import download

    paths = sorted(folder.rglob("*.jpg"))
    Path(f"{target}/list.txt").write_text("".join(f"{path.as_uri()}\n" for path in paths))
    download(
        url_list=f"{target}/list.txt",
        output_folder=f"{target}/out",
        output_format="webdataset",
        processes_count=1,
        thread_count=16,
        number_sample_per_shard=320,
        image_size=SIZE,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=QUALITY,
    )
    return sum(json.loads(path.read_text())["successes"] for path in Path(f"{target}/out").glob("*_stats.json"))


RUNS: dict[str, tuple[Callable[[Path, str], int], str, int]] = {  # name → (what to do, environment, cores)
    "inflame, 1 process": (lambda folder, target: ours(folder, target, 1), "", 1),
    "webdataset + Pillow": (webdataset, "", 1),
    "tf.io": (tf_io, "tf", 1),
    "MDS + Pillow": (mds, "mds", 1),
    "img2dataset": (img2dataset, "img2dataset", 1),
}
PAIR: dict[str, tuple[Callable[[Path, str], int], str, int]] = {
    "inflame, one process": (lambda folder, target: ours(folder, target, 1), "", 2),
    "inflame, two processes": (lambda folder, target: ours(folder, target, 2), "", 2),
}
SCALE = {"inflame, files as they are": (as_they_are, "", 2)}


def one(name: str, folder: Path) -> None:
    """One run in this process; prints pictures, seconds, CPU seconds and MB. Start-up (imports, processes) is taken
    out: a run over a few pictures, after one that isn't counted."""
    task, _, cores = (RUNS | PAIR | SCALE)[name]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory(prefix="few") as few:
        for path in sorted(folder.rglob("*.jpg"))[:: max(1, len(list(folder.rglob("*.jpg"))) // 16)]:
            place = Path(few, path.parent.name, path.name)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
        timed(task, Path(few))
        start = timed(task, Path(few))
    whole = timed(task, folder.resolve())
    used = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps([*(all_ - few for all_, few in zip(whole, start, strict=True)), used / 1024]))


def timed(task: Callable[[Path, str], int], folder: Path) -> tuple[int, float, float]:
    """Pictures, seconds and CPU seconds, those of ended children with them."""
    target, began, before = tempfile.mkdtemp(prefix="shards"), time.perf_counter(), os.times()
    try:
        count = task(folder, target)
        return count, time.perf_counter() - began, sum(os.times()[:4]) - sum(before[:4])
    finally:
        shutil.rmtree(target)


def apart(name: str, folder: Path, environment: str) -> list[float]:
    python = str(PEERS / environment / "bin" / "python") if environment else sys.executable
    command = [python, "-W", "ignore", __file__, "--run", name, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def repeated(folder: Path, count: int) -> Path:
    """A folder of `count` pictures: links to those there are."""
    paths, made = sorted(folder.rglob("*.jpg")), folder.parent / f"{folder.name}_{count}"
    for number in range(count):
        path = paths[number % len(paths)]
        place = made / path.parent.name / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(path, place)
    return made


def compare(runs: dict[str, tuple[Callable[[Path, str], int], str, int]], folder: Path, rounds: int) -> None:
    """Alternating; the ratio is that of the same round."""
    there = {name: run for name, run in runs.items() if not run[1] or (PEERS / run[1]).is_dir()}
    found: dict[str, list[list[float]]] = {name: [] for name in there}
    for _ in range(rounds):
        for name, (_, environment, _) in there.items():
            found[name].append(apart(name, folder, environment))
    first = found[next(iter(found))]
    print("| writer | pictures/s | CPU ms/picture | × time of the first | × CPU of the first | memory MB |")
    print("|---|---|---|---|---|---|")
    for name, rows in found.items():
        wall = statistics.median(row[1] / row[0] * other[0] / other[1] for row, other in zip(rows, first, strict=True))
        cpu = statistics.median(row[2] / row[0] * other[0] / other[2] for row, other in zip(rows, first, strict=True))
        speed = statistics.median(row[0] / row[1] for row in rows)
        each = statistics.median(row[2] / row[0] * 1e3 for row in rows)
        print(f"| {name} | {speed:,.0f} | {each:.2f} | {wall:.2f} | {cpu:.2f} | {max(row[3] for row in rows):,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pair", action="store_true", help="two processes against one, 10,000 pictures")
    parser.add_argument("--scale", action="store_true", help="10³, 10⁴, 10⁵ pictures; 10 GB of files")
    parser.add_argument("--run", nargs=2, metavar=("NAME", "FOLDER"), help="one run, in this process")
    words = parser.parse_args()
    if words.run:
        one(words.run[0], Path(words.run[1]))
        return
    if words.photos is None:
        from benchmarks.reading import photos

        words.photos = photos()
    if words.pair:
        compare(PAIR, repeated(words.photos, 10_000), words.rounds)
    elif words.scale:
        size = sum(path.stat().st_size for path in words.photos.rglob("*.jpg"))
        many = int(10e9 / size * len(list(words.photos.rglob("*.jpg"))))
        for count in (1_000, 10_000, 100_000, many):
            print(f"\n{count:,} files\n")
            compare(SCALE, repeated(words.photos, count), 1)
    else:
        compare(RUNS, words.photos, words.rounds)


if __name__ == "__main__":
    main()
