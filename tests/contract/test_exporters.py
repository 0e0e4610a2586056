"""What every exporter promises: files with their notes that answer like the bundle, or an error and nothing at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inflame import plugins
from inflame.errors import ExportError
from inflame.model.engine import export, nets
from inflame.model.engine.exporters import browser
from inflame.records import Preprocess
from inflame.runs import Run

os.environ.setdefault("KERAS_BACKEND", "torch")
NAMES = plugins.names("exporter")
RUNTIME = Path(__file__).parents[2] / ".peers" / "onnxruntime-web" / "dist"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_set: Path, finished: Callable[..., Run]) -> Run:
    torch.manual_seed(0)
    net = nets.small(size=20, channels=3, classes=3, widths=(8, 16))
    return finished(tmp_path_factory.mktemp("runs") / "fruit-001", photo_set, net, Preprocess(size=20, resize=20))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "keras":
        pytest.importorskip("keras")
    if request.param == "browser" and not os.environ.get(browser.OVERRIDE):
        if not RUNTIME.is_dir():
            pytest.skip(f"needs onnxruntime-web {browser.VERSION} in .peers/onnxruntime-web")
        monkeypatch.setenv(browser.OVERRIDE, str(RUNTIME))
    return str(request.param)


def test_it_writes_what_answers_and_says_so(name: str, run: Run, tmp_path: Path) -> None:
    found = export.export(run, name, tmp_path / "out")
    assert found["items"] > 0
    assert found["split"] == "test"
    assert found["agreement"] > 0.9
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert {**told, "folder": str(tmp_path / "out")} == found
    assert {"classes.json", "preprocess.json", *told["files"]} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_it_refuses_a_bundle_that_answers_otherwise(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle's answers turned around stand for an exporter that writes nonsense."""
    ours = export.answers
    monkeypatch.setattr(export, "answers", lambda *given: ours(*given)[:, ::-1])
    with pytest.raises(ExportError) as caught:
        export.export(run, name, tmp_path / "out", lose=-1.5)
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []
