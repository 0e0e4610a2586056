"""From many files to few: shards of TFRecord, WebDataset or Parquet, pictures made smaller on the way.

Which item goes into which shard is decided once, in `plan.json`, from the items' names and a seed. Every shard is
written whole or not at all, and its note last: what was killed goes on with the same call, and no item is lost or
there twice. An item's memory is given back before the next is read, so size doesn't matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import multiprocessing
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from inflame import host, store
from inflame.artifact import preprocess, quick
from inflame.artifact.contents import Contents
from inflame.artifact.formats.entry import Entry
from inflame.errors import DataError, InflameError, SettingError, did_you_mean
from inflame.records import Dataset, Preprocess, dumps

FORMATS = {"tfrecord": "tfrecord", "webdataset": "webdataset", "parquet": "parquet"}
SUFFIXES = {"tfrecord": ".tfrecord", "webdataset": ".tar", "parquet": ".parquet"}
INDEX, PLAN, NOTES = "shards.json", "plan.json", "notes"

_ENOUGH = 4  # shards for each process, for each to make whole ones
_CHUNK = 32  # items that a process encodes at a time where there are fewer
_TRIED = 48  # items encoded to guess how many fit into a shard
_QUALITY = 90
_MOST = Preprocess(size=1, resize=1).max_pixels

Progress = Callable[[int, int], None]
_Made = tuple[Entry, bytes] | InflameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How shards are made: format, short side in pixels (0: files as they are), megabytes a shard, seed of the order,
    whether items that can't be read are left out."""

    to: str = "tfrecord"
    size: int = 256
    shard_mb: float = 256
    seed: int = 0
    skip_bad: bool = False


