"""How much memory `inflame monitor check` takes over a long exported log, in two steps.

    python -m benchmarks.monitor_long write FOLDER RUN  ten million answers of 20 days, about 2 GB
    python -m benchmarks.monitor_long check FOLDER      the verb itself, in a process of its own

RUN: any finished run of ten classes. A copy of its bundle expects small embeddings (16 numbers), as the log has them.
The last day is changed, so that there is something to find.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inflame import runs
from inflame.artifact import seen
from inflame.model.engine import bundle, shift
from inflame.model.engine.expected import NAME, Sample, describe
from inflame.model.engine.predictor import Predictor
from inflame.monitor.parquet import DAY, ROWS, SCHEMA

CLASSES, WIDE, DAYS = 10, 16, 20
BEGIN = 1_790_000_000 // DAY * DAY
WINDOW = 10_000
NAMES = seen.names(text=False)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("what", choices=("write", "check"))
    words.add_argument("folder", type=Path)
    words.add_argument("run", nargs="?", default="")
    words.add_argument("--rows", type=int, default=10_000_000)
    given = words.parse_args()
    if given.what == "write":
        write(given.folder / "log", expecting(given.folder / "bundle", runs.find(given.run)), given.rows)
    else:
        check(given.folder)


def drawn(count: int, rng: np.random.Generator, worse: float = 0.0) -> Sample:
    """Answers to items of ten kinds; worse: how far they are from where they usually are."""
    truth = rng.integers(0, CLASSES, count)
    embedding = 2 * np.eye(CLASSES, WIDE)[truth] + rng.normal(worse, 1 + worse, (count, WIDE))
    p = np.exp(2 * embedding[:, :CLASSES])
    return Sample(
        probabilities=(p / p.sum(axis=1, keepdims=True)).astype(np.float16).astype(np.float32),
        embedding=embedding.astype(np.float16).astype(np.float32),
        seen=rng.normal(0.5, 0.1, (count, len(NAMES))).astype(np.float16).astype(np.float32),
        known=p.max(axis=1) / p.sum(axis=1) > 0.4,
        kinds=("JPEG",) * count,
    )


def expecting(folder: Path, run: runs.Run) -> str:
    """A copy of the run's bundle that expects such answers; its version."""
    rng = np.random.default_rng(99)
    expected = describe(
        drawn(1000, rng),
        frame=drawn(300, rng).embedding,
        names=NAMES,
        classes=[str(number) for number in range(CLASSES)],
        accuracy=0.9,
        labelled=1000,
        thresholds=shift.NOMINAL,
    )
    shutil.copytree(run.bundle, folder)
    bundle.amend(folder, {NAME: expected.to_bytes()})
    return Predictor(folder).version


def write(folder: Path, model: str, rows: int) -> None:
    """A file for each day, in pieces as the monitor writes them."""
    began, each = time.perf_counter(), rows // DAYS
    for day in range(DAYS):
        name = datetime.fromtimestamp(BEGIN + day * DAY, UTC).strftime("day=%Y-%m-%d")
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(day)
        with pq.ParquetWriter(folder / name / "log.parquet", SCHEMA, compression="zstd") as writer:
            for start in range(0, each, ROWS):
                count = min(ROWS, each - start)
                times = ((BEGIN + day * DAY) * 1e6 + (start + np.arange(count)) * (DAY * 1e6 / each)).astype(np.int64)
                writer.write_batch(batch(drawn(count, rng, 0.5 if day == DAYS - 1 else 0.0), model, times, rng))
    size = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    print(f"wrote {each * DAYS:,} answers, {size / 1e9:.2f} GB, in {time.perf_counter() - began:.0f} s")


def batch(sample: Sample, model: str, times: np.ndarray, rng: np.random.Generator) -> pa.RecordBatch:
    """The rows as Parquet has them."""
    count, best = len(sample), sample.probabilities.argmax(axis=1)
    columns = {
        "id": digits(count, 32, rng),
        "model": pa.array([model] * count),
        "input": digits(count, 64, rng),
        "label": pa.array([str(one) for one in best]),
        "kind": pa.array(sample.kinds),
        "source": pa.array(["api"] * count),
        "time": pa.array(times).cast(SCHEMA.field("time").type),
        "probability": pa.array(sample.probabilities.max(axis=1)),
        "known": pa.array(sample.known),
        "latency": pa.array(rng.gamma(2, 0.01, count).astype(np.float32)),
        **{name: lists(getattr(sample, name)) for name in ("probabilities", "embedding", "seen")},
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def digits(count: int, wide: int, rng: np.random.Generator) -> pa.Array:
    """Random hexadecimal names."""
    ends = np.arange(0, (count + 1) * wide, wide, dtype=np.int32)
    letters = rng.bytes(count * wide // 2).hex().encode()
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(letters))


def lists(values: np.ndarray) -> pa.Array:
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))


def check(folder: Path) -> None:
    """Runs the verb, and says how much memory it took at most."""
    words = [sys.executable, "-m", "inflame", "monitor", "check", str(folder / "log"), f"window={WINDOW}", "--json"]
    began = time.perf_counter()
    done = subprocess.run([*words, "--model", str(folder / "bundle")], stdout=subprocess.PIPE, text=True, check=False)
    took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = json.loads(done.stdout)
    levels = [one["level"] for one in found["windows"]]
    print(f"{found['new']:,} answers, {len(levels):,} windows of {WINDOW:,}, {took:.0f} s, at most {peak:,.0f} MB")
    print({level: levels.count(level) for level in sorted(set(levels))})


if __name__ == "__main__":
    main()
