"""What the process may use is what affinity and container allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inflame import host


@pytest.mark.parametrize(("text", "expected"), [("max 100000", 8), ("150000 100000", 2), ("20000 100000", 1)])
def test_cores_honour_the_containers_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    assert host.cores() == 8
    (tmp_path / "cpu.max").write_text(text)
    assert host.cores() == expected


def test_memory_is_the_least_that_anybody_allows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_CGROUP", tmp_path)
    whole = host.memory()
    assert whole is not None
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert host.memory() == whole
    (tmp_path / "memory.max").write_text("1000000\n")
    assert host.memory() == 1_000_000


def test_kept_memory_costs_fewer_page_faults() -> None:
    code = (
        "import resource, sys\nimport numpy as np\nfrom inflame import host\n"
        "if len(sys.argv) > 1:\n    host.keep_memory()\n"
        "def faults():\n    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(1 << 20)\nbefore = faults()\n"
        "for _ in range(50):\n    np.ones(1 << 20)\nprint(faults() - before)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, *word], capture_output=True, check=True) for word in ([], ["x"])
    ]
    plain, kept = (int(run.stdout) for run in runs)
    if sys.platform == "linux" and plain > 1000:  # another C library may keep it anyway
        assert kept < plain / 10
