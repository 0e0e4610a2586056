"""What the process may use is what affinity and container allow."""

from __future__ import annotations

import os
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
