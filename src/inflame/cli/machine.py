"""What `inflame doctor` sees of this machine. It reads files and asks the driver, and imports nothing heavy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from inflame import host, store
from inflame.errors import InflameError

GiB = 2**30
_PYTORCH = "pip install torch torchvision"
_INDEX = f"{_PYTORCH} --index-url https://download.pytorch.org/whl"
_ROOM = 2 * GiB  # a run with its cache of pictures


class Finding(NamedTuple):
    """One thing about the machine. `good`: True, False (stands in the way), or None (a matter of taste)."""

    what: str
    found: str
    good: bool | None = True
    remedy: str = ""


class Gpu(NamedTuple):
    """A GPU: `kind` nvidia, amd or apple; `cuda` is the newest CUDA that the driver of nvidia can run."""

    kind: str
    name: str
    cuda: tuple[int, int] | None = None


def examine() -> list[Finding]:
    """Everything about this machine that matters to inflame, in under 0.3 s."""
    gpus = find_gpus()
    return [
        _python(),
        Finding("cores", str(host.cores())),
        _memory(),
        Finding("GPU", ", ".join(gpu.name for gpu in gpus) or "none", None if not gpus else True),
        _torch(gpus),
        *_extras(),
        *_home(),
        _mirror(),
    ]


def find_gpus() -> list[Gpu]:
    """The GPUs of this machine, by driver and system files."""
    if sys.platform == "darwin":
        return [Gpu("apple", "Apple GPU (MPS)")] if platform.machine() == "arm64" else []
    nvidia = _ask_nvidia() or _read_nvidia()
    return nvidia or ([Gpu("amd", "AMD GPU")] if Path("/dev/kfd").exists() else [])


def advise(system: str, machine: str, gpus: list[Gpu]) -> str:
    """The line that installs the build of torch that suits such a machine, and why."""
    kinds = {gpu.kind for gpu in gpus}
    if "nvidia" in kinds:
        newest = max((gpu.cuda for gpu in gpus if gpu.cuda), default=None)
        if newest and newest < (13, 0):
            return f"{_INDEX}/cu126   (this driver runs CUDA {newest[0]}.{newest[1]}; the default build wants 13)"
        return f"{_INDEX}/cu130" if system == "Windows" else _PYTORCH
    if "amd" in kinds:
        return f"{_PYTORCH}   (on the CPU; for the AMD GPU take the ROCm line of pytorch.org/get-started)"
    if system == "Linux":
        return f"{_INDEX}/cpu   (0.8 GB; the default build, {_PYTORCH}, works as well and takes 5 GB)"
    if system == "Darwin" and machine == "x86_64":
        return "pip install 'torch==2.2.*' 'torchvision==0.17.*'   (the last for Intel Macs, and too old)"
    return _PYTORCH


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding("python", found, good, "" if good else "Install Python 3.11 or newer.")


def _memory() -> Finding:
    size = host.memory()
    if size is None:
        return Finding("memory", "unknown", None)
    good = True if size >= 2 * GiB else None
    return Finding("memory", f"{size / GiB:.1f} GB", good, "" if good else "Under 2 GB: train with limit=1000.")


def _torch(gpus: list[Gpu]) -> Finding:
    line = advise(platform.system(), platform.machine(), gpus)
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Finding("torch", "not installed (only training needs it)", None, line)
    cuda = _built_for()
    build = f"{version}, built for {'CUDA ' + cuda if cuda else 'the CPU'}"
    newest = max((gpu.cuda for gpu in gpus if gpu.cuda), default=None)
    if any(gpu.kind == "nvidia" for gpu in gpus):
        wanted = tuple(map(int, cuda.split(".")[:1])) if cuda else None
        if wanted is None:
            return Finding("torch", f"{build}: the GPU lies idle", None, line)
        if newest and newest[:1] < wanted:
            return Finding("torch", f"{build}: newer than the driver (CUDA {newest[0]}.{newest[1]})", None, line)
    return Finding("torch", f"{build}: suits this machine")


def _built_for() -> str:
    """The CUDA version that the installed torch was built for; empty for the CPU. Reads, doesn't import."""
    spec = find_spec("torch")
    with suppress(OSError):
        text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
        found = re.search(r"^cuda\b.*?=\s*['\"]([\d.]+)", text, re.MULTILINE)
        return found[1] if found else ""
    return ""


