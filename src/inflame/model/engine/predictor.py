"""Answers from a bundle: decode or tokenise, one run of onnxruntime, calibrated probabilities. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from inflame import host
from inflame.artifact import texts
from inflame.artifact.preprocess import pixels, read
from inflame.errors import BundleError, DataError, InflameError
from inflame.model.engine.calibrate import Calibration
from inflame.model.engine.seal import EXPECTED, NEAREST, load
from inflame.records import Prediction, Preprocess, TextPreprocess, preprocess_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from inflame.model.engine.explain import Explainer, Explanation

Source = Path | str | bytes | NDArray[np.uint8]

BATCH = 32


class Predictor:
    """Answers for pictures or texts, from a bundle. Needs numpy, Pillow and onnxruntime. Safe to share between threads.

    `threads`: how many cores one answer may use; by default those this process is allowed to use.
    A file that is missing or was changed raises BundleError.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.info, contents = load(self.folder)
        self.classes: tuple[str, ...] = tuple(json.loads(contents["classes.json"]))
        self.preprocess = preprocess_of(json.loads(contents["preprocess.json"]))
        self.calibration = Calibration.from_json(json.loads(contents["calibration.json"]))
        self.reference: dict[str, Any] = json.loads(contents["reference.json"])  # of held-out items, for drift
        self.version: str = self.info["version"][:12]
        self.nearest: bytes = contents.get(NEAREST, b"")  # the content of nearest.npz, see there
        self.expected: bytes = contents.get(EXPECTED, b"")  # the content of expected.npz, see expected.py
        self._explainer: Explainer | None = None  # made when it is asked for: answers alone don't wait for it
        self._threads = threads or host.cores()
        self._prepare: _Prepare = (
            _Counting(self.preprocess) if isinstance(self.preprocess, TextPreprocess) else _Seeing(self.preprocess)
        )
        self._session = session(contents["model.onnx"], self._threads, where=str(self.folder))

    @overload
    def predict(
        self, sources: Iterable[Source], top_k: int = 5, errors: Literal["raise"] = "raise"
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, sources: Iterable[Source], top_k: int = 5, *, errors: Literal["collect"]
    ) -> list[Prediction | InflameError]: ...
    def predict(
        self, sources: Iterable[Source], top_k: int = 5, errors: Literal["raise", "collect"] = "raise"
    ) -> Sequence[Prediction | InflameError]:
        """One `Prediction` per source, in order: a file, the bytes of one, or uint8 pixels (HxW or HxWxC). A text is
        its bytes.

        A source that can't be read raises; with `errors="collect"` its error stands in its place.
        `latency` is the time from reading an item to its answer, its batch included.
        """
        found: list[Prediction | InflameError] = []
        for group in _grouped(sources, BATCH):
            found += self._answers(group, top_k, errors)
        return found

    def embed(self, sources: Iterable[Source]) -> NDArray[np.float32]:
        """What the body of the net makes of each source: [N, D] float32."""
        parts = [self.run(self.prepare(group))[1] for group in _grouped(sources, BATCH)]
        width = self._session.get_outputs()[1].shape[1]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)

    def prepare(self, sources: Iterable[Source]) -> dict[str, NDArray[Any]]:
        """The sources (one at least) as inputs of the net by name, a batch of all of them: what `run` takes."""
        return self._prepare.stack([_raised(item).prepared for item in self._read_all(list(sources))])

    def read(self, source: Source) -> Any:
        """One source, decoded: what `stack` takes many of. Raises as `predict` does."""
        return _Input(source, self._prepare).prepared

    def stack(self, read: list[Any]) -> dict[str, NDArray[Any]]:
        """What `read` gave, one at least, as a batch for `run`: a server reads one by one, and answers many at once."""
        return self._prepare.stack(read)

    def judge(
        self, inputs: Mapping[str, NDArray[Any]], logits: NDArray[np.float32], top_k: int = 5
    ) -> list[Prediction]:
        """What the logits [N, K] of a batch say, without names, hashes and times."""
        probabilities = self.calibration.apply(logits)
        known, members = self.calibration.known(probabilities), self.calibration.sets(probabilities)
        strange = inputs["counts"].max(axis=1) == 0 if "counts" in inputs else np.zeros(len(known), dtype=bool)
        # Of a text without one word that the model knows nothing can be said: every class may be it.
        rows = zip(probabilities, known & ~strange, members | strange[:, None], strict=True)
        return [self._prediction(*row, top_k) for row in rows]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [N, K] and embedding [N, D] of prepared items: {"pictures": uint8 [N, size, size, channels]}, or of
        texts {"ids": int64 [N, L], "counts": float32 [N, L]}."""
        logits, embedding = self._session.run(["logits", "embedding"], dict(inputs))
        return logits, embedding

    def look(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All that the net gives for prepared items: logits and embedding as `run`, and of some nets `map`
        [N, D, h, w], which the embedding is pooled from."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def use(self, session: Any) -> Any:
        """Runs the net by this from now on: what takes `run` and `get_outputs` as onnxruntime's sessions do. Returns
        what ran it before."""
        before, self._session = self._session, session
        return before

    def explain(self, source: Source, *, label: str = "", near: int = 5) -> Explanation:
        """Why the answer is `label` (by default what the model says): a heat map of a picture, what each word of a
        text adds, and the `near` training items that are most like it. See explain.py. Raises as `predict` does, and
        DataError for a label that the model doesn't know."""
        if self._explainer is None:
            from inflame.model.engine.explain import Explainer

            self._explainer = Explainer(self, self.nearest)
        return self._explainer(source, label, near)

    def _answers(self, group: list[Source], top_k: int, errors: str) -> list[Prediction | InflameError]:
        read = self._read_all(group)
        good = [item if errors == "collect" else _raised(item) for item in read]
        prepared = [item.prepared for item in good if isinstance(item, _Input)]
        if not prepared:
            return [item for item in read if isinstance(item, InflameError)]
        inputs = self._prepare.stack(prepared)
        said = iter(self.judge(inputs, self.run(inputs)[0], top_k))
        return [item if isinstance(item, InflameError) else _signed(next(said), item) for item in read]

    def _prediction(
        self, p: NDArray[np.float64], known: np.bool_, members: NDArray[np.bool_], top_k: int
    ) -> Prediction:
        order = np.argsort(-p, kind="stable")
        return Prediction(
            label=self.classes[order[0]],
            probability=float(p[order[0]]),
            top=tuple((self.classes[i], float(p[i])) for i in order[:top_k]),
            set=tuple(self.classes[i] for i in order if members[i]),
            known=bool(known),
            model=self.version,
        )

    def _read_all(self, group: list[Source]) -> list[_Input | InflameError]:
        if len(group) == 1 or self._threads == 1:
            return [self._read(source) for source in group]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(self._threads, len(group))) as pool:  # Pillow lets go of the GIL while decoding
            return list(pool.map(self._read, group))

    def _read(self, source: Source) -> _Input | InflameError:
        try:
            return _Input(source, self._prepare)
        except InflameError as error:
            return error


