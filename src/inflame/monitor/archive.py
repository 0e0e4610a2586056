"""Drift from an exported log (see parquet.py), for logs that outgrew their database: window by window, in little memory
however long the log is. pyarrow reads the few columns that are tested, some thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inflame import store
from inflame.errors import DataError
from inflame.model.engine.expected import Expected, Sample, joined
from inflame.monitor.checking import Checked, line, rank
from inflame.monitor.drift import LEAST, QUIET, TOLERANCE, Watch, Window, judge
from inflame.monitor.parquet import ROWS

COLUMNS = ("model", "input", "time", "known", "kind", "latency", "probabilities", "embedding", "seen")
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some entries of one model, one after the other: as they are tested, their inputs, times and latencies [N]."""

    sample: Sample
    inputs: tuple[str, ...]
    times: NDArray[np.float64]
    latencies: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.times)

    def cut(self, begin: int, end: int) -> Stretch:
        """Those from `begin` to before `end`."""
        return Stretch(
            sample=self.sample.take(np.arange(begin, min(end, len(self)))),
            inputs=self.inputs[begin:end],
            times=self.times[begin:end],
            latencies=self.latencies[begin:end],
        )


def is_archive(place: str) -> bool:
    """Whether `inflame monitor export` wrote there."""
    return any(name.startswith("day=") for name in _listed(place))


def days(uri: str) -> list[str]:
    """The days that were exported, the oldest first."""
    return sorted(name.removeprefix("day=") for name in _listed(uri) if name.startswith("day="))


def check(uri: str, expected: Expected, model: str, *, size: int, tolerance: float = TOLERANCE) -> Checked:
    """Checks all windows of an exported log that are whole. `new` counts the entries, `foreign` those with other
    classes or statistics. None of that model: DataError. tolerance: see `judge`."""
    watch, lines = Watch(), list[dict[str, Any]]()
    worst: tuple[str, Window] | None = None
    counted = {"new": 0, "foreign": 0}
    for part in windows(uri, expected, model, size, counted):
        if len(part) < size and (lines or len(part) < LEAST):
            break
        window = judge(expected, part.sample, part.inputs, tolerance=tolerance)
        watch, level = watch.after(window)
        lines.append(line(float(part.times[0]), float(part.times[-1]), part.latencies, window, level))
        if worst is None or rank(level) >= rank(worst[0]):
            worst = (level, window)
    if not counted["new"] and not counted["foreign"]:
        raise DataError(
            f"The exported log holds no answers of the model {model}.",
            where=store.shown(uri),
            remedy="Name the model that answered: --model RUN",
        )
    return Checked(
        level=worst[0] if worst else QUIET,
        new=counted["new"],
        foreign=counted["foreign"],
        window=worst[1] if worst else None,
        windows=tuple(lines),
    )


def windows(uri: str, expected: Expected, model: str, size: int, counted: dict[str, int]) -> Iterator[Stretch]:
    """The entries of a model in the order of days and, within them, of arrival, in windows of `size`; the last one may
    be smaller. Counts those that fit ("new") and those that don't ("foreign")."""
    left: list[Stretch] = []
    for part in _stretches(uri, expected, model, counted):
        left.append(part)
        if sum(map(len, left)) < size:
            continue
        whole = _joined(left)
        places = range(0, len(whole) - size + 1, size)
        yield from (whole.cut(place, place + size) for place in places)
        left = [whole.cut(len(places) * size, len(whole))] if len(whole) % size else []
    if left:
        yield _joined(left)


def _stretches(uri: str, expected: Expected, model: str, counted: dict[str, int]) -> Iterator[Stretch]:
    for day in days(uri):
        with store.open_uri(store.join(uri, f"day={day}", "log.parquet")) as file:
            try:
                for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=list(COLUMNS)):
                    own = batch.filter(pc.equal(batch["model"], model))
                    fits = _fitting(own, expected)
                    counted["new"] += int(fits.sum())
                    counted["foreign"] += own.num_rows - int(fits.sum())
                    if fits.any():
                        yield _stretch(own.filter(pa.array(fits)), expected)
            except (pa.ArrowException, KeyError) as error:
                raise DataError(
                    f"The day {day} of the exported log can't be read: {error}.",
                    where=store.shown(uri),
                    remedy="Export it again: inflame monitor export",
                ) from error


def _fitting(batch: pa.RecordBatch, expected: Expected) -> NDArray[np.bool_]:
    """Which rows have the classes, embedding and statistics that are expected (or no statistics)."""
    wide = {name: _lengths(batch[name]) for name in ("probabilities", "embedding", "seen")}
    return np.asarray(
        (wide["probabilities"] == len(expected.class_names))
        & (wide["embedding"] == len(expected.centre))
        & ((wide["seen"] == len(expected.names)) | (wide["seen"] == 0))
    )


def _stretch(batch: pa.RecordBatch, expected: Expected) -> Stretch:
    count, wide = batch.num_rows, len(expected.names)
    seen = np.full((count, wide), np.nan, np.float32)
    measured = _lengths(batch["seen"]) == wide
    seen[measured] = _floats(batch["seen"]).reshape(-1, wide)
    sample = Sample(
        probabilities=_floats(batch["probabilities"]).reshape(count, -1),
        embedding=_floats(batch["embedding"]).reshape(count, -1),
        seen=seen,
        known=batch["known"].to_numpy(zero_copy_only=False).astype(bool),
        kinds=tuple(batch["kind"].to_pylist()),
    )
    return Stretch(
        sample=sample,
        inputs=tuple(batch["input"].to_pylist()),
        times=batch["time"].cast(pa.int64()).to_numpy() / 1e6,
        latencies=batch["latency"].to_numpy(zero_copy_only=False).astype(np.float64),
    )


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), np.int64)


def _floats(column: pa.Array) -> Floats:
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)


def _joined(parts: list[Stretch]) -> Stretch:
    return Stretch(
        sample=joined([part.sample for part in parts]),
        inputs=tuple(name for part in parts for name in part.inputs),
        times=np.concatenate([part.times for part in parts]),
        latencies=np.concatenate([part.latencies for part in parts]),
    )


def _listed(place: str) -> list[str]:
    try:
        return [name.rstrip("/").rpartition("/")[2] for name in store.listdir(place)]
    except (OSError, DataError):
        return []
