"""The log as Parquet, a file per day, at any place that fsspec reaches: for other tools, and for logs too large for one
database. Read and written in pieces: memory stays the same however long the log is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inflame import store
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log

DAY = 86_400
ROWS = 5_000  # at a time
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "model", "input", "label", "kind", "source")),
        ("time", pa.timestamp("us", tz="UTC")),
        ("probability", pa.float32()),
        ("known", pa.bool_()),
        ("latency", pa.float32()),
        *((name, pa.list_(pa.float32())) for name in ("probabilities", "embedding", "seen")),
    ]
)


def export(log: Log, uri: str) -> dict[str, int]:
    """Writes `day=2026-11-21/log.parquet` for every day of the log (UTC), whole or not at all; {day: rows}. What was
    forgotten since an earlier export leaves its file as well."""
    days = {}
    query = f"SELECT DISTINCT CAST(FLOOR(time / {DAY}) AS INTEGER) FROM predictions ORDER BY 1"
    for (number,) in log.query(query):
        day = datetime.fromtimestamp(number * DAY, UTC).strftime("%Y-%m-%d")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log.parquet"
            days[day] = _write(path, log.walk(since=number * DAY, until=(number + 1) * DAY))
            store.upload(path, store.join(uri, f"day={day}", "log.parquet"))
    return days


def walk(uri: str, day: str) -> Iterator[Entry]:
    """The entries of an exported day, in order."""
    with store.open_uri(store.join(uri, f"day={day}", "log.parquet")) as file:
        for batch in pq.ParquetFile(file).iter_batches(ROWS):
            for row in batch.to_pylist():
                yield Entry(**{**row, "time": row["time"].timestamp()})


def _write(path: Path, entries: Iterator[Entry]) -> int:
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        rows: list[Entry] = []
        for entry in entries:
            rows.append(entry)
            if len(rows) == ROWS:
                writer.write_batch(_batch(rows))
                count, rows = count + len(rows), []
        if rows:
            writer.write_batch(_batch(rows))
    return count + len(rows)


def _batch(entries: list[Entry]) -> pa.RecordBatch:
    columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
    columns["time"] = [int(entry.time * 1e6) for entry in entries]
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
