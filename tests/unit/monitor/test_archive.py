"""Drift from an exported log says what drift from the log itself says, in little memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inflame.errors import DataError
from inflame.model.engine import shift
from inflame.model.engine.expected import Expected, Sample, describe
from inflame.monitor import archive, checking, parquet
from inflame.monitor.drift import QUIET
from inflame.monitor.entries import Entry
from inflame.monitor.log import Log

DAY, BEGIN = 86_400.0, 1_790_000_000.0


def sample(count: int, seed: int, moved: float = 0.0) -> Sample:
    rng = np.random.default_rng(seed)
    embedding = rng.normal(moved, 1, (count, 8)).astype(np.float16).astype(np.float32)
    p = np.exp(2 * embedding[:, :3])
    return Sample(
        probabilities=(p / p.sum(axis=1, keepdims=True)).astype(np.float16).astype(np.float32),
        embedding=embedding,
        seen=rng.normal(moved, 1, (count, 2)).astype(np.float32),
        known=np.ones(count, bool),
        kinds=("JPEG",) * count,
    )


@pytest.fixture(scope="module")
def expected() -> Expected:
    return describe(
        sample(400, 0),
        frame=sample(200, 1).embedding,
        names=("brightness", "contrast"),
        classes=("a", "b", "c"),
        accuracy=0.9,
        labelled=400,
        thresholds=shift.NOMINAL,
    )


def entries(count: int, moved: float = 0.0, seed: int = 2, **more: object) -> Iterator[Entry]:
    found = sample(count, seed, moved)
    for row in range(count):
        values = {
            "model": "m1",
            "input": f"{seed} {row}",
            "label": "a",
            "probability": 0.9,
            "probabilities": found.probabilities[row],
            "embedding": found.embedding[row],
            "seen": found.seen[row] if row % 5 else np.zeros(0, np.float32),
            "kind": "JPEG",
            "latency": 0.01,
            "time": BEGIN + DAY * row / count,
        }
        yield Entry(**{**values, **more})


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path / "log.db"))


def plain(lines: tuple[dict[str, object], ...]) -> list[dict[str, object]]:
    left = [{key: value for key, value in line.items() if key not in ("checked", "p")} for line in lines]
    return json.loads(json.dumps(left))  # type: ignore[no-any-return]


def test_it_says_what_the_log_says(log: Log, expected: Expected, tmp_path: Path) -> None:
    log.add(list(entries(450)))
    log.add(list(entries(330, 0.8, seed=3, time=BEGIN + 1.5 * DAY)))
    log.add(list(entries(40, seed=4, model="m2")))
    log.add([dataclasses.replace(one, probabilities=np.ones(2)) for one in entries(7, seed=5, time=BEGIN + 2 * DAY)])
    parquet.export(log, str(tmp_path / "out"))
    here = checking.check(log, expected, "m1", size=150)
    there = archive.check(str(tmp_path / "out"), expected, "m1", size=150)
    assert len(there.windows) == 5
    assert [one["level"] for one in there.windows[:3]] == [QUIET] * 3
    assert there.level != QUIET
    for one, other in zip(plain(here.windows), plain(there.windows), strict=True):
        assert one.pop("latency") == pytest.approx(other.pop("latency"), abs=1e-6)
        assert {key: one[key] for key in ("from", "to")} == pytest.approx(
            {key: other[key] for key in ("from", "to")}, abs=1e-5
        )
        assert one["level"] == other["level"]
        assert one["findings"] == other["findings"]
    assert (there.new, there.foreign) == (780, 7)


def test_what_does_not_fill_a_window_waits(log: Log, expected: Expected, tmp_path: Path) -> None:
    log.add(list(entries(170)))
    parquet.export(log, str(tmp_path / "out"))
    assert [one["items"] for one in archive.check(str(tmp_path / "out"), expected, "m1", size=50).windows] == [50] * 3
    assert [one["items"] for one in archive.check(str(tmp_path / "out"), expected, "m1", size=500).windows] == [170]


def test_what_is_no_archive(log: Log, expected: Expected, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert not archive.is_archive(str(tmp_path / "photos"))
    assert not archive.is_archive(str(tmp_path / "nowhere"))
    log.add(list(entries(30)))
    place = str(tmp_path / "out")
    parquet.export(log, place)
    assert archive.is_archive(place)
    with pytest.raises(DataError, match="no answers of the model m9"):
        archive.check(place, expected, "m9", size=20)
    file = next(Path(place).glob("*/log.parquet"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match="can't be read"):
        archive.check(place, expected, "m1", size=20)


@pytest.mark.slow
def test_memory_stays_the_same(expected: Expected, tmp_path: Path) -> None:
    """A log of 300,000 answers takes hardly more memory than one of 30,000."""
    (tmp_path / "expected.npz").write_bytes(expected.to_bytes())
    script = (
        "import resource, sys\n"
        "from inflame.model.engine.expected import Expected\n"
        "from inflame.monitor import archive\n"
        "found = Expected.of(open(sys.argv[1], 'rb').read())\n"
        "checked = archive.check(sys.argv[2], found, 'm1', size=5000)\n"
        "print(checked.new, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peaks = []
    for count in (30_000, 300_000):
        place = tmp_path / f"out{count}" / "day=2026-09-21" / "log.parquet"
        place.parent.mkdir(parents=True)
        parquet._write(place, (one for part in range(count // 1000) for one in entries(1000, seed=part)))
        words = [sys.executable, "-c", script, str(tmp_path / "expected.npz"), str(place.parents[1])]
        new, peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        assert int(new) == count
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 60
    assert peaks[1] < 1024