def shard(
    dataset: Dataset,
    target: str | Path,
    recipe: Recipe,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    run: Callable[[Sequence[Job]], Iterator[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Writes the shards of a listed data set to a folder or bucket; returns the index (`shards.json`).

    Shards that are there already are kept. `workers` processes (default: all cores); `run` does the jobs elsewhere.
    `progress` is told (items done, all). Raises DataError for an item that can't be read, unless the recipe skips it;
    SettingError when `target` holds shards of other data or of another recipe.
    """
    place = os.fspath(target).rstrip("/")
    plan = _planned(dataset, place, _checked(recipe))
    jobs = [
        Job(
            root=dataset.root,
            target=place,
            name=name,
            rows=tuple(plan["shards"][name]),
            classes=tuple(plan["classes"]),
            kind=dataset.kind,
            recipe=recipe,
        )
        for name in plan["shards"]
    ]
    waiting = [job for job in jobs if _note(job) is None]
    total = sum(len(job.rows) for job in jobs)
    done = total - sum(len(job.rows) for job in waiting)
    if progress is not None and done:
        progress(done, total)
    for note in (run or _locally(workers))(waiting):
        done += note["planned"]
        if progress is not None:
            progress(done, total)
    return _finished(place, plan, jobs)


def verify(target: str | Path) -> dict[str, Any]:
    """Reads every shard against the index: checksums, counts, labels. DataError names the first that isn't right."""
    place = os.fspath(target).rstrip("/")
    index = json.loads(store.read_text(store.join(place, INDEX)))
    for about in index["shards"]:
        data = store.read_bytes(store.join(place, about["name"]))
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise DataError(
                f"{about['name']} was changed or cut short: its checksum isn't that of the index.",
                where=store.shown(store.join(place, about["name"])),
                remedy="Delete it and the note beside it, and give the command that made it again: only it is made.",
            )
    return index  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One shard to make: everything a worker anywhere needs. rows: (uri, label, split, group, time)."""

    root: str
    target: str
    name: str
    rows: tuple[tuple[str, str, str, str, str], ...]
    classes: tuple[str, ...]
    kind: str
    recipe: Recipe


def make(job: Job, encode: Callable[[Job], Iterator[_Made]] | None = None) -> dict[str, Any]:
    """Writes one shard and its note; returns the note. Safe to call again, anywhere, at any time. `encode` gives what
    becomes of each row, in order (default: in this process)."""
    known = _note(job)
    if known is not None:
        return known
    counts, skipped = Counter[str](), []
    with _part(store.join(job.target, job.name)) as part:
        module = import_module(f"inflame.artifact.formats.{FORMATS[job.recipe.to]}")
        with part.open("wb") as sink:
            writer = module.Writer(sink, job.classes, kind=job.kind)
            for row, made in zip(job.rows, (encode or _encoded)(job), strict=True):
                if isinstance(made, InflameError):
                    if not job.recipe.skip_bad:
                        raise _named(made, row[0]) from made
                    skipped.append({"uri": row[0], "reason": made.message})
                    continue
                entry, data = made
                writer.add(entry, data)
                counts[entry.label] += 1
            writer.close()
        note = {
            "name": job.name,
            "items": sum(counts.values()),
            "planned": len(job.rows),
            "bytes": part.stat().st_size,
            "sha256": _digest(part),
            "classes": dict(sorted(counts.items())),
            "skipped": skipped,
        }
    store.write(_note_place(job), dumps(note))
    return note


@contextmanager
def _part(place: str) -> Iterator[Path]:
    """A file to write to, which is at `place` when the block ends well."""
    path = store.local(place)
    if path is not None:
        with store.atomic(path) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part")
        yield part
        store.upload(part, place)


# --- one item ------------------------------------------------------------------------------------------------


def _encoded(job: Job) -> Iterator[_Made]:
    """What becomes of each row of the job; an error for one that can't be read."""
    host.keep_memory()
    source = _source(job.root)
    for row in job.rows:
        try:
            yield _item(source, row, job)
        except InflameError as error:
            yield error


@lru_cache(maxsize=1)
def _source(root: str) -> Contents:
    """The data in a folder or bucket; shards stay open from one job to the next."""
    return Contents(root)


def _item(source: Contents, row: tuple[str, str, str, str, str], job: Job) -> tuple[Entry, bytes]:
    uri, label, split, group, time = row
    try:
        data = source.read(uri)
    except OSError as error:
        raise DataError(
            f"{uri} can't be read: {error.strerror or error}.", where=uri, remedy="Correct it, or --skip-bad"
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    height = width = 0
    ext = PurePosixPath(uri.partition("#")[0]).suffix.lower() if "#" not in uri else ""
    if job.kind == "text":
        ext = ".txt"
    elif job.recipe.size:
        data, ext, (width, height) = resized(data, job.recipe.size, uri)
    entry = Entry(
        key="",
        label=label,
        split=split,
        sha256=sha256,
        group=group,
        time=time,
        uri=uri,
        ext=ext,
        height=height,
        width=width,
    )
    return entry, data


def resized(data: bytes, size: int, where: str) -> tuple[bytes, str, tuple[int, int]]:
    """(file, its ending, (width, height)): the picture upright, in RGB or grey, its short side at most `size` pixels.

    JPEGs are decoded at a half, quarter or eighth where that is still large enough (libjpeg's scaled DCT). A picture
    that needs no change is left as it is, byte for byte. Raises PictureError.
    """
    given = quick.ordinary(data)
    made = None if given is None or min(given) <= size else _quick(data, size, given)
    if made is not None:
        return made
    with preprocess._border(data, where):
        image: Image.Image = preprocess._opened(data, _MOST)
        short = min(image.size)
        if short <= size and image.format in ("JPEG", "PNG") and image.mode in ("L", "RGB") and _upright(image):
            image.load()
            return data, ".jpg" if image.format == "JPEG" else ".png", image.size
        lossless = image.format in ("PNG", "GIF", "BMP") and short <= 64
        if image.format == "JPEG":
            factor = size / short
            image.draft(None, (math.ceil(image.width * factor), math.ceil(image.height * factor)))
        upright = preprocess._finished(image, _MOST)
        factor = size / min(upright.size)
        if factor < 1:
            target = (max(size, round(upright.width * factor)), max(size, round(upright.height * factor)))
            upright = upright.resize(target, Image.Resampling.BILINEAR, reducing_gap=None)
        file = io.BytesIO()
        if lossless:
            upright.save(file, "PNG")
            return file.getvalue(), ".png", upright.size
        upright.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue(), ".jpg", upright.size


def _quick(data: bytes, size: int, given: tuple[int, int]) -> tuple[bytes, str, tuple[int, int]] | None:
    """An ordinary JPEG by OpenCV; None where it won't."""
    import cv2

    factor = size / min(given)
    width, height = (max(size, round(length * factor)) for length in given)
    try:
        pixels = quick.decode(data, size, given)
        if pixels is None:
            return None
        done, file = cv2.imencode(".jpg", quick.resize(pixels, width, height), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    except (cv2.error, MemoryError):  # the exact way will say what is wrong
        return None
    return (file.tobytes(), ".jpg", (width, height)) if done else None


def _upright(image: Image.Image) -> bool:
    with suppress(Exception):  # EXIF of strangers can raise anything
        return int(image.getexif().get(0x0112, 1)) == 1
    return False


# --- the plan ------------------------------------------------------------------------------------------------


def _checked(recipe: Recipe) -> Recipe:
    if recipe.to not in FORMATS:
        raise SettingError(
            f'There is no shard format "{recipe.to}".{did_you_mean(recipe.to, FORMATS)}',
            where="--to",
            remedy=f"Use one of: {', '.join(FORMATS)}",
        )
    if recipe.size < 0 or recipe.shard_mb <= 0:
        raise SettingError("Sizes must be positive.", where="--size, --shard-mb", remedy="--size 256 --shard-mb 256")
    return recipe


def _planned(dataset: Dataset, place: str, recipe: Recipe) -> dict[str, Any]:
    """The plan in the target, or a new one; which shard holds which items."""
    columns = [dataset.items[name].to_pylist() for name in ("uri", "label", "split", "group", "time")]
    rows = sorted(zip(*columns, strict=True))
    identity = hashlib.sha256(json.dumps([rows, dataclasses.asdict(recipe)]).encode()).hexdigest()
    where = store.join(place, PLAN)
    if store.exists(where):
        known: dict[str, Any] = json.loads(store.read_text(where))
        if known["identity"] != identity:
            raise SettingError(
                f"{store.shown(place)} holds shards of other data, or made in another way.",
                where=store.shown(place),
                remedy="Give another folder, or delete that one.",
            )
        return known
    local = store.local(place)
    if local is not None:
        store.make_folder(local)
    plan = {
        "identity": identity,
        "dataset": dataset.name,
        "kind": dataset.kind,
        "classes": list(dataset.classes),
        "recipe": dataclasses.asdict(recipe),
        "shards": _shared_out(dataset, rows, recipe),
    }
    store.write(where, json.dumps(plan))
    return json.loads(json.dumps(plan))  # type: ignore[no-any-return]


def _shared_out(dataset: Dataset, rows: Sequence[tuple[str, ...]], recipe: Recipe) -> dict[str, list[tuple[str, ...]]]:
    """Shuffled by a hash of name and seed, split by split, about as many as fit into a shard."""
    each = max(1, int(recipe.shard_mb * 1e6 / max(1.0, _mean_bytes(dataset, rows, recipe))))
    found: dict[str, list[tuple[str, ...]]] = {}
    suffix = SUFFIXES[recipe.to]
    for split in sorted({row[2] for row in rows}):
        mine = [row for row in rows if row[2] == split]
        mine.sort(key=lambda row: hashlib.blake2b(f"{recipe.seed}\0{row[0]}".encode(), digest_size=8).digest())
        count = math.ceil(len(mine) / each)
        for number in range(count):
            name = f"{split or 'data'}-{number:05d}-of-{count:05d}{suffix}"
            found[name] = mine[number * len(mine) // count : (number + 1) * len(mine) // count]
    return found


def _mean_bytes(dataset: Dataset, rows: Sequence[tuple[str, ...]], recipe: Recipe) -> float:
    """Bytes of an item in a shard, by trying some."""
    source = Contents(dataset.root)
    job = Job(root=dataset.root, target="", name="", rows=(), classes=(), kind=dataset.kind, recipe=recipe)
    sizes = []
    for row in rows[:: max(1, len(rows) // _TRIED)]:
        with suppress(InflameError):
            sizes.append(len(_item(source, row, job)[1]) + 200)  # type: ignore[arg-type]
    return sum(sizes) / len(sizes) if sizes else 1e6


# --- doing it ------------------------------------------------------------------------------------------------


def _locally(workers: int | None) -> Callable[[Sequence[Job]], Iterator[dict[str, Any]]]:
    def run(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        count = workers or host.cores()
        if count <= 1 or not jobs:
            yield from map(make, jobs)
            return
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            if len(jobs) >= _ENOUGH * count:
                yield from pool.map(make, jobs)
            else:  # a shard for each process would leave some without work
                yield from (make(job, partial(_by_many, pool, count)) for job in jobs)

    return run


def _by_many(pool: Executor, count: int, job: Job) -> Iterator[_Made]:
    """The items of one shard, encoded by `count` processes, few of them waiting at any time."""
    waiting: deque[Future[list[_Made]]] = deque()
    for start in range(0, len(job.rows), _CHUNK):
        part = dataclasses.replace(job, rows=job.rows[start : start + _CHUNK])
        waiting.append(pool.submit(_all_encoded, part))
        if len(waiting) > 2 * count:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _all_encoded(job: Job) -> list[_Made]:
    return list(_encoded(job))


def _finished(place: str, plan: dict[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    notes = [note for job in jobs if (note := _note(job)) is not None]
    index = {
        "dataset": plan["dataset"],
        "kind": plan["kind"],
        "classes": plan["classes"],
        "recipe": plan["recipe"],
        "items": sum(note["items"] for note in notes),
        "bytes": sum(note["bytes"] for note in notes),
        "skipped": [item for note in notes for item in note["skipped"]],
        "shards": notes,
    }
    store.write(store.join(place, INDEX), dumps(index))
    local = store.local(place)
    if local is not None:
        store.sweep(local)
    return index


def _note_place(job: Job) -> str:
    return store.join(job.target, NOTES, f"{job.name}.json")


def _note(job: Job) -> dict[str, Any] | None:
    place = _note_place(job)
    if not store.exists(place):
        return None
    with suppress(ValueError, InflameError):
        note: dict[str, Any] = json.loads(store.read_text(place))
        return note if store.exists(store.join(job.target, job.name)) else None
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(error: InflameError, uri: str) -> DataError:
    return DataError(
        f"{uri}: {error.message}",
        where=error.where or uri,
        remedy="Correct or remove it, or leave out what can't be read: --skip-bad",
    )