class _Prepare(Protocol):
    """What makes inputs of the net out of sources."""

    def one(self, content: Any) -> Any:
        """The content of one source, prepared."""

    def stack(self, prepared: list[Any]) -> dict[str, NDArray[Any]]:
        """Prepared items as one batch."""


class _Seeing:
    """Pictures: decoded, cut and resized."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def one(self, content: Any) -> NDArray[np.uint8]:
        """uint8 [size, size, channels]."""
        return pixels(content, self.preprocess)

    def stack(self, prepared: list[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
        """uint8 [N, size, size, channels]."""
        return {"pictures": np.stack(prepared)}


class _Counting:
    """Texts: their words and pairs, counted."""

    def __init__(self, preprocess: TextPreprocess) -> None:
        self._vectoriser = texts.Vectoriser(preprocess)

    def one(self, content: Any) -> list[str]:
        """The words of the text."""
        if not isinstance(content, bytes) or texts.no_text(content):
            raise DataError(
                "That is no text, and the model reads texts.",
                where="",
                remedy="Give it a text; for pictures choose another model: inflame runs",
            )
        text = texts.decode(content)[0]
        if not texts.words(text):
            raise DataError("The text has no words.", where="", remedy="Give a text with at least one word.")
        return self._vectoriser.read(text)

    def stack(self, prepared: list[list[str]]) -> dict[str, NDArray[Any]]:
        """ids int64 [N, L], counts float32 [N, L]."""
        return self._vectoriser(prepared).padded()


class _Input:
    """A source that was read: its prepared form, name and hash, and when that began."""

    __slots__ = ("name", "prepared", "sha256", "started")

    def __init__(self, source: Source, prepare: _Prepare) -> None:
        self.started = time.perf_counter()
        self.name = str(source) if isinstance(source, (str, Path)) else ""
        content = _content(source)
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.prepared = prepare.one(content)
        except InflameError as error:
            error.where = error.where or self.name
            raise


def session(
    model: bytes, threads: int, where: str, *, single: bool = False, on: Sequence[str] = ("CPUExecutionProvider",)
) -> Any:
    """A session of onnxruntime for the content of a .onnx file. BundleError when it can't be read. single: it takes one
    thing at a time, and is quicker for it: where sizes are known, padding is part of the layers, and the order of
    numbers in memory is never changed on the way. on: onnxruntime's names of what computes, the best first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Waiting threads sleep: spinning gains little and would eat the cores of whatever runs beside the predictor.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised; nothing needs to be printed as well
    if single:
        options.add_free_dimension_override_by_name("n", 1)
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(on))
    except Exception as error:  # its exceptions have no common class; the file itself was verified
        raise BundleError(
            f"onnxruntime {onnxruntime.__version__} can't read the model: {str(error).splitlines()[0]}",
            where=where,
            remedy="pip install --upgrade onnxruntime",
        ) from error


def _signed(prediction: Prediction, item: _Input) -> Prediction:
    taken = time.perf_counter() - item.started
    return dataclasses.replace(prediction, latency=taken, sha256=item.sha256, source=item.name)


def _content(source: Source) -> Any:
    if isinstance(source, np.ndarray):
        return np.ascontiguousarray(source)
    return source if isinstance(source, bytes) else read(Path(source))[0]


def _raised(item: _Input | InflameError) -> _Input:
    if isinstance(item, InflameError):
        raise item
    return item


def _grouped(sources: Iterable[Source] | Source, size: int) -> Iterator[list[Source]]:
    group: list[Source] = []
    for source in [sources] if isinstance(sources, (str, bytes, Path)) else sources:
        group.append(source)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
