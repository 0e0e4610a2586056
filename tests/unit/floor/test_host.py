"""What the process may use is what affinity and container allow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inflame import host

_LARGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


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


@pytest.mark.skipif(not _LARGE.is_file() or "[never]" in _LARGE.read_text(), reason="no large pages here")
def test_what_is_kept_lies_in_large_pages() -> None:
    code = (
        "import numpy as np\nfrom inflame import host\nhost.keep_memory()\nkept = np.ones(1 << 24)\n"
        "rows = open('/proc/self/smaps_rollup').read().splitlines()\n"
        "print(next(row.split()[1] for row in rows if row.startswith('AnonHugePages')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(found.stdout) > 100_000  # kB, of 131 MB


def test_processor_time_counts_children_alive_and_dead() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass\n"
    before = host.cpu_seconds()
    subprocess.run([sys.executable, "-c", burn], check=True)
    after_one = host.cpu_seconds()
    assert after_one - before >= 0.38
    with subprocess.Popen([sys.executable, "-c", burn + "input()"], stdin=subprocess.PIPE) as child:
        for _ in range(200):
            if host.cpu_seconds() - after_one >= 0.38:
                break
            time.sleep(0.05)
        assert host.cpu_seconds() - after_one >= 0.38, "of a child that lives"
        child.communicate(b"\n")


def test_a_processor_without_proc_is_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = host.cpu_seconds()
    monkeypatch.setattr(host, "tree", lambda root: [0])
    assert host.cpu_seconds() == 0
    monkeypatch.setattr(host, "_ticks", lambda pid: int("no number"))
    assert 0.5 * seen <= host.cpu_seconds()


def test_a_gpu_is_held_by_whoever_has_opened_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not host.holds_gpu()
    monkeypatch.setattr(host, "_GPU", re.compile(rf"{re.escape(str(tmp_path))}/nvidia\d+"))
    with (tmp_path / "nvidia0").open("w"):
        assert host.holds_gpu()
    assert not host.holds_gpu()


def test_a_process_is_known_by_its_birth_and_not_by_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    birth = host.born(child.pid)
    assert host.lives(child.pid, birth)
    assert not host.lives(child.pid, "1")
    child.communicate(b"\n")
    assert not host.lives(child.pid, birth)
    assert host.born(child.pid) == ""


_LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-7d8ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0, 2", ["0", "2"]),
        ("GPU-5d5b,MIG-GPU-5d5b/1/0", ["GPU-5d5b", "MIG-GPU-5d5b/1/0"]),
        ("1,-1,0", ["1"]),  # CUDA stops at the first name that is none
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_those_that_somebody_has_chosen(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert host.gpus() == expected


def test_gpus_are_those_of_the_driver_and_the_parts_of_a_divided_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ $1 = -L ] && cat <<'END'\n{_LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    host._cards.cache_clear()
    try:
        assert [name[:8] for name in host.gpus()] == ["MIG-c6d4", "MIG-cba6", "GPU-7d8b"]
    finally:
        host._cards.cache_clear()


_CHILD = "import time; from inflame import host; host.die_with_parent(15); print('here', flush=True); time.sleep(100)"
_PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_tied_process_ends_with_the_one_that_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT, _CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "here\n"
        began = time.monotonic()
        parent.kill()
        assert parent.stdout.read() == ""  # which both had open
    assert time.monotonic() - began < 60
