"""A data set grown by what people named: version n+1, a folder of its own that everything opens like any other.

    grown/NAME/v0002/
      dataset.json, items.parquet   the whole manifest; the older items keep their names, labels and splits
      cats, dogs …                  links to where the older items lie (of a packed set: its images.npy with more rows)
      new-v0002/                    what was added
      growth.json                   what it grew from; of each new item who named it and when, or why it was left out

A set in a bucket grows there: see grow_bucket.py. The locked test split stays as it is unless that is asked for, and
nothing that is nearly one of its items is learned.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import (
    akin,
    buckets,
    contents,
    fetch,
    grow_bucket,
    index,
    listing,
    magic,
    manifest,
    packed,
    split,
)
from inflame.artifact.preprocess import pixels
from inflame.errors import DataError, InflameError
from inflame.records import Dataset, Preprocess, Record, dumps

FIRST = 2  # the number of the first grown version: the one of the training is 1

Progress = Callable[[int, int], None]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Something that people named: its bytes, its class, who said so and when (seconds since 1970), and the answer
    that they spoke about."""

    content: bytes = field(repr=False)
    label: str
    who: tuple[str, ...] = ()
    time: float = 0.0
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth(Record):
    """What a data set became. `added`: how many new items each split got; `left_out`: reason → how many; `new`: a row
    for each thing that was named, {"sha256", "label", "split" ("" when left out), "why", "who", "time", "answer"};
    `new_classes`: those that it didn't have before."""

    name: str
    number: int
    folder: str
    parent: str
    version: str
    items: int
    added: Mapping[str, int]
    left_out: Mapping[str, int]
    new: tuple[Mapping[str, Any], ...] = ()
    new_classes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Thing:
    """One of the named things on its way: `data` is what would be kept, `side` its split, `why` why it has none."""

    named: Named
    data: bytes
    sha256: str
    suffix: str
    side: str = ""
    why: str = ""


def home_of(name: str) -> Path:
    """The folder of the grown versions of a data set of that name."""
    return store.home() / "grown" / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data")


def grow(
    dataset: Dataset,
    found: Sequence[Named],
    *,
    new: Sequence[str] = (),
    test: bool = False,
    progress: Progress | None = None,
) -> Growth:
    """The data set with what people named, as the next version in inflame's home, or in its bucket; the same again
    makes no new one. new: names that may become classes of it.

    A new item goes to train or val, by its content, in the shares that these have; with `test` also to the test split.
    One that is nearly an item of val, or of test with `test`, goes beside it; nearly one of test is left out else.
    Nothing that can be added, a class that the data doesn't have: DataError.
    """
    more = tuple(name for name in new if name not in dataset.classes and any(one.label == name for one in found))
    dataset = dataclasses.replace(dataset, classes=(*dataset.classes, *more))
    _demand(dataset, found)
    home = store.make_folder(home_of(dataset.name))
    with fetch.alone(home):
        store.sweep(home)  # what a killed one left
        things = _things(dataset, found)
        _leave_known(dataset, things)
        _sides(dataset, things, test=test, progress=progress)
        version = manifest.version(_joined(dataset, things, 0))
        if (known := next((one for one in _earlier(dataset) if one.version == version), None)) is not None:
            return known
        if not any(thing.side for thing in things):
            raise _nothing(things)
        number = _number(dataset)
        items = _joined(dataset, things, number)
        made = Growth(
            name=dataset.name,
            number=number,
            folder=_folder(dataset, number),
            parent=dataset.version,
            version=version,
            items=items.num_rows,
            added=dict(Counter(thing.side for thing in things if thing.side)),
            left_out=dict(Counter(thing.why for thing in things if thing.why)),
            new=tuple(map(_row, things)),
            new_classes=more,
        )
        _write(dataset, dataclasses.replace(dataset, items=items, version=version, faults=()), things, made)
    return made


def versions(name: str) -> list[Growth]:
    """The grown versions in inflame's home of a data set, the oldest first."""
    found = sorted(home_of(name).glob(f"v*/{manifest.GROWTH}"))
    return [Growth.from_json(json.loads(path.read_text(encoding="utf-8"))) for path in found]


# --- here, or in a bucket --------------------------------------------------------------------------------------


def _earlier(dataset: Dataset) -> list[Growth]:
    if not _is_away(dataset):
        return versions(dataset.name)
    return [Growth.from_json(json.loads(text)) for text in grow_bucket.growths(dataset.root).values()]


def _number(dataset: Dataset) -> int:
    """The next one, which is nobody else's."""
    home = home_of(dataset.name)
    here = [int(path.name[1:]) for path in home.glob("v[0-9]*") if path.name[1:].isdigit()]
    taken = grow_bucket.numbers(dataset.root) if _is_away(dataset) else here
    number = max(taken, default=FIRST - 1) + 1
    return grow_bucket.claim(dataset.root, number) if _is_away(dataset) else number


def _folder(dataset: Dataset, number: int) -> str:
    away = _is_away(dataset)
    return grow_bucket.folder(dataset.root, number) if away else str(home_of(dataset.name) / f"v{number:04}")


def _write(before: Dataset, after: Dataset, things: Sequence[_Thing], made: Growth) -> None:
    if _is_away(before):
        files = {_name(before, thing, made.number): thing.data for thing in things if thing.side}
        grow_bucket.write(after, made.number, files, dumps(made))
        return
    with store.atomic_folder(made.folder) as part:
        _lay(before, things, part, made.number)
        manifest.save(dataclasses.replace(after, root=""), part)
        (part / manifest.GROWTH).write_text(dumps(made), encoding="utf-8")
    _remember(before, Path(made.folder), after.items)


def _is_away(dataset: Dataset) -> bool:
    return buckets.is_bucket(dataset.root)


# --- what is taken ---------------------------------------------------------------------------------------------


def _demand(dataset: Dataset, found: Sequence[Named]) -> None:
    root = store.local(dataset.root)
    if not _is_away(dataset) and (root is None or not root.is_dir()):
        raise DataError(
            f"The data set {dataset.name} is not where it was: it can't grow.",
            where=store.shown(dataset.root),
            remedy="Put it back, or train on a copy and grow that.",
        )
    outside = next((uri for uri in dataset.items["uri"].to_pylist() if uri.startswith("../")), "")
    if outside:
        raise DataError(
            f"The item {outside} lies outside the folder of its data set, which can't grow therefore.",
            where=store.shown(dataset.root),
            remedy="Put the table beside or above its files.",
        )
    strange = sorted({one.label for one in found} - set(dataset.classes))
    if strange:
        raise DataError(
            f'The data set {dataset.name} has no class "{strange[0][:80]}".',
            where=store.shown(dataset.root),
            remedy=f"One of: {', '.join(dataset.classes[:20])}",
        )


def _things(dataset: Dataset, found: Sequence[Named]) -> list[_Thing]:
    """The named things as they would be kept; of the same one twice the first."""
    shape = packed.images(dataset).shape[1:] if packed.is_packed(dataset) else ()
    made: dict[str, _Thing] = {}
    for one in found:
        data, why = one.content, ""
        try:
            data = _row_of(one.content, shape) if shape else one.content
        except InflameError as error:
            why = f"can't be read: {error.message}"
        sha256 = hashlib.sha256(data).hexdigest()
        made.setdefault(
            sha256, _Thing(named=one, data=data, sha256=sha256, suffix=_suffix(dataset, one.content), why=why)
        )
    return list(made.values())


def _row_of(content: bytes, shape: tuple[int, ...]) -> bytes:
    """A picture as a row of a packed set."""
    if shape[0] != shape[1]:
        raise DataError("rows that are not square can't be added to", remedy="Keep the pictures as files.")
    channels = shape[2] if len(shape) > 2 else 1
    return pixels(content, Preprocess(size=shape[0], resize=shape[0], channels=channels)).tobytes()


def _suffix(dataset: Dataset, content: bytes) -> str:
    if dataset.kind == "text":
        return ".txt"
    return {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}.get(
        kind := magic.sniff(content).format, f".{kind.lower() or 'img'}"
    )


def _leave_known(dataset: Dataset, things: Sequence[_Thing]) -> None:
    """Leaves out what is an item already."""
    columns = (dataset.items[name].to_pylist() for name in ("sha256", "label"))
    known = dict(zip(*columns, strict=True))
    for thing in things:
        if not thing.why and thing.sha256 in known:
            same = known[thing.sha256] == thing.named.label
            thing.why = "in the data already" if same else "in the data as another class: correct it there"


