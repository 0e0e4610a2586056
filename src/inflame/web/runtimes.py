"""What runs a net: the quickest of the runtimes that are installed and answer as the bundle does.

Measured once for a bundle and a machine, in a process of its own (`python -m inflame.web.runtimes BUNDLE`), on test
items of its run where that is at hand; the result is kept in the home of inflame. With onnxruntime alone there is
nothing to choose, and nothing is measured.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

import inflame
from inflame import host, plugins, store
from inflame.errors import BundleError, InflameError, UserError
from inflame.model.engine.predictor import Predictor, session
from inflame.model.engine.seal import load
from inflame.records import Record, dumps

log = logging.getLogger("inflame.web")

USUAL, CUDA = "onnxruntime", "onnxruntime-cuda"
EXPORTED = ("onnxruntime-int8", "openvino-int8")  # they run the net as `inflame export --to int8` has written it
LABELS = 0.995  # the share of items that must get the label that the bundle gives them
CLOSE = 0.01  # mean difference of the largest probability
BETTER = 0.9  # of the time: for less it isn't worth to run what the bundle wasn't checked with
LARGE = 64 * 2**20  # bytes of a net that isn't held twice: its layers are large enough for several cores
ITEMS = 200
FEW = 40  # items below which nothing can be said about one in two hundred
MANY = 16  # items of the larger batch that is timed
ROUNDS, SECONDS = 15, 8.0
_WAIT = 120.0

Inputs = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """A net that can be run: what the predictor asks of onnxruntime."""

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        """The outputs of those names."""

    def get_outputs(self) -> list[Any]:
        """All outputs: each has a `name` and a `shape`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """One runtime on one machine: seconds for one item alone, and for one of many; the share of labels that are those
    of the bundle, of how many items, and whether these were held out; by how much more of those whose label is known
    get the right one than by the bundle, with its interval. `why` it can't be taken; empty when it can."""

    runtime: str
    release: str
    one: float = 0.0
    many: float = 0.0
    agree: float = 0.0
    close: float = 0.0
    items: int = 0
    held_out: bool = False
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0
    why: str = ""

    @property
    def score(self) -> float:
        """Less is better: between what one request and what many at once take."""
        return math.sqrt(self.one * self.many) if not self.why else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Record):
    """The runtime that answers, and what was measured (each a `Measured` as JSON; none where there was no choice)."""

    runtime: str = USUAL
    forced: bool = False
    measured: tuple[Any, ...] = ()


def onnxruntime(model: bytes, threads: int) -> Session:
    """The runtime that every bundle is checked with when it is made."""
    return session(model, threads, where="model.onnx")  # type: ignore[no-any-return]


def onnxruntime_cuda(model: bytes, threads: int) -> Session:
    """onnxruntime on a GPU: the package onnxruntime-gpu in place of onnxruntime. Raises UserError without one."""
    if not _cuda():
        raise UserError(
            "onnxruntime can't use a GPU here.",
            where="onnxruntime-cuda",
            remedy="pip uninstall onnxruntime && pip install onnxruntime-gpu, on a machine with CUDA",
        )
    return session(model, threads, where="model.onnx", on=("CUDAExecutionProvider", "CPUExecutionProvider"))  # type: ignore[no-any-return]


def int8(model: bytes, threads: int) -> Session:
    """onnxruntime with the net in numbers of 8 bits."""
    return onnxruntime(model, threads)


def openvino(model: bytes, threads: int) -> Session:
    """OpenVINO in float32."""
    return _OpenVino(model, threads, "f32")


def openvino_bf16(model: bytes, threads: int) -> Session:
    """OpenVINO in bfloat16, where the processor knows that."""
    return _OpenVino(model, threads, "bf16")


def openvino_int8(model: bytes, threads: int) -> Session:
    """OpenVINO with the net in numbers of 8 bits; what is float in it is bfloat16, where the processor knows that: the
    first layers of a ResNet-18, kept float, would take most of the time."""
    return _OpenVino(model, threads, "")


