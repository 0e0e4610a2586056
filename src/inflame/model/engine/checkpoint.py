"""Checkpoints: nested state in one file that is written whole or not at all, and is known to be whole when read.

The format is safetensors, so any tool reads the tensors; what isn't a tensor is JSON in its header. The last tensor,
`__sha256__`, is the digest of all bytes before it. Nothing in it is code: reading one can't run anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, final

import numpy as np
import torch

from inflame import store
from inflame.errors import CheckpointError, StorageError

NEWEST: Final = "checkpoint.safetensors"
PREVIOUS: Final = "checkpoint.1.safetensors"
DAMAGED: Final = "damaged.safetensors"

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U32": torch.uint32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_DIGEST: Final = "__sha256__"
_TAG: Final = "$"  # a JSON object with this key stands for something that JSON doesn't have

_warn = logging.getLogger("inflame").warning


def save(state: dict[str, Any], folder: Path) -> Path:
    """Makes `state` the newest checkpoint of `folder` and keeps the one before it; gives the file.

    Durable when it returns. Disk full or read-only: StorageError, and what was there stays as it was.
    """
    newest = folder / NEWEST
    with store.atomic(newest) as temporary:
        write(state, temporary)
        if newest.exists():  # only now that all bytes are on the disk
            os.replace(newest, folder / PREVIOUS)
    return newest


@final
class Writer:
    """Writes checkpoints beside the training, one after the other in the order in which they were given: the loop waits
    for a copy in memory only, and for the one before in the same folder.

    Hashing and the disk are the business of a thread; what went wrong there is raised by the next call. Another one
    calls `sent` with the newest file that is durable: to copy it elsewhere, however long that takes.
    """

    def __init__(
        self, *, sent: Callable[[Path], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sent, self._clock = sent, clock
        self.took: dict[Path, float] = {}  # seconds that the last one in a folder took
        self.sending = 0.0  # seconds that `sent` took
        self._buffers: dict[str, torch.Tensor] = {}
        self._waiting: deque[tuple[dict[str, Any], Path, Callable[[dict[str, Any]], None] | None]] = deque()
        self._working = False
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._new: Path | None = None  # not sent yet
        self._sender: threading.Thread | None = None

    def busy(self, folder: Path) -> bool:
        """Whether one is being written to `folder`, or is about to be."""
        with self._change:
            return any(place == folder for _, place, _ in self._waiting)

    def save(
        self, state: dict[str, Any], folder: Path, *, check: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Begins to make `state` the newest checkpoint of `folder`. `check` sees the copied state first, and may
        raise."""
        self.wait(folder)
        copied = self._copied(state, str(folder))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        with self._change:
            self._waiting.append((copied, folder, check))
            if not self._working:
                self._working = True
                # Not a daemon: a program that ends lets its last checkpoint end.
                threading.Thread(target=self._work, name="checkpoint").start()

    def wait(self, folder: Path | None = None) -> None:
        """Returns when nothing is being written (to `folder`); raises what went wrong."""
        with self._change:
            self._change.wait_for(lambda: not any(folder in (None, place) for _, place, _ in self._waiting))
            error, self._error = self._error, None
        if error is not None:
            raise error

    def finish(self) -> None:
        """Returns when all is written and sent; raises what went wrong."""
        self.wait()
        with self._change:
            sender = self._sender
        if sender is not None:
            sender.join()
        self.wait()

    def _work(self) -> None:
        while True:
            with self._change:
                if not self._waiting:
                    self._working = False
                    return
                state, folder, check = self._waiting[0]
            began = self._clock()
            try:
                if check is not None:
                    check(state)
                path = save(state, folder)
                self._send(path)
            except BaseException as error:  # told to whoever comes next
                self._error = error
            self.took[folder] = self._clock() - began
            with self._change:
                self._waiting.popleft()
                self._change.notify_all()

    def _send(self, path: Path) -> None:
        if self.sent is None:
            return
        with self._change:
            self._new = path
            if self._sender is None:
                # A daemon: what is on the disk is safe, and nobody waits for a network that doesn't answer.
                self._sender = threading.Thread(target=self._sending, name="checkpoint, sent", daemon=True)
                self._sender.start()

    def _sending(self) -> None:
        assert self.sent is not None
        while True:
            with self._change:
                path, self._new = self._new, None
                if path is None:
                    self._sender = None
                    return
            began = self._clock()
            try:
                self.sent(path)
            except BaseException as error:  # told to whoever comes next
                self._error = error
            self.sending = self._clock() - began

    def _copied(self, value: Any, name: str) -> Any:
        """The same with tensors in buffers of its own, which are kept: new memory costs more than copying."""
        if isinstance(value, torch.Tensor):
            given, kept = value.detach(), self._buffers.get(name)
            if (
                kept is None
                or kept.shape != given.shape
                or kept.dtype != given.dtype
                or kept.stride() != given.stride()
            ):
                kept = torch.empty_like(given, device="cpu", pin_memory=given.is_cuda)
                self._buffers[name] = kept
            return kept.copy_(given, non_blocking=given.is_cuda)
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, dict):
            return {key: self._copied(item, f"{name}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            found = [self._copied(item, f"{name}/{index}") for index, item in enumerate(value)]
            return found if isinstance(value, list) else tuple(found)
        return value


def load(folder: Path, say: Callable[[str], None] = _warn) -> dict[str, Any] | None:
    """The state in the newest whole checkpoint of `folder`, tensors on the CPU; None where there is none.

    A damaged newest one is said, set aside as `damaged.safetensors`, and the one before it is given.
    When none is whole: CheckpointError.
    """
    damage: list[str] = []
    for path in (folder / NEWEST, folder / PREVIOUS):
        try:
            state = read(path)
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            damage.append(f"{path}: {error.message}")
            _set_aside(path)
            continue
        if damage:
            say(f"Damaged checkpoint set aside ({damage[0]}). Going on from the one before it.")
        return state
    if damage:
        raise CheckpointError(
            f"No checkpoint can be read: {'; '.join(damage)}.",
            where=str(folder),
            remedy="Start this run from the beginning with fresh=true, or name another one with resume=FOLDER.",
        )
    return None


def back_to(folder: Path, step: int) -> int | None:
    """Takes back the checkpoints of `folder` that were saved after `step` steps: the one before takes the place of the
    newest, or that is set aside. Gives the step of what is left, None where nothing is."""
    newest, previous = folder / NEWEST, folder / PREVIOUS
    for path in (newest, previous):
        try:
            found: int = read(path).get("at", {}).get("step", 0)
        except (FileNotFoundError, CheckpointError):
            continue
        if found <= step:
            if path != newest:
                os.replace(path, newest)  # under the name by which a copy elsewhere is overwritten too
            return found
        _set_aside(path)
    return None


class Resumable(Protocol):
    """What goes on where a checkpoint ends: a learner."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up that state. One of another net or optimizer: CheckpointError."""


def resume(
    learner: Resumable,
    folder: Path,
    say: Callable[[str], None] = _warn,
    *,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda state: state,
) -> bool:
    """Puts the newest whole checkpoint of `folder`, as `adapt` makes it, into the learner; False where there is none.
    One of another net or optimizer: CheckpointError."""
    state = load(folder, say)
    if state is None:
        return False
    learner.load_state_dict(adapt(state))
    return True


def write(state: dict[str, Any], path: Path) -> None:
    """Writes `state` to `path` and waits for the disk. Values: tensors, numpy arrays, numbers, text, None,
    and lists, tuples and dicts of them. Anything else: TypeError. A full disk: StorageError."""
    tensors: dict[str, torch.Tensor] = {}
    plain = json.dumps(_encode(state, "", tensors))
    # Wide items first: so every tensor starts at a multiple of its item size, as readers by memory map like it.
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for part in _parts(plain, {name: tensors[name] for name in names}):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        raise store.storage_error(error, path) from error


def read(path: Path) -> dict[str, Any]:
    """The state in the file `path`. No such file: FileNotFoundError; anything wrong with it: CheckpointError."""
    try:
        with path.open("rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise store.storage_error(error, path) from error
    whole = len(data) > 40 and hashlib.sha256(memoryview(data)[:-32]).digest() == bytes(data[-32:])
    if not whole:
        raise CheckpointError("cut short or changed", where=str(path), remedy="Use another checkpoint.")
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    plain = json.loads(header.pop("__metadata__")["state"])
    tensors = {name: _view(data, end, entry) for name, entry in header.items()}
    state: dict[str, Any] = _decode(plain, tensors)
    return state


def random_state() -> dict[str, Any]:
    """Where the generators of torch (CPU and CUDA), numpy and Python stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts the generators back to where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems can't, and that is that
            raise


def _set_aside(path: Path) -> None:
    """Takes a damaged file out of the row, so that the next save can't push it over a good one."""
    try:
        os.replace(path, path.with_name(DAMAGED))
    except FileNotFoundError:  # another process of the same run was faster
        return
    except OSError as error:
        raise StorageError(
            f"The damaged checkpoint {path} can't be set aside: {error.strerror}.",
            where=str(path),
            remedy="Make the folder writable, or delete the file.",
        ) from error


def _parts(plain: str, tensors: dict[str, torch.Tensor]) -> Iterator[bytes]:
    """All bytes of the file but the digest."""
    header: dict[str, Any] = {"__metadata__": {"state": plain}}
    offset = 0
    for name, tensor in tensors.items():
        after = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, after]}
        offset = after
    header[_DIGEST] = {"dtype": "U8", "shape": [32], "data_offsets": [offset, offset + 32]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data  # type: ignore[misc]


def _view(data: bytearray, start: int, entry: dict[str, Any]) -> torch.Tensor:
    begin, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=start + begin)
    return flat.reshape(entry["shape"])


def _encode(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, under their paths (`net/body.0.weight`)."""
    if isinstance(value, np.ndarray):
        return {_TAG: "array", "of": _encode(torch.from_numpy(value), name, tensors)}
    if isinstance(value, torch.Tensor):
        while name in tensors:  # the keys "a/b" and "a" over "b" make the same path
            name += "'"
        tensors[name] = value.detach()
        # Elsewise the momentum of a channels-last net would come back in another layout and slow every step down.
        last = value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        return {_TAG: "tensor", "name": name, "last": last}
    if isinstance(value, dict):
        items = [[key, _encode(item, f"{name}/{key}" if name else str(key), tensors)] for key, item in value.items()]
        simple = all(isinstance(key, str) and key != _TAG for key in value)
        return dict(items) if simple else {_TAG: "dict", "of": items}
    if isinstance(value, list | tuple):
        listed = [_encode(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return listed if isinstance(value, list) else {_TAG: "tuple", "of": listed}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint can't hold a {type(value).__name__} (at {name})")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {key: _decode(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        tensor = tensors[value["name"]]
        return tensor.contiguous(memory_format=torch.channels_last) if value["last"] else tensor
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in value["of"]}
    listed = _decode(value["of"], tensors)
    return tuple(listed) if kind == "tuple" else listed.numpy()
