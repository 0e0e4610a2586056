"""A bundle as something else: written, asked about real items, and refused when it doesn't answer like the bundle.

An exporter (seam `exporter`) is a function `write(subject, place) -> Written`: it puts its files into the folder
`place` and gives back a function that answers with what it has written. Everything else is done here, once for all:
the items, the comparison, the notes for the person who gets the folder, and that nothing is left where it fails.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from inflame import plugins, store
from inflame.artifact import manifest
from inflame.artifact.contents import Contents
from inflame.errors import BundleError, DataError, ExportError, InflameError, UserError
from inflame.model.engine import metrics
from inflame.model.engine.predictor import BATCH, Predictor
from inflame.records import dumps

if TYPE_CHECKING:
    from inflame.model.engine.nets import Classifier
    from inflame.runs import Run

NOTE = "export.json"  # marks a folder as one of ours, which may be replaced
CLOSE = 1e-3  # by so much a probability may differ
CLEAR = 2e-3  # two classes that are nearer to each other may change places
HELD = 64  # items that an exact format is compared on
MANY = 1000  # items that one with other numbers is measured on
LOSE = 0.02  # the share of right answers that such a one may lose

Inputs = Mapping[str, NDArray[Any]]
Floats = NDArray[np.floating[Any]]
Answer = Callable[[Inputs], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Prepared items by the names of model.onnx, each of a batch of at most 32; labels int64 [N]."""

    batches: Sequence[Inputs]
    labels: NDArray[np.int64]
    split: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an exporter has done: `answer` gives probabilities [N,K] of prepared items by what was written. `exact`:
    it must answer as the bundle does; else it may lose some accuracy. `facts` go into export.json."""

    answer: Answer
    exact: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


@final
class Subject:
    """What is exported: a bundle, its net, and real items of the run that made it."""

    def __init__(self, run: Run) -> None:
        if run.bundle is None:
            raise BundleError(
                f"The run {run.name} has made no model; it is {run.state}.",
                where=str(run.path),
                remedy="Give its training command again, or choose another run: inflame runs",
            )
        self.run = run
        self.predictor = Predictor(run.bundle)

    def net(self) -> Classifier:
        """The trained net, in eval mode. Needs torch. ExportError when its kind isn't one that can be made again."""
        plugins.need("torch", "train", "Exporting the net")
        from safetensors.torch import load_file

        from inflame.model.engine import nets

        spec = self.predictor.info.get("net") or {}
        try:
            net = nets.build(spec)
        except (InflameError, KeyError, TypeError) as error:
            raise ExportError(
                f"The net of this bundle can't be made again from its description ({spec.get('kind', 'none given')}).",
                where=str(self.predictor.folder / "bundle.json"),
                remedy="Export what needs no net: --to onnx, int8 or browser.",
            ) from error
        net.load_state_dict(load_file(self.predictor.folder / "model.safetensors"))
        return net.eval()

    def held(self, most: int) -> Items:
        """At most `most` items that the net didn't learn from: of the test split, or what there is instead."""
        return self._items(("test", "val", "train"), most)

    def known(self, most: int) -> Items:
        """At most `most` items that choices may be made on: of val, or of train."""
        return self._items(("val", "train"), most)

    @cached_property
    def _dataset(self) -> Any:
        return manifest.load(self.run.path)

    def _items(self, splits: Sequence[str], most: int) -> Items:
        names = np.array(self._dataset.items["split"].to_pylist())
        split = next((name for name in splits if (names == name).any()), "")
        rows = np.flatnonzero(names == split)
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
        index = {name: number for number, name in enumerate(self.predictor.classes)}
        uris, labels = (self._dataset.items[name].take(rows).to_pylist() for name in ("uri", "label"))
        kept = [row for row, label in enumerate(labels) if label in index]
        if not kept:
            raise DataError(
                "The run has no items to compare on.", where=str(self.run.path), remedy="Export another run."
            )
        source = Contents(self._dataset.root)
        try:
            batches = [
                self.predictor.prepare([source.read(uris[row]) for row in kept[start : start + BATCH]])
                for start in range(0, len(kept), BATCH)
            ]
        except (OSError, InflameError) as error:
            raise DataError(
                f"The items that the export is compared on can't be read: {error}",
                where=str(self._dataset.root),
                remedy="Put the data back to where it was in the training, or train again.",
            ) from error
        return Items(batches=batches, labels=np.array([index[labels[row]] for row in kept], np.int64), split=split)