def _extras() -> list[Finding]:
    """The core and the extra `train`, each with what it lacks; then the names of the other extras."""
    lacks = lacking(metadata.requires("inflame") or [])
    core, train = ", ".join(lacks.pop("", [])), ", ".join(lacks.pop("train", []))
    have = [extra for extra, lack in lacks.items() if not lack]
    more = [extra for extra, lack in lacks.items() if lack]
    found = f"have {', '.join(have) or 'none'}; could have {', '.join(more) or 'nothing more'}"
    return [
        Finding("core", f"lacks {core}", False, "pip install --force-reinstall inflame")
        if core
        else Finding("core", "all here"),
        Finding("train", f"lacks {train}", None, "pip install 'inflame[train]'")
        if train
        else Finding("train", "all here"),
        Finding("extras", found, None),
    ]


def lacking(requirements: list[str]) -> dict[str, list[str]]:
    """The packages that aren't installed, by the extra that wants them (the core's is "")."""
    lacks: dict[str, list[str]] = {"": []}
    for line in requirements:
        name = re.match(r"[\w.-]+", line)
        wanted_by = re.search(r"extra == ['\"]([\w-]+)", line)
        missing = lacks.setdefault(wanted_by[1] if wanted_by else "", [])
        if name and not _installed(name[0]):
            missing.append(name[0])
    return lacks


def _installed(name: str) -> bool:
    with suppress(metadata.PackageNotFoundError):
        metadata.distribution(name)
        return True
    return False


def _home() -> list[Finding]:
    try:
        home = store.home()
    except InflameError as error:
        return [Finding("home", error.message, False, error.remedy)]
    if not os.access(home, os.W_OK | os.X_OK):
        return [Finding("home", f"{home} can't be written to", False, "Set INFLAME_HOME to a folder of yours.")]
    free = shutil.disk_usage(home).free
    good = True if free >= _ROOM else None
    remedy = "" if good else f"Free some space, or set INFLAME_HOME to a bigger disk; {home / 'cache'} may be emptied."
    return [Finding("home", str(home)), Finding("disk", f"{free / GiB:.1f} GB free", good, remedy)]


def _mirror() -> Finding:
    try:
        mirror = store.mirror()
    except InflameError as error:
        return Finding("mirror", error.message, False, error.remedy)
    return Finding("mirror", str(mirror) if mirror else "none (INFLAME_MIRROR): data comes by the network", None)


def _ask_nvidia() -> list[Gpu]:
    """By NVML, the library of the driver: `nvidia-smi` says the same, later."""
    import ctypes

    try:
        nvml: Any = ctypes.CDLL("libnvidia-ml.so.1" if sys.platform != "win32" else "nvml.dll")
        if nvml.nvmlInit_v2() != 0:
            return []
    except (OSError, AttributeError):
        return []
    version, count, memory = ctypes.c_int(), ctypes.c_uint(), (ctypes.c_ulonglong * 3)()
    nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    found = []
    for index in range(count.value):
        handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            nvml.nvmlDeviceGetName(handle, name, len(name))
            nvml.nvmlDeviceGetMemoryInfo(handle, memory)
            title = f"{name.value.decode()} ({memory[0] / GiB:.0f} GB)"
            cuda = divmod(version.value // 10, 100)  # 13020 is 13.2
            found.append(Gpu("nvidia", title, cuda if any(cuda) else None))
    nvml.nvmlShutdown()
    return found


def _read_nvidia() -> list[Gpu]:
    """By the files of the kernel's driver, where its library can't be loaded."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with suppress(OSError):
            name = re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE)
            found.append(Gpu("nvidia", name[1].strip() if name else "NVIDIA GPU"))
    return found