@final
class _OpenVino:
    """One request for each thread: they may not be shared. precision: f32 or bf16 of what is float in the net; empty
    for the shortest that the processor is quick in."""

    def __init__(self, model: bytes, threads: int, precision: str, *, single: bool = False) -> None:
        import openvino as ov

        core = ov.Core()
        if not precision:
            precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        wanted = {
            "INFERENCE_NUM_THREADS": host.cores(),
            "NUM_STREAMS": max(1, host.cores() // threads),  # runs at once
            "INFERENCE_PRECISION_HINT": precision,
        }
        read = core.read_model(model)
        if single:
            read.reshape({one: [1, *list(one.get_partial_shape())[1:]] for one in read.inputs})
        self._net = core.compile_model(read, "CPU", wanted)
        self._places = {name: place for place, out in enumerate(self._net.outputs) for name in out.get_names()}
        self._mine = threading.local()

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        """The outputs of those names."""
        request = getattr(self._mine, "request", None)
        if request is None:
            request = self._mine.request = self._net.create_infer_request()
        found = request.infer(inputs)
        return [np.array(found[self._places[name]]) for name in names]  # its memory is used again

    def get_outputs(self) -> list[Any]:
        """All outputs."""
        return [_Output(name, self._net.outputs[place]) for name, place in self._places.items()]


@final
class _Output:
    def __init__(self, name: str, port: Any) -> None:
        sizes = port.get_partial_shape()
        self.name, self.shape = name, [one.get_length() if one.is_static else None for one in sizes]


_SINGLE: dict[str, Callable[[bytes, int], Session]] = {
    **dict.fromkeys((USUAL, "onnxruntime-int8"), functools.partial(session, where="model.onnx", single=True)),
    **{
        name: functools.partial(_OpenVino, precision=precision, single=True)
        for name, precision in (("openvino", "f32"), ("openvino-bf16", "bf16"), ("openvino-int8", ""))
    },
}


@final
class Single:
    """A net that is asked one thing at a time, and made for that: `one` runs a single thing. Several at once are run by
    what `several` makes when it is needed for the first time."""

    def __init__(self, one: Session, several: Callable[[], Session]) -> None:
        self._one, self._make = one, several
        self._several: Session | None = None
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], inputs: dict[str, Any]) -> list[Any]:
        """The outputs of those names."""
        single = all(len(value) == 1 for value in inputs.values())
        return (self._one if single else self._made()).run(names, inputs)

    def get_outputs(self) -> list[Any]:
        """All outputs."""
        return self._one.get_outputs()

    def _made(self) -> Session:
        with self._lock:
            if self._several is None:
                self._several = self._make()
            return self._several


def choose(predictor: Predictor, wanted: str = "") -> Choice:
    """Lets the predictor run on the runtime that is `wanted`, or on the best by measurement, and says which and why.
    Raises UserError for a name that isn't known, MissingExtra for one that isn't installed."""
    if wanted:
        plugins.demand("runtime", wanted)
        choice = Choice(runtime=wanted, forced=True, measured=_kept(predictor) or ())
    elif len(here(predictor)) == 1:
        choice = Choice()
    else:
        kept = _kept(predictor)
        measured = _asked(predictor) if kept is None else kept
        choice = Choice(runtime=best([Measured.from_json(one) for one in measured]), measured=measured)
    if choice.runtime != USUAL:
        predictor.use(_opened(choice.runtime, predictor))
    return choice


def single(predictor: Predictor, choice: Choice, threads: int = 0) -> Single | None:
    """The net of the predictor for one thing at a time; None where its runtime knows no such thing. Raises BundleError
    where another bundle lies there by now."""
    make = _SINGLE.get(choice.runtime)
    if make is None:
        return None
    one = _opened(choice.runtime, predictor, threads, make)
    return Single(one, functools.partial(_opened, choice.runtime, predictor, threads))


def narrow(predictor: Predictor, choice: Choice, *, one: bool = False) -> Session | None:
    """The net once more, one core a run, for many at once, `one` thing each; None for one that is too large. Raises
    BundleError where another bundle lies there by now."""
    if (predictor.folder / "model.onnx").stat().st_size > LARGE:
        return None
    return (single(predictor, choice, 1) if one else None) or _opened(choice.runtime, predictor, 1)