def export(run: Run, to: str, folder: str | Path | None = None, *, lose: float = LOSE) -> dict[str, Any]:
    """Writes the bundle of `run` as `to` (a name of the seam `exporter`) into a folder; returns what export.json says.

    folder: by default `export/<to>` in the run folder. It is replaced in one step when it is an earlier export, and
    refused when it holds anything else (UserError). lose: the share of right answers that a format with other numbers
    (int8) may lose. ExportError when the answers differ; then nothing is left behind.
    """
    write = plugins.load("exporter", to)
    target = Path(folder).expanduser() if folder else run.path / "export" / to
    _free(target)
    subject = Subject(run)
    with store.atomic_folder(target) as place:
        written: Written = write(subject, place)
        note = {
            "format": to,
            "run": run.name,
            "bundle": subject.predictor.info["version"],
            **compared(subject, written, lose=lose),
            **written.facts,
            "files": {path.name: path.stat().st_size for path in sorted(place.iterdir())},
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place.iterdir())},
        }
        for name in ("classes.json", "preprocess.json"):
            (place / name).write_bytes((subject.predictor.folder / name).read_bytes())
        (place / NOTE).write_text(dumps(note), encoding="utf-8")
    return {**note, "folder": str(target)}


def compared(subject: Subject, written: Written, *, lose: float = LOSE) -> dict[str, Any]:
    """How what was written answers beside the bundle, on held-out items; ExportError when that isn't good enough."""
    held = subject.held(HELD if written.exact else MANY)
    ours = answers(subject.predictor, held)
    theirs = np.concatenate([np.asarray(written.answer(inputs), np.float64) for inputs in held.batches])
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        raise ExportError(
            f"What was written gives {list(theirs.shape)} probabilities, not {list(ours.shape)}, or no numbers at all.",
            where=subject.run.name,
            remedy="Report it with the command; another format may do: --to onnx",
        )
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    found = {
        "split": held.split,
        "items": len(held),
        "agreement": float(same.mean()),
        "difference": float(np.abs(ours - theirs).max()),
    }
    if written.exact:
        _must_be_the_same(ours, same, found)
        return found
    right = [p.argmax(axis=1) == held.labels for p in (ours, theirs)]
    change = metrics.newcombe_paired(right[0], right[1])
    if -change.value > lose:
        raise ExportError(
            f"What was written is right {100 * -change.value:.1f} points less often than the bundle "
            f"({len(held)} {held.split} items); at most {100 * lose:.1f} are allowed.",
            where=subject.run.name,
            remedy=f"--to onnx answers as the bundle does; or allow it: --lose {np.ceil(-100 * change.value):.0f}",
        )
    accuracy = {"accuracy": float(right[1].mean()), "bundle_accuracy": float(right[0].mean())}
    return {**found, **accuracy, "change": change.to_json()}


def answers(predictor: Predictor, items: Items) -> NDArray[np.float64]:
    """Calibrated probabilities [N,K] that the bundle gives."""
    return predictor.calibration.apply(np.concatenate([predictor.run(inputs)[0] for inputs in items.batches]))


def _must_be_the_same(ours: Floats, same: NDArray[np.bool_], found: Mapping[str, Any]) -> None:
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > CLEAR if ours.shape[1] > 1 else np.ones(len(ours), bool)
    changed = int((~same & clear).sum())
    if changed or found["difference"] > CLOSE:
        raise ExportError(
            f"What was written doesn't answer like the bundle: of {len(ours)} {found['split']} items {changed} get "
            f"another label, and probabilities differ by up to {found['difference']:.2g}.",
            where="the export",
            remedy="Nothing was kept. Another format may do (--to onnx); report this one with the command.",
        )


def _free(folder: Path) -> None:
    """Refuses a place that holds something else than an export."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not _ours(folder)):
        raise UserError(
            f"{folder} holds something else than an export, which would be lost.",
            where=str(folder),
            remedy="Name a new or empty folder: --out FOLDER",
        )


def _ours(folder: Path) -> bool:
    try:
        return "bundle" in json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
