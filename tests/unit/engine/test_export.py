"""What is exported answers like the bundle, loads without inflame, and is never half there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflame import plugins
from inflame.cli.main import main
from inflame.errors import DataError, ExportError, NetworkError, UserError
from inflame.model.engine import bundle, export, nets
from inflame.model.engine.exporters import browser
from inflame.records import Preprocess
from inflame.runs import Run

os.environ.setdefault("KERAS_BACKEND", "torch")
PREPROCESS = Preprocess(size=24, resize=28, mean=(0.5, 0.45, 0.4), std=(0.25, 0.3, 0.2))


def small() -> nets.Classifier:
    torch.manual_seed(0)
    return nets.small(size=24, channels=3, classes=3, widths=(8, 16, 24))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_set: Path, finished: Callable[..., Run]) -> Run:
    return finished(tmp_path_factory.mktemp("runs") / "fruit-001", photo_set, small(), PREPROCESS)


def pictures(run: Run) -> Any:
    return export.Subject(run).held(8).batches[0]["pictures"]


def expected(run: Run, given: Any) -> Any:
    predictor = bundle.Predictor(run.path / "bundle")
    return predictor.calibration.apply(predictor.run({"pictures": given})[0])


def ask(code: str, *words: str | Path) -> Any:
    """What a program without inflame prints."""
    program = f"import sys, json, numpy as np\nfolder, given = sys.argv[1], np.load(sys.argv[2])\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


PROGRAMS = {
    "onnx": "import onnxruntime as o\nprint(json.dumps(o.InferenceSession(folder + '/model.onnx').run("
    "['probabilities'], {'pictures': given})[0].tolist()))",
    "torch": "import torch\nprint(json.dumps(torch.export.load(folder + '/model.pt2').module()("
    "torch.from_numpy(given)).tolist()))",
    "keras": "import keras\nprint(json.dumps(np.asarray(keras.saving.load_model(folder + '/model.keras')"
    ".predict(given, verbose=0)).tolist()))",
}


@pytest.mark.parametrize("to", ["onnx", "torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_the_file_answers_without_inflame(to: str, run: Run, tmp_path: Path) -> None:
    if to == "keras":
        pytest.importorskip("keras")
    found = export.export(run, to, tmp_path / "out")
    assert found["agreement"] == 1
    assert found["difference"] < 1e-4
    given = pictures(run)
    for count in (1, 5):
        np.save(tmp_path / "given.npy", given[:count])
        answers = ask(PROGRAMS[to], tmp_path / "out", tmp_path / "given.npy")
        np.testing.assert_allclose(answers, expected(run, given[:count]), atol=1e-4)
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["apple", "lime", "plum"]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["bundle"] == found["bundle"]


def resnet() -> nets.Classifier:
    return nets.from_timm("resnet10t", classes=3, head="hellinger")


def mobile() -> nets.Classifier:
    return nets.from_timm("mobilenetv2_035", classes=3, head="hellinger", pad_type="same")


def flat() -> nets.Classifier:
    return nets.linear(size=24, channels=3, classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("made", [resnet, mobile, flat, lambda: nets.mirrored(small())])
def test_keras_takes_each_kind_of_net(
    made: Callable[[], nets.Classifier], photo_set: Path, tmp_path: Path, finished: Callable[..., Run]
) -> None:
    pytest.importorskip("keras")
    run = finished(tmp_path / "run", photo_set, made(), PREPROCESS)
    assert export.export(run, "keras")["agreement"] == 1
    assert (run.path / "export" / "keras" / "model.keras").is_file()


def test_keras_says_what_it_lacks(photo_set: Path, tmp_path: Path, finished: Callable[..., Run]) -> None:
    pytest.importorskip("keras")
    run = finished(
        tmp_path / "run", photo_set, nets.from_timm("convnext_atto", classes=3), Preprocess(size=32, resize=32)
    )
    with pytest.raises(ExportError, match=r"written for Keras|no match"):
        export.export(run, "keras")
    assert not (run.path / "export" / "keras").exists()


def test_int8_says_what_it_costs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = export.export(run, "int8", tmp_path / "out")
    assert found["change"]["low"] <= found["change"]["value"] <= found["change"]["high"]
    assert found["bundle_accuracy"] == 1
    assert found["agreement"] > 0.9
    assert found["size_ratio"] > 0
    assert found["tried"]
    assert capsys.readouterr().out == ""
    kinds = {
        node.op_type for node in plugins.need("onnx", "train").load(str(tmp_path / "out" / "model.onnx")).graph.node
    }
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_what_answers_otherwise_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(subject: export.Subject, place: Path) -> export.Written:
        (place / "model.bin").write_bytes(b"wrong")
        return export.Written(answer=lambda inputs: np.full((len(inputs["pictures"]), 3), 1 / 3), exact=kinds[-1])

    kinds: list[bool] = []
    monkeypatch.setattr(plugins, "load", lambda *_: write)
    for exact, words in ((True, "another label"), (False, "less often")):
        kinds.append(exact)
        with pytest.raises(ExportError, match=words) as caught:
            export.export(run, "odd", tmp_path / "out")
        assert caught.value.remedy
        assert list(tmp_path.iterdir()) == []
    assert export.export(run, "odd", tmp_path / "out", lose=1.0)["change"]["value"] < 0


def test_a_folder_of_something_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        export.export(run, "onnx", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    for _ in range(2):  # an earlier export is replaced
        export.export(run, "onnx", tmp_path / "out")


def test_without_the_data_nothing_is_exported(photos: Path, tmp_path: Path, finished: Callable[..., Run]) -> None:
    run = finished(tmp_path / "run", photos, flat(), PREPROCESS)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="can't be read"):
        export.export(run, "onnx")
    assert not (run.path / "export" / "onnx").exists()


def test_the_runtime_of_the_page_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(browser.OVERRIDE, str(tmp_path))
    name = next(iter(browser.RUNTIME))
    (tmp_path / name).write_bytes(b"not it")
    with pytest.raises(NetworkError, match="could not be fetched") as caught:
        browser.runtime(name)
    assert "wrong content" in caught.value.where


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "kears"], 'Did you mean "keras"?'),
        (["nosuch"], 'There is no run "nosuch"'),
        (["--to", "int8", "--lose", "-1"], "--lose takes points"),
        ([], "There is no trained model yet"),
    ],
)
def test_words_that_are_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_verb(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run.path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "model.onnx" in said
    assert "as the bundle answers" in said
    assert main(["export", str(run.path), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