def _sides(dataset: Dataset, things: Sequence[_Thing], *, test: bool, progress: Progress | None) -> None:
    """Gives each thing its split, or the reason why it has none."""
    held = dataset.items.filter(pa.array([one != "train" for one in dataset.items["split"].to_pylist()], pa.bool_()))
    new = [thing for thing in things if not thing.why]
    beside, together, wrong = akin.akin(dataset, held, [(thing.named.content, thing.suffix) for thing in new], progress)
    sides = split.assign(
        listing.table(
            uri=[thing.sha256 for thing in new],
            label=[thing.named.label for thing in new],
            sha256=[thing.sha256 for thing in new],
        ),
        _shares(dataset, test=test),
        together=together,
    )["split"].to_pylist()
    for place, (thing, side) in enumerate(zip(new, sides, strict=True)):
        twins = beside.get(place, set())
        if place in wrong:
            thing.why = wrong[place]
        elif "test" in twins and not test:
            thing.why = "nearly an item of the test split"
        else:
            thing.side = "test" if "test" in twins else "val" if "val" in twins else side


def _shares(dataset: Dataset, *, test: bool) -> dict[str, float]:
    counts = Counter(dataset.items["split"].to_pylist())
    names = ("train", "val", "test") if test else ("train", "val")
    total = sum(counts[name] for name in names)
    return {name: counts[name] / total for name in names if counts[name]} if total else {"train": 1.0}


# --- writing it ------------------------------------------------------------------------------------------------


def _joined(dataset: Dataset, things: Sequence[_Thing], number: int) -> pa.Table:
    """The items of before, as they were, and the new ones behind them."""
    taken = [thing for thing in things if thing.side]
    rows = len(packed.images(dataset)) if packed.is_packed(dataset) else -1
    names = [
        f"{packed.IMAGES}#{rows + place}" if rows >= 0 else _name(dataset, thing, number)
        for place, thing in enumerate(taken)
    ]
    new = listing.table(
        uri=names,
        label=[thing.named.label for thing in taken],
        split=[thing.side for thing in taken],
        sha256=[thing.sha256 for thing in taken],
    )
    return pa.concat_tables([dataset.items.select(list(listing.COLUMNS)), new.select(list(listing.COLUMNS))])


def _name(dataset: Dataset, thing: _Thing, number: int) -> str:
    folder = f"{buckets.GROWN}/v{number:04}" if _is_away(dataset) else f"new-v{number:04}"
    label = re.sub(r"[^\w.-]+", "-", thing.named.label).strip(".-") or "class"
    return f"{folder}/{label}/{thing.sha256[:32]}{thing.suffix}"


def _lay(dataset: Dataset, things: Sequence[_Thing], part: Path, number: int) -> None:
    """The items of before by links, the new ones by their bytes."""
    taken = [thing for thing in things if thing.side]
    if packed.is_packed(dataset):
        _stack(packed.images(dataset), [thing.data for thing in taken], part / packed.IMAGES)
        return
    root = Path(dataset.root)
    for name in sorted({PurePosixPath(_file(uri)).parts[0] for uri in dataset.items["uri"].to_pylist()} - {"/"}):
        place = listing.locate(root, name)
        (part / place.name).symlink_to(place.resolve())
    for thing in taken:
        path = part / _name(dataset, thing, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(thing.data)


def _file(uri: str) -> str:
    return contents.divided(uri)[0] or uri


def _stack(images: Pixels, rows: Sequence[bytes], path: Path) -> None:
    """The array with more rows, written without loading it."""
    shape = images.shape[1:]
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(images) + len(rows), *shape))
    for start in range(0, len(images), 4096):
        array[start : min(start + 4096, len(images))] = images[start : start + 4096]
    for place, row in enumerate(rows, len(images)):
        array[place] = np.frombuffer(row, np.uint8).reshape(shape)
    array.flush()


def _remember(dataset: Dataset, folder: Path, items: pa.Table) -> None:
    """What was read of the older items is known of the new folder as well: only what is new will be read."""
    if packed.is_packed(dataset):
        return
    stated = contents.stated(items, folder)
    scans, small = index.recall(f"{dataset.root}\0{dataset.name}", stated)
    index.remember(f"{folder.resolve()}\0{dataset.name}", stated, scans, small, index.now())


# --- around ----------------------------------------------------------------------------------------------------


def _row(thing: _Thing) -> dict[str, Any]:
    named = thing.named
    said = {"who": list(named.who), "time": named.time, "answer": named.answer}
    return {"sha256": thing.sha256, "label": named.label, "split": thing.side, "why": thing.why, **said}


def _nothing(things: Sequence[_Thing]) -> DataError:
    reasons = Counter(thing.why for thing in things)
    told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(3)) or "nothing was named"
    return DataError(f"There is nothing to add: {told}.", remedy="Label more of what was asked for: inflame inbox")
