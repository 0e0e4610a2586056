"""Runtimes: only one that answers as the bundle does is taken, and only where it is quicker; measured once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflame import plugins, store
from inflame.errors import MissingExtra, UserError
from inflame.model.engine import export, nets
from inflame.model.engine.bundle import Predictor
from inflame.records import Preprocess
from inflame.runs import Run
from inflame.web import runtimes
from inflame.web.models import Model
from inflame.web.runtimes import Measured, best
from inflame.web.settings import Settings

openvino_needed = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs openvino: pip install 'inflame[openvino]'"
)


def measured(name: str, seconds: float, **more: Any) -> Measured:
    return Measured(runtime=name, release="1", one=seconds, many=seconds, agree=1.0, items=100, **more)


def test_the_quickest_is_taken_if_it_answers_as_the_bundle_does() -> None:
    usual = measured("onnxruntime", 0.010)
    assert best([usual, measured("openvino", 0.006)]) == "openvino"
    assert best([usual, measured("openvino", 0.0095)]) == "onnxruntime"  # by too little
    assert (
        best([usual, measured("openvino", 0.001, why="it gives the bundle's label to 93.0 % of items")])
        == "onnxruntime"
    )
    assert best([]) == "onnxruntime"


class _Other:
    """onnxruntime's session, with the logits of one item in `every` turned round."""

    def __init__(self, real: Any, every: int) -> None:
        self._real, self._every, self._count = real, every, 0

    def run(self, names: Any, inputs: dict[str, Any]) -> list[Any]:
        logits, embedding = self._real.run(names, inputs)
        rows = np.arange(self._count, self._count + len(logits)) % self._every == 0
        self._count += len(logits)
        return [np.where(rows[:, None], -logits, logits), embedding]

    def get_outputs(self) -> Any:
        return self._real.get_outputs()


def a_runtime_that_errs(model: bytes, threads: int) -> Any:
    return _Other(runtimes.onnxruntime(model, threads), every=10)


def test_one_that_gives_other_labels_is_never_taken(fruit_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    erring = plugins.Plugin(target=f"{__name__}:a_runtime_that_errs")
    monkeypatch.setitem(plugins.SEAMS["runtime"], "erring", erring)
    monkeypatch.setattr(runtimes, "FEW", 3)
    monkeypatch.setattr(runtimes, "SECONDS", 0.1)
    found = {one.runtime: one for one in runtimes.measure(fruit_bundle)}
    assert not found["onnxruntime"].why
    assert found["onnxruntime"].agree == 1
    assert "label" in found["erring"].why
    assert best([found["onnxruntime"], found["erring"]]) == "onnxruntime"


def test_with_one_runtime_nothing_is_measured(fruit_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "here", lambda _: ["onnxruntime"])
    monkeypatch.setattr(runtimes, "_asked", lambda _: pytest.fail("it was measured"))
    assert runtimes.choose(Predictor(fruit_bundle)) == runtimes.Choice()
    assert not (store.home() / "web" / "runtimes").exists()


def test_what_was_measured_is_kept_for_the_next_start(fruit_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "here", lambda _: ["onnxruntime", "openvino"])
    predictor = Predictor(fruit_bundle)
    wins = [measured("onnxruntime", 0.02, held_out=True).to_json(), measured("openvino", 0.03).to_json()]
    store.write(runtimes._place(predictor), json.dumps(wins))
    monkeypatch.setattr(runtimes, "_asked", lambda _: pytest.fail("it was measured again"))
    choice = runtimes.choose(predictor)
    assert choice.runtime == "onnxruntime"
    assert [one["one"] for one in choice.measured] == [0.02, 0.03]


def test_the_net_in_int8_is_asked_as_well_if_it_is_of_this_bundle(fruit_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fruit_bundle, tmp_path / "run" / "bundle"))
    predictor, place = Predictor(folder), tmp_path / "run" / "export" / "int8"
    eight = "onnxruntime-int8"
    assert eight not in runtimes.here(predictor)
    with pytest.raises(UserError, match="int8"):
        runtimes.choose(predictor, eight)
    place.mkdir(parents=True)
    shutil.copy(folder / "model.onnx", place)  # whatever it is: it must have been made of this bundle, and be unchanged
    digest = hashlib.sha256((place / "model.onnx").read_bytes()).hexdigest()
    note = {"bundle": predictor.info["version"], "sha256": {"model.onnx": digest}}
    (place / "export.json").write_text(json.dumps(note))
    assert eight in runtimes.here(predictor)
    assert runtimes.choose(predictor, eight).forced
    (place / "model.onnx").write_bytes((place / "model.onnx").read_bytes() + b"\0")
    assert eight not in runtimes.here(predictor)


