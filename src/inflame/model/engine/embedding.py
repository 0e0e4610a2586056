"""The pretrained bodies at hand as plain functions from pictures to vectors, for checks and for looking through data.

The first use of a body writes it as ONNX (with torch); later ones read that file alone, so a second check of a data
set never waits for torch. Bodies are small mobile nets here, 3 to 10 ms a picture on one core.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inflame import host, store
from inflame.errors import InflameError, StorageError

SIZE = 192  # pixels: finds more wrong labels than 160 (benchmarks/faults.py), in three quarters of the time of 224
BATCH = 32

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(slots=True)
class Embed:
    """A function from uint8 squares [N,size,size,3] to float32 [N,D]. `name` is the same only for the same vectors."""

    name: str
    size: int
    file: Path
    _session: Any = field(default=None, repr=False)

    def __call__(self, squares: Pixels) -> Floats:
        """The vectors of the pictures, in batches on all cores."""
        session = self._opened()
        parts = [
            session.run(["embedding"], {"pictures": np.ascontiguousarray(squares[start : start + BATCH])})[0]
            for start in range(0, len(squares), BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def _opened(self) -> Any:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or host.cores())
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside others it costs a third
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(str(self.file), options, providers=["CPUExecutionProvider"])
        return self._session


def at_hand(weights: str = "", *, size: int = SIZE, say: Callable[[str], None] = lambda _: None) -> list[Embed]:
    """The bodies that can be used now, none without the extra `train` and no earlier use, or without weights.

    weights: a safetensors file of a timm model, or "" for those of the mirror and of inflame's home. Nothing is
    downloaded. `say` is told why there are none. Raises DataError when `weights` isn't a file that can be used.
    """
    files = [Path(weights).expanduser().absolute()] if weights else _files()
    known = [_known(file, size) for file in files]
    found = [embed for embed in known if embed is not None and embed.name]
    if files and (len(found) == len(files) or (all(known) and not weights)):
        return found
    try:
        from inflame.model.engine import backbones
    except ImportError as error:
        say(f"no pretrained features: {error.name} isn't installed (pip install 'inflame[train]')")
        return []
    bodies = backbones.at_hand(weights, say) if weights else _local(backbones)
    return [_compiled(body, size) for body in bodies if body.file is not None]


def _local(backbones: Any) -> list[Any]:
    found: list[Any] = []
    for file in _files():
        with suppress(InflameError):
            found += backbones.at_hand(str(file), lambda _: None)
        if not any(one.file == file for one in found):
            _note(file, 0, {})
    return found


def _files() -> list[Path]:
    """Weights in the mirror and at home, without asking the network."""
    mirror = store.mirror()
    places = [mirror / "weights"] if mirror is not None else []
    return [file for place in [*places, store.home() / "weights"] for file in sorted(place.glob("*.safetensors"))]


def _compiled(backbone: Any, size: int) -> Embed:
    """The body as an ONNX file in the cache, and a note by which it is found without torch."""
    import torch
    from torch import nn

    from inflame.model.engine import backbones

    net = backbone.load(1)
    preprocess = backbone.preprocess(size)
    key = backbone.key()
    frozen = backbones.Frozen(nn.Sequential(net.body), preprocess, key=f"{key}-body", device=torch.device("cpu"))
    del frozen  # its making wrote the file
    file = store.home() / "cache" / "backbones" / f"{key}-body-{size}" / "model.onnx"
    _note(backbone.file, size, {"name": f"{key}-{size}", "file": str(file)})
    return Embed(f"{key}-{size}", size, file)


def _known(file: Path, size: int) -> Embed | None:
    """The body of an earlier use; one without a name for a file that is no body; None when it isn't known."""
    for number in (size, 0):
        with suppress(OSError, ValueError, KeyError):
            said = json.loads(_place(file, number).read_text())
            if not said:
                return Embed("", size, file)
            if Path(said["file"]).is_file():
                return Embed(said["name"], size, Path(said["file"]))
    return None


def _note(file: Path, size: int, said: dict[str, str]) -> None:
    with suppress(StorageError):
        store.write(_place(file, size), json.dumps(said))


def _place(file: Path, size: int) -> Path:
    """Where it is noted what a file of weights, in its present state, became."""
    state = file.stat()
    key = f"{file.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{size}"
    return store.home() / "cache" / "backbones" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
