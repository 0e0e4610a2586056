"""One .onnx file that needs no notes: prepared items in, calibrated probabilities out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inflame import host, plugins
from inflame.model.engine.export import Answer, Subject, Written
from inflame.model.engine.predictor import session
from inflame.records import dumps

FILE = "model.onnx"
OUTPUT = "probabilities"


def write(subject: Subject, place: Path) -> Written:
    """`model.onnx`: uint8 pictures [N,H,W,C] (of texts ids and counts [N,L]), N free → probabilities float32 [N,K].
    Normalisation, temperature and softmax are inside; classes and preprocess are in its metadata."""
    onnx = plugins.need("onnx", "train", "Writing an ONNX file")
    onnx.save(whole(subject), str(place / FILE))
    return Written(answer=answering(place / FILE))


def whole(subject: Subject, also: Sequence[str] = ()) -> Any:
    """The bundle's ONNX graph with the last step, which the bundle leaves to its calibration.json. `also`: outputs of
    the bundle that stay, behind the probabilities."""
    onnx = plugins.need("onnx", "train", "Writing an ONNX file")
    helper, predictor = onnx.helper, subject.predictor
    model = onnx.load(str(predictor.folder / "model.onnx"))
    graph = model.graph
    degree = np.array(predictor.calibration.temperature, np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(degree, "temperature"))
    graph.node.append(helper.make_node("Div", ["logits", "temperature"], ["calibrated"]))
    graph.node.append(helper.make_node("Softmax", ["calibrated"], [OUTPUT], axis=-1))
    kept = [output for output in graph.output if output.name in also]
    del graph.output[:]
    shape = ["n", len(predictor.classes)]
    graph.output.extend([helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape), *kept])
    told = {
        "classes": json.dumps(predictor.classes, ensure_ascii=False),
        "preprocess": dumps(predictor.preprocess),
        "version": predictor.info["version"],
    }
    helper.set_model_props(model, told)
    onnx.checker.check_model(model)
    return model


def answering(path: Path, threads: int | None = None) -> Answer:
    """What such a file answers."""
    opened = session(path.read_bytes(), threads or host.cores(), str(path))
    return lambda inputs: opened.run([OUTPUT], dict(inputs))[0]
