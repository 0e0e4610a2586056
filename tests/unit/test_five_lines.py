"""`import inflame` is five lines long in Python, light, and shows pictures in a notebook."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inflame
from inflame.errors import BundleError, DataError, RunError, UserError
from inflame.notebook import display, site, training
from inflame.notebook.trained import Trained
from inflame.records import Prediction
from inflame.runs import Run


def test_the_import_is_light() -> None:
    loaded = "import sys, inflame; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert "inflame" in done.stdout
    assert not {"numpy", "torch", "onnxruntime", "jinja2", "argparse"} & set(json.loads(done.stdout.replace("'", '"')))
    assert set(inflame.__all__) <= set(vars(inflame)) | {name for name in inflame.__all__ if getattr(inflame, name)}
    with pytest.raises(AttributeError, match="nothing"):
        _ = inflame.nothing  # type: ignore[attr-defined]


@pytest.fixture
def model(fruit_bundle: Path, photo_set: Path, tmp_path: Path) -> Trained:
    """A finished run that knows fruit."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bundle").symlink_to(fruit_bundle)
    rate = {"accuracy": 0.9, "low": 0.81234, "high": 0.95, "n": 1000, "balanced": 0.9}
    status = {"state": "done", "model": "tiny", "dataset": "fruit", "test": rate, "val": rate}
    (tmp_path / "run" / "status.json").write_text(json.dumps(status))
    return inflame.open(tmp_path / "run")


def test_how_good(model: Trained) -> None:
    assert repr(model.test()) == "test accuracy 0.9000 (0.812–0.950, 1,000 items)"
    assert "<b" in model.test()._repr_html_()
    assert "90.0%</b> of 1,000 test items" in model.test()._repr_html_()
    assert repr(model) == f"tiny of fruit: {model.test()} ({model.run.path})"
    assert set(model.classes) == {"apple", "lime", "plum"}


def test_an_answer(model: Trained, photo_set: Path) -> None:
    photo = photo_set / "lime" / "lime_03.jpg"
    said = model(photo)
    assert said.label == model(str(photo)).label == model(photo.read_bytes()).label == said.prediction.top[0][0]
    assert repr(said).endswith(f"{said.label} {said.probability:.3f}")
    html = said._repr_html_()
    assert html.count("<tr>") == 3
    assert "data:image/png;base64," in html
    assert "<img" not in model(np.zeros((64, 64, 3), np.uint8))._repr_html_()  # pixels have no file
    assert len(model(photo, top=1).prediction.top) == 1
    with pytest.raises(DataError, match="no such file"):
        model("nowhere.jpg")


def test_examples(model: Trained) -> None:
    shown = model.examples(4)
    assert len(shown) == 4
    assert shown._repr_html_().count("<img") == 4
    assert {item.label for item in shown.items} <= set(model.classes)
    assert repr(display.Examples(items=())) == "no examples in this model"


def test_what_was_given_is_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    said = Prediction(label=evil, probability=0.5, top=((evil, 0.5),), known=False)
    assert "<script" not in display.Answer(prediction=said)._repr_html_()
    assert "<script" not in display.framed(evil)
    assert "unsure" in display.Answer(prediction=said)._repr_html_()


def test_a_picture_is_turned_as_the_camera_was_held() -> None:
    image, made = Image.new("RGB", (40, 20), "red"), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(made, "JPEG", exif=exif)
    with Image.open(io.BytesIO(display.thumb(made.getvalue()))) as small:
        assert small.size == (20, 40)


def test_the_report_is_in_the_notebook(model: Trained) -> None:
    html = model._repr_html_()
    assert html.startswith('<iframe srcdoc="')
    assert "tiny" in html
    assert model.report().is_file()


def test_a_website(model: Trained) -> None:
    with model.serve() as served:
        assert "(open)" in repr(served)
        assert f'href="{served.address}"' in served._repr_html_()
        with urllib.request.urlopen(f"{served.address}livez", timeout=10) as answer:
            assert answer.status == 200
    assert "(stopped)" in repr(served)


def test_a_website_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run") as caught:
        site.Site(tmp_path, 0)
    assert caught.value.remedy


def test_there_is_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no trained model"):
        inflame.open()
    with pytest.raises(BundleError, match="has made no model"):
        Trained(Run(path=tmp_path))
    with pytest.raises(DataError):
        inflame.open("nothing")


def test_a_run_that_is_not_over(model: Trained) -> None:
    (model.run.path / "status.json").write_text('{"state": "failed", "model": "m", "dataset": "d"}')
    with pytest.raises(UserError, match="it wasn't tested"):
        model.test()
    assert "not tested" in repr(model)


def test_settings_become_words() -> None:
    given = {"seed": 1, "fresh": True, "hyperparam": {"ema": 0.9, "widths": [1, 2]}, "output": Path("run")}
    assert training.spelled(given) == [
        "seed=1",
        "fresh=true",
        "hyperparam.ema=0.9",
        "hyperparam.widths=[1, 2]",
        "output=run",
    ]


def test_the_user_s_mistake_is_the_command_s_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no file or folder here") as caught:
        inflame.train(tmp_path / "nothing", minutes=0.1, quiet=True)
    assert caught.value.remedy.startswith("Check the path")
    assert capsys.readouterr().out == ""


def told(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_what_is_said_meanwhile_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    talk = told("import sys; print('going', file=sys.stderr); print('noise'); print('{\"run\": \"x\"}')")
    assert training._run(talk, quiet=False) == (0, {"run": "x"})
    assert capsys.readouterr().out == "going\n"
    assert training._run(talk, quiet=True)[0] == 0
    assert capsys.readouterr().out == ""


def test_a_training_that_dies_without_a_word() -> None:
    code, said = training._run(told("import sys; print('all is lost', file=sys.stderr); sys.exit(1)"), quiet=True)
    assert (code, said) == (1, {"error": "all is lost"})
    error = training._error(code, said)
    assert isinstance(error, RunError)
    assert error.remedy == "See the log of the run: inflame runs"


def test_an_interrupt_reaches_the_training(tmp_path: Path) -> None:
    child = (
        "import signal, sys, time, pathlib\n"
        "def caught(*_): pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, caught)\n"
        "print('ready', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import signal, sys, threading\n"
        "from inflame.notebook import training\n"
        "class Watch:\n"
        "    def write(self, line):\n"
        "        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)\n"
        "    def flush(self): pass\n"
        "sys.stdout = Watch()\n"
        f"command = [sys.executable, '-c', {child!r}, sys.argv[1]]\n"
        "try:\n"
        "    training._run(command, quiet=False)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent, str(tmp_path / "told")], timeout=60, check=False)
    assert done.returncode == 7
    assert (tmp_path / "told").read_text() == "saved"


@pytest.mark.slow
def test_five_lines_on_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    model = inflame.train("digits", epochs=1, seed=1)
    assert model.test().accuracy > 0.8
    assert model.test().n == 275
    assert "test     accuracy" in capsys.readouterr().out
    assert inflame.open().run.path == model.run.path
    html = model._repr_html_()
    assert "Confusion matrix" in html
    assert "during training" in html  # the curves
    assert "data:image/png" in html  # pictures of mistakes
    assert model(model.examples(1).items[0].thumb).label in model.classes
