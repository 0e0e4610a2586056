"""The records that flow between the rooms: frozen, small, JSON both ways.

Nothing here imports torch, numpy or a web framework. A table of items is a `pyarrow.Table`
(columns of `Item`), because a data set may have millions of them; everything else is plain Python.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "val", "test")


class Record:
    """JSON both ways for a frozen dataclass; nested records and tuples are restored by type."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The record that `to_json` described. Keys that this version doesn't know are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: _frozen(item) for key, item in value.items() if key in names})


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Record):
    """One labelled thing. `uri` is relative to the data set's root: `cats/1.jpg`, or `images.npy#12`
    for row 12 of a packed array. `label` is the class name, never an index."""

    uri: str
    label: str
    split: str = ""
    sha256: str = ""
    group: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Record):
    """Something wrong with the data, and the items (paths relative to the data) it concerns."""

    kind: str
    severity: str  # "error": left out of training · "warning": look at it · "info": handled
    reason: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice(Record):
    """Structure of the data that a random split would tear apart, and the command that keeps it together."""

    kind: str  # "burst", "name", "folder", "time" or "near_duplicate"
    reason: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(Record):
    """What `inflame check` found; its JSON is `check.json`."""

    dataset: str
    items: int
    classes: int
    faults: tuple[Fault, ...] = ()
    advice: tuple[Advice, ...] = ()
    seconds: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The check that `to_json` described."""
        faults = tuple(Fault.from_json(fault) for fault in value.get("faults", ()))
        advice = tuple(Advice.from_json(one) for one in value.get("advice", ()))
        return super(Check, cls).from_json({**value, "faults": faults, "advice": advice})


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess(Record):
    """How a picture becomes the numbers a net sees: the same object in training, website and ONNX.

    Decode, turn by EXIF, `channels` colours (1 grey, 3 RGB), short side to `resize` pixels, centre crop
    of `size` x `size` pixels: that is the uint8 array. `(x / 255 - mean) / std` happens inside the net's file.
    """

    size: int
    resize: int
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bilinear"  # nearest, bilinear, bicubic, lanczos
    max_pixels: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPreprocess(Record):
    """How a text becomes the numbers a net sees: the same object in training, website and ONNX.

    Small letters; runs of two letters or digits are words (at most `longest` of them are read; of a script without
    spaces each sign is one); the place of a known word is its place in `words`, neighbouring known words are hashed
    into `pairs` buckets that follow. The net takes the ids and how often each occurs.

    With `pieces` ("small": of small letters without accents, "any") `words` are the pieces of words of BERT's family,
    and the net takes their ids in the order of the text, each with a count of 1."""

    words: tuple[str, ...]
    pairs: int
    longest: int = 20_000
    pieces: str = ""
    kind: str = "text"


def preprocess_of(value: dict[str, Any]) -> Preprocess | TextPreprocess:
    """The preprocess that `to_json` described: of texts or of pictures."""
    return TextPreprocess.from_json(value) if value.get("kind") == "text" else Preprocess.from_json(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Record):
    """Items with labels and splits. `root` is the folder that item uris are relative to;
    `version` is the hash of the content: (uri-independent) sha256, label and split of every item."""

    name: str
    kind: str  # "image" or "text"
    classes: tuple[str, ...]
    root: str
    version: str
    items: pa.Table = field(repr=False, compare=False)
    faults: tuple[Fault, ...] = ()
    licence: str = ""
    source: str = ""

    def __len__(self) -> int:
        return int(self.items.num_rows)

    def item(self, index: int) -> Item:
        """Row `index` as an `Item`."""
        row = self.items.slice(index, 1).to_pylist()[0]
        return Item(**{f.name: row[f.name] for f in dataclasses.fields(Item)})

    def split(self, name: str) -> Dataset:
        """The same data set with the items of one split only (classes stay whole)."""
        import pyarrow.compute as pc

        return dataclasses.replace(self, items=self.items.filter(pc.equal(self.items["split"], name)))

    def to_json(self) -> dict[str, Any]:
        """The description without the items, which are a Parquet file beside it."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "items"}
        return {**plain, "items": len(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """One answer. Probabilities are calibrated; `label` is the likeliest class also when `known` is false."""

    label: str
    probability: float
    top: tuple[tuple[str, float], ...] = ()  # (class, probability), likeliest first
    set: tuple[str, ...] = ()  # conformal set: holds the truth at the stated rate
    known: bool = True
    model: str = ""  # model version
    latency: float = 0.0  # seconds
    sha256: str = ""  # of the input
    source: str = ""  # file name or url of the input


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec(Record):
    """A training to run somewhere. Of a model it names the folder, which has an `app.py`."""

    model: str  # path of the model folder
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()  # names of environment variables to pass on, never values
    variables: tuple[str, ...] = ()  # NAME=value of further ones, for all to see
    machine: str = ""  # cpu-small … gpu-8, or a name of the provider's own
    count: int = 1
    image: str = ""
    inputs: tuple[str, ...] = ()
    output: str = ""
    spot: bool = False  # a machine that may be taken away, for less money
    max_time: float | None = None  # seconds
    max_money: float | None = None  # US dollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Package(Record):
    """What a job carries to another machine: one archive of the code as it is now, with inflame's wheel, the list of
    requirements and the bootstrap in its folder `.inflame/`. Named by its content."""

    tree: str  # the git tree object of the code
    archive: str  # uri of the archive (.tar.gz)
    model: str = "."  # the model folder in the tree; "inflame:mnist" for a model that comes with inflame
    sha256: str = ""
    bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Record):
    """A training that was sent."""

    id: str
    backend: str
    status: str  # queued, starting, running, preempted, done, failed, stopped
    output: str = ""
    code: int | None = None  # exit code when it has ended
    cost: float | None = None
    reason: str = ""  # why it is so, in a sentence; empty where nothing is to be said


def dumps(value: Any) -> str:
    """JSON text with a final newline, for files that people also read."""
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
