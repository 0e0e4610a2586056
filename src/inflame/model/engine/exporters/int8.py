"""The net in whole numbers of 8 bits: a file a quarter as large, quicker where the processor knows such numbers.

Static quantisation (QDQ, weights per channel) by onnxruntime, calibrated on real items of the run. How ranges are
chosen and which layers stay as they are matters much for nets of depthwise convolutions, so several ways are tried on
items that choices may be made on, and the one that answers most like the bundle is kept; the loss is then measured
on held-out items (see export.py).
"""

from __future__ import annotations

import io
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inflame import plugins
from inflame.errors import ExportError
from inflame.model.engine.export import Answer, Inputs, Items, Subject, Written, answers
from inflame.model.engine.exporters import onnx as plain
from inflame.records import TextPreprocess

FILE = "model.onnx"
ALSO = ("logits", "embedding")  # with them the website can run it in place of the bundle's net
CALIBRATE = 128  # items whose activations give the ranges
JUDGE = 256  # items on which ways are compared, those among them
ROUNDS = 15  # of timing, the two files in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How ranges are chosen, and how many convolutions from the input on stay float."""

    ranges: str  # MinMax or Percentile
    first: int

    def words(self) -> str:
        """The way in a line."""
        kept = {0: "", 1: ", the first convolution in float"}
        return f"ranges by {self.ranges}" + kept.get(self.first, f", the first {self.first} convolutions in float")


# Measured on a MobileNetV2 with a probe's head: in 8 bits that head answered by chance, so what follows the pooling
# is always float; Entropy gave the ranges of MinMax and took the longest.
WAYS = (Way(ranges="Percentile", first=1), Way(ranges="MinMax", first=1), Way(ranges="Percentile", first=4))
FLAT = (Way(ranges="Percentile", first=0), Way(ranges="MinMax", first=0))  # of nets without convolutions
ENOUGH = 0.005  # mean difference in probability below which no further way is tried


def write(subject: Subject, place: Path) -> Written:
    """`model.onnx` as the exporter onnx writes it, with weights in int8 and activations in uint8."""
    quantization = plugins.need("onnxruntime.quantization", "train", "Quantisation")
    if isinstance(subject.predictor.preprocess, TextPreprocess):
        raise ExportError(
            "A model of texts gains nothing from int8: it is one look-up of rows.",
            where="int8",
            remedy="--to onnx",
        )
    known = subject.known(JUDGE)
    ours = answers(subject.predictor, known)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        float_file, ready = Path(folder) / "float.onnx", Path(folder) / "ready.onnx"
        plugins.need("onnx", "train", "Quantisation").save(plain.whole(subject, ALSO), str(float_file))
        quantization.shape_inference.quant_pre_process(str(float_file), str(ready), skip_symbolic_shape=True)
        convolutions = sum(node.op_type == "Conv" for node in _nodes(ready))
        ways = [way for way in WAYS if way.first <= max(1, convolutions // 4)] if convolutions else FLAT
        best, tried = (np.inf, ways[0]), {}
        for number, way in enumerate(ways):
            file = Path(folder) / f"{number}.onnx"
            _quantise(quantization, ready, file, way, known)
            theirs = np.concatenate([plain.answering(file)(inputs) for inputs in known.batches])
            tried[way.words()] = difference = float(np.abs(ours - theirs).mean() * ours.shape[1] / 2)
            if difference < best[0]:
                best = (difference, way)
                (place / FILE).write_bytes(file.read_bytes())
            if best[0] < ENOUGH:
                break
        seconds = _raced(float_file, place / FILE, known.batches[0])
        sizes = (float_file.stat().st_size, (place / FILE).stat().st_size)
    facts = {
        "how": best[1].words(),
        "tried": tried,
        "calibrated_on": {"split": known.split, "items": min(len(known), CALIBRATE)},
        "size_ratio": sizes[1] / sizes[0],
        "time_ratio": seconds[1] / seconds[0],
        "milliseconds": 1000 * seconds[1],
    }
    return Written(answer=plain.answering(place / FILE), exact=False, facts=facts)


def _quantise(quantization: Any, source: Path, target: Path, way: Way, known: Items) -> None:
    # 7 bits for weights: with 8 the sums of processors without VNNI overflow, and answers would depend on the machine.
    quantization.quantize_static(
        str(source),
        str(target),
        _Reader(known.batches),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        calibrate_method=quantization.CalibrationMethod[way.ranges],
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Relu", "Clip"],
        nodes_to_exclude=_float_nodes(source, way),
        extra_options={"CalibPercentile": 99.99},
    )


def _float_nodes(file: Path, way: Way) -> list[str]:
    """What prepares the input (in 8 bits it would lose the picture), what follows the pooling, and the way's part."""
    nodes = _nodes(file)
    convolutions = [place for place, node in enumerate(nodes) if node.op_type == "Conv"]
    if not convolutions:
        return []
    last = convolutions[-1]
    pooled = next((place for place in range(last, len(nodes)) if nodes[place].op_type in POOLS), len(nodes))
    kept = {*range(convolutions[0]), *convolutions[: way.first], *range(pooled, len(nodes))}
    return [nodes[place].name for place in sorted(kept)]


def _nodes(file: Path) -> Any:
    return plugins.need("onnx", "train").load(str(file)).graph.node


POOLS = ("GlobalAveragePool", "ReduceMean", "ReduceMax")


class _Reader:
    """Gives the calibration its items, one batch after the other, all of one size: that is what its histograms take."""

    def __init__(self, batches: Sequence[Inputs]) -> None:
        sizes = [len(next(iter(inputs.values()))) for inputs in batches]
        same = [inputs for inputs, size in zip(batches, sizes, strict=True) if size == sizes[0]]
        self._left: Iterator[Inputs] = iter(same[: -(-CALIBRATE // sizes[0])])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None."""
        found = next(self._left, None)
        return None if found is None else dict(found)


def _raced(one: Path, other: Path, inputs: Inputs) -> tuple[float, float]:
    """Seconds for one item on one core, of each file; in turn, so that what else runs here is fair to both."""
    asked: list[Answer] = [plain.answering(file, threads=1) for file in (one, other)]
    first = {name: value[:1] for name, value in inputs.items()}
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for answer, seconds in zip(asked, took, strict=True):
            began = time.perf_counter()
            answer(first)
            seconds.append(time.perf_counter() - began)
    return float(np.median(took[0])), float(np.median(took[1]))


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantisation tells its story on stdout and through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
