"""`inflame doctor` gives each machine the line that suits it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from inflame.cli import machine
from inflame.cli.machine import Gpu, advise


@pytest.mark.parametrize(
    ("system", "processor", "gpus", "line"),
    [
        ("Linux", "x86_64", [], "whl/cpu "),
        ("Linux", "x86_64", [Gpu("nvidia", "H200", (13, 0))], "pip install torch torchvision"),
        ("Linux", "x86_64", [Gpu("nvidia", "T4")], "pip install torch torchvision"),
        ("Linux", "x86_64", [Gpu("nvidia", "K80", (11, 4)), Gpu("nvidia", "T4", (12, 2))], "whl/cu126 "),
        ("Linux", "x86_64", [Gpu("amd", "AMD GPU")], "ROCm"),
        ("Windows", "AMD64", [Gpu("nvidia", "RTX", (13, 0))], "whl/cu130"),
        ("Windows", "AMD64", [], "pip install torch torchvision"),
        ("Darwin", "arm64", [Gpu("apple", "MPS")], "pip install torch torchvision"),
        ("Darwin", "x86_64", [], "Intel"),
    ],
)
def test_advice(system: str, processor: str, gpus: list[Gpu], line: str) -> None:
    found = advise(system, processor, gpus)
    assert found.startswith("pip install ")
    assert line in found
    assert ("--index-url" in found) == ("whl/" in line)


@pytest.mark.parametrize(
    ("gpus", "cuda", "words", "advised"),
    [
        ([], "13.2", "suits this machine", False),
        ([], "", "built for the CPU: suits", False),
        ([Gpu("nvidia", "T4", (13, 0))], "13.2", "suits this machine", False),
        ([Gpu("nvidia", "T4", (13, 0))], "", "the GPU lies idle", True),
        ([Gpu("nvidia", "T4", (12, 4))], "13.2", "newer than the driver (CUDA 12.4)", True),
    ],
)
def test_the_torch_that_is_here(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], cuda: str, words: str, advised: bool
) -> None:
    monkeypatch.setattr(machine.metadata, "version", lambda name: "2.15.0")
    monkeypatch.setattr(machine, "_built_for", lambda: cuda)
    found = machine._torch(gpus)
    assert words in found.found
    assert bool(found.remedy) == advised
    assert found.good is (None if advised else True)


def test_without_torch_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise machine.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.metadata, "version", absent)
    found = machine._torch([])
    assert found.found.startswith("not installed")
    assert found.good is None
    assert "pip install torch" in found.remedy


def test_what_each_extra_lacks() -> None:
    lines = ["numpy>=2", "no-such-thing>1", "pytest; extra == 'dev'", 'no_such.too[x]>=1 ; extra == "train"']
    assert machine.lacking(lines) == {"": ["no-such-thing"], "dev": [], "train": ["no_such.too"]}


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """Stands for libnvidia-ml: one GPU, CUDA 12.4."""

        def nvmlInit_v2(self) -> int:
            return 0

        def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> None:
            version._obj.value = 12040

        def nvmlDeviceGetCount_v2(self, count: Any) -> None:
            count._obj.value = 1

        def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: object) -> int:
            return 0

        def nvmlDeviceGetName(self, handle: object, name: ctypes.Array[ctypes.c_char], size: int) -> None:
            name.value = b"NVIDIA T4"

        def nvmlDeviceGetMemoryInfo(self, handle: object, memory: ctypes.Array[ctypes.c_ulonglong]) -> None:
            memory[0] = 16 * 2**30

        def nvmlShutdown(self) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert machine._ask_nvidia() == [Gpu("nvidia", "NVIDIA T4 (16 GB)", (12, 4))]


def test_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert machine._ask_nvidia() == []


def test_a_home_that_can_not_be_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INFLAME_HOME", str(tmp_path / "file" / "home"))
    found = {finding.what: finding for finding in machine.examine()}
    assert found["home"].good is False
    assert "INFLAME_HOME" in found["home"].remedy


def test_a_mirror_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_MIRROR", "/no/such/folder")
    assert machine._mirror().good is False
