"""What the website bears, in little: more than it can answer, new versions, killed processes, many requests.

The whole measure is benchmarks/endurance.py, whose clients ask here as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Bear = Callable[..., dict[str, Any]]


@pytest.fixture
def bear(fruit_bundle: Path, photo_set: Path) -> Bear:
    """Runs one act of the benchmark; what it found. Nothing of the server is left behind."""

    def run(act: str, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.endurance", act, str(fruit_bundle), str(photo_set), *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def test_three_times_what_it_can_answer(bear: Bear) -> None:
    found = bear("overload", "--minutes", "0.2", "--rest", "4")
    assert set(found["over"]["answers"]) <= {"200", "429", "503", "504"}
    assert found["over"]["answers"]["200"] > 50
    assert found["over"]["p99"] < 3 * found["full"]["p99"] + 2000  # a second in the queue, and a busy machine
    assert found["next"]["status"] == 200
    before, after = found["MB"]
    assert after < before + 100  # 256 connections, and what they send; a leak would be thousands of bodies


def test_new_versions_and_old_ones_again(bear: Bear) -> None:
    found = bear("swaps", "--count", "10")
    assert set(found["answers"]) == {"200"}
    assert found["rollbacks"] == 2
    assert found["versions seen"] >= 6
    assert found["mixed"] == 0


def test_killed_processes(bear: Bear) -> None:
    found = bear("kills", "--count", "6")
    assert set(found["answers"]) <= {"200", "503", "504"}
    assert found["red s"][1] <= 1
    assert found["slowest s"] < 12


def test_many_requests_leave_nothing_behind(bear: Bear) -> None:
    found = bear("many", "--count", "2000")
    assert set(found["answers"]) == {"200"}
    for first, last in zip(found["first"][2:], found["last"][2:], strict=True):  # descriptors, threads, temporary files
        assert last <= first + 20