def test_names_are_checked(fruit_bundle: Path) -> None:
    with pytest.raises(UserError, match="openvino"):
        runtimes.choose(Predictor(fruit_bundle), "openvin")
    if importlib.util.find_spec("openvino") is None:
        with pytest.raises(MissingExtra, match="openvino"):
            runtimes.choose(Predictor(fruit_bundle), "openvino")
        done = subprocess.run(
            [sys.executable, "-m", "inflame", "serve", str(fruit_bundle), "--runtime", "openvino"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert "inflame[openvino]" in done.stderr


@pytest.fixture(scope="module")
def run(finished: Callable[..., Run], photo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run, whose held-out photos are at hand."""
    torch.manual_seed(0)
    net = nets.small(size=20, channels=3, classes=3, widths=(8, 16))
    made: Run = finished(tmp_path_factory.mktemp("runs") / "fruit-001", photo_set, net, Preprocess(size=20, resize=20))
    return made


def test_how_often_it_is_right_is_compared_with_the_bundle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.bundle is not None
    erring = plugins.Plugin(target=f"{__name__}:a_runtime_that_errs")
    monkeypatch.setitem(plugins.SEAMS["runtime"], "erring", erring)
    monkeypatch.setattr(runtimes, "SECONDS", 0.1)
    found = {one.runtime: one for one in runtimes.measure(run.bundle)}
    usual, other = found["onnxruntime"], found["erring"]
    assert usual.held_out
    assert usual.gain == 0
    assert usual.gain_low < 0 < usual.gain_high
    assert other.gain < 0
    assert other.gain_low < other.gain < other.gain_high


def test_a_gpu_is_used_where_one_is(fruit_bundle: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime without CUDA")
    predictor = Predictor(fruit_bundle)
    assert "onnxruntime-cuda" not in runtimes.here(predictor)
    with pytest.raises(UserError, match="can't use a GPU here") as caught:
        runtimes.choose(predictor, "onnxruntime-cuda")
    assert "onnxruntime-gpu" in caught.value.remedy


@openvino_needed
def test_openvino_runs_the_net_in_int8(run: Run, apple: bytes) -> None:
    assert run.bundle is not None
    assert "openvino-int8" not in runtimes.here(Predictor(run.bundle))
    export.export(run, "int8")
    predictor = Predictor(run.bundle)
    assert "openvino-int8" in runtimes.here(predictor)
    (expected,) = predictor.predict([apple])
    assert runtimes.choose(predictor, "openvino-int8").runtime == "openvino-int8"
    (found,) = predictor.predict([apple])
    assert dict(found.top) == pytest.approx(dict(expected.top), abs=0.05)
    assert found.top != expected.top  # so it is another net

    from openvino import Core

    hint = predictor.use(None)._net.get_property("INFERENCE_PRECISION_HINT")
    quick = "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("bfloat16" in str(hint)) == quick  # of what is float in it


@openvino_needed
@pytest.mark.parametrize("name", ["openvino", "openvino-bf16"])
def test_another_runtime_answers_as_the_bundle_does(fruit_bundle: Path, apple: bytes, name: str) -> None:
    usual = Model("fruit", fruit_bundle, Settings(runtime="onnxruntime"))
    other = Model("fruit", fruit_bundle, Settings(runtime=name))
    (one,), (expected,) = other.answer([apple]), usual.answer([apple])
    assert one.label == expected.label  # type: ignore[union-attr]
    assert one.shares == pytest.approx(expected.shares, abs=1e-4 if name == "openvino" else 0.02)  # type: ignore[union-attr]
    assert other.alive()
    assert other.explain(apple).near[0].label == "apple"
