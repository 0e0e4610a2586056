"""A bundle answers like the net it was made from, notices every changed byte, and is never half there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inflame.artifact.preprocess import PictureError, pixels
from inflame.errors import BundleError, ExportError, InflameError, MissingExtra
from inflame.model.engine import bundle, calibrate, freeze, seal
from inflame.model.engine.bundle import Predictor
from inflame.model.engine.calibrate import Calibration
from inflame.records import Preprocess

CLASSES = ("apple", "lime", "plum")
PREPROCESS = Preprocess(size=24, resize=28, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
CALIBRATION = Calibration(temperature=1.7, threshold=0.36, qhat=0.6, n=36, source="val")


class Classifier(nn.Module):
    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head, self.spec = body, head, {"kind": "tiny"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def net(channels: int = 3, seed: int = 0, classes: int = 3) -> Classifier:
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(5), nn.Flatten()
    )
    made = Classifier(body, nn.Linear(32, classes))
    with torch.no_grad():
        made.head.weight.mul_(8)
        body(torch.randn(64, channels, 24, 24))  # running statistics that are not 0 and 1
    return made


def examples(n: int = 32, preprocess: Preprocess = PREPROCESS, seed: int = 0) -> np.ndarray:
    shape = (n, preprocess.size, preprocess.size, preprocess.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made(folder: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "net": net(),
        "preprocess": PREPROCESS,
        "classes": CLASSES,
        "calibration": CALIBRATION,
        "reference": {"n": 36},
        "card": "# card\n",
        "examples": {"pictures": examples()},
        "about": {"model": "tiny", "dataset": {"name": "fruit", "version": "abc"}},
    }
    return bundle.export(folder, **{**given, **changes})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle that tests read and don't change."""
    return made(tmp_path_factory.mktemp("shared") / "bundle")