def best(measured: Sequence[Measured]) -> str:
    """The name of the quickest that answers as the bundle does, if it is quicker than onnxruntime by enough."""
    usual = next((one.score for one in measured if one.runtime == USUAL), math.inf)
    found = min(measured, key=lambda one: one.score, default=None)
    return found.runtime if found is not None and found.score < BETTER * usual else USUAL


def here(predictor: Predictor) -> list[str]:
    """The runtimes that are installed and have something to run; onnxruntime first."""
    found = [USUAL]
    for name in plugins.names("runtime"):
        with suppress(UserError):
            plugins.demand("runtime", name)
            if name != USUAL and (name not in EXPORTED or _exported(predictor)) and (name != CUDA or _cuda()):
                found.append(name)
    return found


def _cuda() -> bool:
    import onnxruntime as runtime

    return bool(host.gpus()) and "CUDAExecutionProvider" in runtime.get_available_providers()


def measure(folder: Path) -> list[Measured]:
    """All that are installed, in turn, so that what else runs here is fair to all."""
    predictor = Predictor(folder)
    contents, labels = _items(predictor)
    if not contents:
        return []
    truth = np.array([predictor.classes.index(one) if one in predictor.classes else -1 for one in labels])
    batches = [predictor.prepare(contents[start : start + MANY]) for start in range(0, len(contents), MANY)]
    right = _answers(predictor, batches)
    found: dict[str, Measured] = {}
    sessions: dict[str, Session] = {}
    for name in here(predictor):
        about: dict[str, Any] = {"runtime": name, "release": _release(name)}
        about |= {"items": len(contents), "held_out": bool(labels)}
        try:
            sessions[name] = _opened(name, predictor)
            predictor.use(sessions[name])
            found[name] = Measured(**about, **_compared(right, _answers(predictor, batches), truth))
        except Exception as error:  # each has its own; whatever it is, another runtime answers
            sessions.pop(name, None)
            found[name] = Measured(**about, why=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    times = _raced(sessions, batches[0])
    return [Measured.from_json({**one.to_json(), **times.get(name, {})}) for name, one in found.items()]


def _compared(right: NDArray[Any], found: NDArray[Any], truth: NDArray[np.int64]) -> dict[str, Any]:
    """right, found: probabilities [N,K] by the bundle and by the runtime; truth: classes [N], -1 for one that the model
    doesn't know; empty where no labels are known."""
    from inflame.model.engine.metrics import newcombe_paired

    known = np.flatnonzero(truth >= 0)
    hits = [one.argmax(axis=1)[known] == truth[known] for one in (right, found)]
    gain = newcombe_paired(*hits)
    agree = float((right.argmax(axis=1) == found.argmax(axis=1)).mean())
    close = float(np.abs(right.max(axis=1) - found.max(axis=1)).mean())
    why = ""
    if len(right) < FEW:
        why = f"{len(right)} items are too few to compare on"
    elif not np.isfinite(found).all():
        why = "it gives what is no number"
    elif agree < LABELS or close > CLOSE:
        why = f"it gives the bundle's label to {100 * agree:.1f} % of items"
    elif gain.high < 0:
        why = f"it is right {-100 * gain.value:.1f} points less often"
    about = {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high} if len(known) else {}
    return {"agree": agree, "close": close, "why": why, **about}


def _raced(sessions: Mapping[str, Session], batch: Inputs) -> dict[str, dict[str, float]]:
    """Median seconds for an item, alone and among many."""
    alone = {name: value[:1] for name, value in batch.items()}
    size = len(next(iter(batch.values())))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
    end = time.monotonic() + SECONDS
    for _ in range(ROUNDS):
        for name, one in sessions.items():
            taken[name].append((_timed(one, alone), _timed(one, batch) / size))
        if time.monotonic() > end:
            break
    medians = {name: [statistics.median(kind) for kind in zip(*pairs, strict=True)] for name, pairs in taken.items()}
    return {name: {"one": one, "many": many} for name, (one, many) in medians.items()}


def _timed(opened: Session, inputs: Inputs) -> float:
    began = time.perf_counter()
    opened.run(["logits", "embedding"], dict(inputs))
    return time.perf_counter() - began


def _answers(predictor: Predictor, batches: Sequence[Inputs]) -> NDArray[Any]:
    return predictor.calibration.apply(np.concatenate([predictor.run(inputs)[0] for inputs in batches]))


def _items(predictor: Predictor) -> tuple[list[bytes], list[str]]:
    """Items to compare on, and their labels: those that the run has held out; else those that the bundle shows, whose
    labels say nothing, because the net has learnt them."""
    from inflame.model.engine.nearest import Nearest
    from inflame.records import TextPreprocess
    from inflame.web import examples

    text = isinstance(predictor.preprocess, TextPreprocess)
    with suppress(Exception):  # the data are elsewhere now, or were never here
        found = [
            one
            for one in examples.held_out(predictor.folder.resolve().parent, text=text, most=ITEMS)
            if _readable(predictor, one.content)
        ]
        return [one.content for one in found], [one.label for one in found]
    if not predictor.nearest:
        return [], []
    contents = [one.content for one in Nearest(predictor.nearest, text=text).some(ITEMS)]
    return [one for one in contents if _readable(predictor, one)], []


def _readable(predictor: Predictor, content: bytes) -> bool:
    try:
        predictor.read(content)
    except InflameError:
        return False
    return True


def _opened(
    name: str, predictor: Predictor, threads: int = 0, make: Callable[[bytes, int], Session] | None = None
) -> Session:
    make = make or plugins.load("runtime", name)
    info, contents = load(predictor.folder)
    if info["version"] != predictor.info["version"]:
        raise BundleError(
            "Another bundle has taken the place of this one.", where=str(predictor.folder), remedy="Ask again."
        )
    model = _exported(predictor) if name in EXPORTED else contents["model.onnx"]
    if not model:
        raise UserError(
            "This bundle has not been exported in int8.",
            where=str(predictor.folder),
            remedy=f"inflame export {predictor.folder.resolve().parent.name} --to int8",
        )
    return make(model, threads or host.cores())


def _exported(predictor: Predictor) -> bytes:
    """The net in int8 that was made of this very bundle, as it was written; empty where there is none."""
    place = predictor.folder.resolve().parent / "export" / "int8"
    try:
        note, content = json.loads((place / "export.json").read_bytes()), (place / "model.onnx").read_bytes()
        same = note["sha256"]["model.onnx"] == hashlib.sha256(content).hexdigest()
        return content if same and note["bundle"] == predictor.info["version"] else b""
    except (OSError, ValueError, KeyError, TypeError):
        return b""


def _release(name: str) -> str:
    built_in = plugins.SEAMS["runtime"].get(name)
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(built_in.needs if built_in is not None and built_in.needs else name)
    return ""


def _place(predictor: Predictor) -> Path:
    """Where the result is kept: by the content of the bundle, the runtimes that are installed, and the machine."""
    exported = hashlib.sha256(_exported(predictor)).hexdigest()
    releases = [[name, _release(name)] for name in here(predictor)]
    about = [inflame.__version__, releases, exported, host.cores(), _processor()]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return store.make_folder(store.home() / "web" / "runtimes") / f"{predictor.version}-{key}.json"


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return ""


def _kept(predictor: Predictor) -> tuple[Any, ...] | None:
    """What was measured before; None where nothing was."""
    try:
        found = json.loads(_place(predictor).read_bytes())
        return tuple(Measured.from_json(one).to_json() for one in found)
    except (OSError, ValueError, TypeError):
        return None


def _asked(predictor: Predictor) -> tuple[Any, ...]:
    """Measured now, by another process: what that needs of memory isn't needed again. Empty where it fails."""
    command = [sys.executable, "-m", "inflame.web.runtimes", str(predictor.folder.absolute())]
    try:
        told = subprocess.run(command, capture_output=True, timeout=_WAIT, check=True).stdout
        found = tuple(Measured.from_json(one).to_json() for one in json.loads(told))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        log.warning("runtimes", extra={"trouble": str(error)})
        return ()
    store.write(_place(predictor), dumps(found))
    return found


if __name__ == "__main__":
    sys.stdout.write(dumps([one.to_json() for one in measure(Path(sys.argv[1]))]))