def test_it_answers_like_the_net(shared: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    original = net().eval()
    x = torch.stack([torch.from_numpy(pixels(f, PREPROCESS)).permute(2, 0, 1) for f in files]).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    with torch.inference_mode():
        expected = CALIBRATION.apply(original((x - mean) / std).numpy())
        vectors = original.body((x - mean) / std).numpy()
    predictor = Predictor(shared)
    answers = predictor.predict(files, top_k=2)
    assert [a.label for a in answers] == [CLASSES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose([a.probability for a in answers], expected.max(axis=1), atol=1e-5)
    np.testing.assert_allclose(predictor.embed(files), vectors, atol=1e-4)
    assert all(len(a.top) == 2 and a.top[0] == (a.label, a.probability) for a in answers)
    assert [a.known for a in answers] == CALIBRATION.known(expected).tolist()
    for answer, members in zip(answers, CALIBRATION.sets(expected), strict=True):
        assert set(answer.set) == {name for name, member in zip(CLASSES, members, strict=True) if member}
        assert answer.set[0] == answer.label


def test_a_prediction_says_where_it_comes_from(shared: Path, photos: Path) -> None:
    file = next(photos.rglob("*.jpg"))
    predictor = Predictor(shared)
    (answer,) = predictor.predict([file])
    assert answer.source == str(file)
    assert answer.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert answer.model == predictor.version
    assert predictor.info["version"].startswith(answer.model)
    assert 0 < answer.latency < 30


def test_file_bytes_and_pixels_are_one_picture(shared: Path, photos: Path) -> None:
    file = next(photos.rglob("*.jpg"))
    array = np.asarray(Image.open(file).convert("RGB"))
    a, b, c = Predictor(shared).predict([file, file.read_bytes(), array])
    assert a.probability == b.probability
    assert c.probability == pytest.approx(a.probability, abs=0.02)  # a JPEG may be decoded smaller
    assert a.sha256 == b.sha256 != c.sha256


def test_batches_do_not_change_answers(shared: Path) -> None:
    pictures = list(examples(70, seed=5))
    predictor = Predictor(shared)
    together = predictor.predict(pictures)
    alone = [predictor.predict([p])[0] for p in pictures]
    np.testing.assert_allclose([a.probability for a in together], [a.probability for a in alone], atol=1e-5)
    assert [a.sha256 for a in together] == [a.sha256 for a in alone]


def test_one_source_needs_no_list_and_none_gives_none(shared: Path, photos: Path) -> None:
    predictor = Predictor(shared)
    assert len(predictor.predict(next(photos.rglob("*.jpg")))) == 1
    assert len(predictor.predict(str(next(photos.rglob("*.jpg"))))) == 1
    assert predictor.predict([]) == []
    assert predictor.embed([]).shape == (0, 32)


def test_a_bad_picture_does_not_stop_the_rest(shared: Path, photos: Path, tmp_path: Path) -> None:
    good = sorted(photos.rglob("*.jpg"))[:3]
    bad = tmp_path / "page.jpg"
    bad.write_text("<html><body>not found</body></html>")
    sources = [good[0], bad, good[1], tmp_path / "missing.jpg", good[2]]
    answers = Predictor(shared).predict(sources, errors="collect")
    assert [isinstance(a, InflameError) for a in answers] == [False, True, False, True, False]
    assert isinstance(answers[1], PictureError)
    assert answers[1].where == str(bad)
    assert [a.source for a in answers if not isinstance(a, InflameError)] == [str(g) for g in good]
    with pytest.raises(PictureError):
        Predictor(shared).predict(sources)
    with pytest.raises(PictureError):
        Predictor(shared).embed(sources)


def test_only_bad_pictures(shared: Path) -> None:
    (answer,) = Predictor(shared).predict([b""], errors="collect")
    assert isinstance(answer, PictureError)


def test_threads_share_a_predictor(shared: Path) -> None:
    predictor, pictures = Predictor(shared), list(examples(16, seed=9))
    expected = predictor.predict(pictures)
    found: list[list[float]] = []

    def ask() -> None:
        found.append([a.probability for a in predictor.predict(pictures)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for row in found:
        np.testing.assert_allclose(row, [a.probability for a in expected], atol=1e-6)


def test_a_grey_net(tmp_path: Path) -> None:
    grey = Preprocess(size=24, resize=24, channels=1, mean=(0.3,), std=(0.3,))
    seen = {"pictures": examples(preprocess=grey)}
    folder = made(tmp_path / "b", net=net(channels=1), preprocess=grey, examples=seen)
    answers = Predictor(folder).predict([examples(1)[0], examples(1, grey)[0], examples(1, grey)[0][:, :, 0]])
    assert len(answers) == 3
    assert answers[1].probability == answers[2].probability


def test_what_is_in_the_folder(shared: Path) -> None:
    info = json.loads((shared / "bundle.json").read_text())
    assert info["model"] == "tiny"
    assert info["net"] == {"kind": "tiny"}
    assert info["dataset"] == {"name": "fruit", "version": "abc"}
    assert info["verified"]["items"] == 32
    assert info["verified"]["difference"] < 1e-4
    assert {path.name for path in shared.iterdir()} == {*info["sha256"], "bundle.json"}
    assert json.loads((shared / "classes.json").read_text()) == list(CLASSES)
    usual = shared.parent / "usual"
    usual.touch()
    assert {path.stat().st_mode & 0o777 for path in shared.iterdir()} == {usual.stat().st_mode & 0o777}


def test_the_weights_load_into_a_net(shared: Path) -> None:
    from safetensors.torch import load_file

    other, original = net(seed=1), net()
    other.load_state_dict(load_file(shared / "model.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), original.state_dict().values(), strict=True)
    )


def test_export_leaves_the_net_alone(tmp_path: Path) -> None:
    given = net().train()
    before = {key: value.clone() for key, value in given.state_dict().items()}
    made(tmp_path / "b", net=given)
    assert given.training
    assert all(parameter.requires_grad for parameter in given.parameters())
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())


def test_the_same_net_has_the_same_version(shared: Path, tmp_path: Path) -> None:
    assert Predictor(made(tmp_path / "b")).version == Predictor(shared).version
    assert Predictor(made(tmp_path / "c", net=net(seed=2))).version != Predictor(shared).version


@pytest.mark.parametrize("name", [*bundle.FILES, "bundle.json"])
def test_every_changed_byte_is_noticed(name: str, tmp_path: Path, shared: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shared.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = bytearray((copy / name).read_bytes())
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        changed = content.copy()
        changed[place] ^= 1
        (copy / name).write_bytes(changed)
        with pytest.raises(BundleError) as caught:
            Predictor(copy)
        assert caught.value.remedy
        assert name in caught.value.message
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        Predictor(copy)


def test_a_changed_fact_is_noticed(tmp_path: Path) -> None:
    folder = made(tmp_path / "b")
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**info, "model": "other"}))
    with pytest.raises(BundleError, match="changed"):
        bundle.verify(folder)


def test_no_bundle_and_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        Predictor(tmp_path / "nothing")
    monkeypatch.setattr("inflame.model.engine.seal.FORMAT", 99)
    folder = made_without_check(tmp_path / "b", monkeypatch)
    monkeypatch.setattr("inflame.model.engine.seal.FORMAT", 1)
    with pytest.raises(BundleError, match="format 99") as caught:
        Predictor(folder)
    assert "upgrade" in caught.value.remedy


def made_without_check(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_compare", lambda *_: 0.0)
        patch.setattr(bundle, "_canaries", lambda _: [])
        patch.setattr(bundle, "Predictor", lambda _: None)
        return made(folder, **changes)


class Fickle(nn.Module):
    """Says something else while it is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.jit.is_tracing() else -x


class Frozen(nn.Module):
    """Takes the batch size of the example for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), -1) + torch.zeros(int(x.shape[0]), 1)


@pytest.mark.parametrize("last", [Fickle(), Frozen()])
def test_a_net_that_answers_differently_is_refused(
    last: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = net()
    wrong.head = nn.Sequential(wrong.head, last)
    with pytest.raises(ExportError):
        made(tmp_path / "b", net=wrong)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    broken = net()
    with torch.no_grad():
        broken.head.weight[0, 0] = float("nan")
    with pytest.raises(ExportError):
        made(tmp_path / "b", net=broken)


def test_a_layer_that_onnx_lacks_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    odd = net()
    odd.head = nn.Sequential(odd.head, Odd())
    with pytest.raises(ExportError, match="ONNX"):
        made(tmp_path / "b", net=odd)
    assert capfd.readouterr().out == ""


def test_mean_per_channel(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="channels"):
        made(tmp_path / "b", net=net(1), preprocess=Preprocess(size=24, resize=24, channels=1))


def test_every_class_has_an_output(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="3 numbers for 2 classes"):
        made(tmp_path / "b", classes=("apple", "lime"))


@pytest.mark.parametrize("n", [1, 2, 33, 34])
def test_any_number_of_examples_but_none(n: int, tmp_path: Path) -> None:
    assert Predictor(made(tmp_path / "b", examples={"pictures": examples(n)})).info["verified"]["items"] == n
    with pytest.raises(ExportError, match="no picture"):
        made(tmp_path / "b", examples={"pictures": examples(0)})


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match="onnx"):
        made(tmp_path / "b")


def test_a_failed_export_keeps_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "b")
    before = Predictor(folder).version

    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(freeze, "_write_onnx", cut_off)
    with pytest.raises(KeyboardInterrupt):
        made(folder, net=net(seed=3))
    assert Predictor(folder).version == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_there_is_a_whole_bundle_at_any_moment(tmp_path: Path) -> None:
    """Readers that look all the time while a bundle is replaced never see a broken or missing one."""
    folder, problems, stop = made(tmp_path / "b"), [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            try:
                Predictor(folder, threads=1)
            except BundleError as error:
                problems.append(error.message)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for seed in range(4):
            made(folder, net=net(seed=seed))
    finally:
        stop.set()
        watcher.join()
    assert problems == []
    assert bundle.verify(folder)


def test_a_bundle_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = made(tmp_path / "b"), seal._manifest
    old, done = bundle.verify(folder)["version"], []

    def replaced_after_the_first_file(place: Path) -> dict[str, Any]:
        info = manifest(place)
        if not done:
            done.append(True)
            made_without_check(folder, monkeypatch, net=net(seed=2))
        return info

    monkeypatch.setattr(seal, "_manifest", replaced_after_the_first_file)
    assert Predictor(folder).info["version"] != old


def test_export_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(tmp_path / "b")
    assert capfd.readouterr() == ("", "")


def test_predicting_needs_no_torch_and_nothing_else_that_is_heavy(shared: Path, photos: Path) -> None:
    code = (
        "import sys\n"
        "from inflame.model.engine.bundle import Predictor\n"
        "answer, = Predictor(sys.argv[1]).predict([sys.argv[2]])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'sklearn', 'scipy', 'pyarrow', 'jinja2', 'matplotlib', 'onnx'}\n"
        "print(answer.label, sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(shared), str(next(photos.rglob("*.jpg")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"


def test_calibration_reaches_the_answers(tmp_path: Path) -> None:
    whole = dataclasses.replace(PREPROCESS, resize=PREPROCESS.size)
    rule = Calibration(temperature=50.0, threshold=0.9, qhat=1.0)
    cool = made(tmp_path / "b", calibration=rule, preprocess=whole)
    (answer,) = Predictor(cool).predict([examples(1)[0]])
    logits, _ = Predictor(cool).run({"pictures": examples(1)})
    assert answer.probability == pytest.approx(calibrate.softmax(logits, 50.0).max())
    assert not answer.known
    assert len(answer.set) == 3
