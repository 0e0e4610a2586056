"""What every test gets: a home of its own, no network, and photos made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # a terminal's width, which pytest-xdist tells its workers: tables would be cut to it

# Started in the background, as by `nohup make test &`, Python inherits that these are ignored; so would every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

hypothesis.settings.register_profile("quiet", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("quiet")

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")
_CLOSED_PROXY = "http://127.0.0.1:9"  # the discard port: child processes can't get out either


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """INFLAME_HOME of this test alone."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("INFLAME_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine fails, here and in child processes."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(_LOOPBACK):
            raise OSError(f"tests have no network: refused to connect to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, _CLOSED_PROXY)
        monkeypatch.setenv(name.upper(), _CLOSED_PROXY)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def mirror() -> Path:
    """The folder of whole data sets; the test is skipped where there is none."""
    folder = os.environ.get("INFLAME_MIRROR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs whole data sets: set INFLAME_MIRROR to a folder of them")
    return Path(folder)


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and what it has heard."""
    heard: list[dict[str, Any]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", heard
        server.shutdown()
        thread.join()


@pytest.fixture
def worker(home: Path) -> Callable[[int], int | None]:
    """Finds the process of a rank, of a training that works for `home`."""

    def found(rank: int) -> int | None:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                told = (place / "environ").read_bytes().split(b"\0")
                words = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if f"RANK={rank}".encode() in told and f"INFLAME_HOME={home}".encode() in told and b"app.py" in words:
                return int(place.name)
        return None

    return found


def paint(path: Path, colour: tuple[int, int, int], seed: int, size: int = 64) -> Path:
    """A noisy one-colour photo with a darker disc; another seed is another picture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    centre = rng.integers(size // 4, 3 * size // 4, 2)
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (size // 5) ** 2
    pixels = np.array(colour) + rng.normal(0, 25, (size, size, 3))
    pixels[disc] *= 0.4
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


@pytest.fixture(scope="session")
def photo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, made once and for reading only."""
    root = tmp_path_factory.mktemp("set") / "photos"
    colours = {"apple": (200, 50, 50), "lime": (60, 190, 60), "plum": (90, 50, 160)}
    for index, (name, colour) in enumerate(colours.items()):
        for number in range(12):
            paint(root / name / f"{name}_{number:02}.jpg", colour, seed=100 * index + number)
    return root


@pytest.fixture
def photos(photo_set: Path, tmp_path: Path) -> Path:
    """A folder of 3 classes with 12 JPEGs of 64 x 64 each, all different, easily told apart."""
    return Path(shutil.copytree(photo_set, tmp_path / "photos"))


@pytest.fixture(scope="session")
def finished() -> Callable[..., Any]:
    """Makes a finished run: what a training leaves of the data `photos`, and a bundle of `net`, trained for `steps`."""
    return _finished


def _finished(folder: Path, photos: Path, net: Any, preprocess: Any, *, steps: int = 25, rate: float = 0.01) -> Any:
    import torch

    from inflame import artifact
    from inflame.artifact import loader, manifest
    from inflame.model.engine import bundle, calibrate
    from inflame.runs import Run

    dataset = artifact.open(photos)
    folder.mkdir()
    manifest.save(dataset, folder)
    (folder / "status.json").write_text('{"state": "done", "model": "tiny"}')
    train = loader.load(dataset, preprocess)["train"]
    seen = loader.centre(train.pixels, preprocess.size)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(loader.normalise(seen, preprocess)), train.labels).backward()
        optimizer.step()
    bundle.export(
        folder / "bundle",
        net=net.eval(),
        preprocess=preprocess,
        classes=dataset.classes,
        calibration=calibrate.Calibration(temperature=1.6, threshold=0.4),
        reference={},
        card="# card\n",
        examples={"pictures": np.ascontiguousarray(seen.numpy())},
        about={"dataset": {"name": "fruit"}},
    )
    return Run(path=folder)


@pytest.fixture(scope="session")
def fruit_bundle(photo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows the photos well, with training items to show and how far held-out ones are from them."""
    return _bundle(photo_set, tmp_path_factory.mktemp("fruit") / "bundle")


@pytest.fixture(scope="session")
def bundle_of() -> Callable[..., Path]:
    """Makes such a bundle of a folder of 3 classes with 12 pictures each: `bundle_of(root, folder, name)`."""
    return _bundle


def _bundle(root: Path, folder: Path, name: str = "fruit", channels: int = 3, size: int = 32) -> Path:
    import torch
    from torch import nn

    from inflame.artifact.preprocess import pixels
    from inflame.model.engine import bundle, calibrate, nearest, novelty
    from inflame.records import Preprocess

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            convolution = nn.Sequential(nn.Conv2d(channels, 16, 5, stride=2), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten())
            self.body, self.head, self.spec = convolution, nn.Linear(64, 3), {"kind": "tiny"}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    plan = Preprocess(size=size, resize=size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    files = sorted(path for path in root.rglob("*.*") if path.is_file())
    classes = tuple(sorted({file.parent.name for file in files}))
    seen = np.stack([pixels(file, plan) for file in files])
    labels = torch.tensor([classes.index(file.parent.name) for file in files])
    x = (torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    held, net = np.arange(36) % 12 >= 9, net.eval()
    with torch.inference_mode():
        vectors = net.body(x).numpy()
    shown = nearest.pack(
        embedding=vectors[~held],
        labels=[file.parent.name for file in np.array(files)[~held]],
        uris=[file.name for file in np.array(files)[~held]],
        shown=[nearest.thumb(picture) for picture in seen[~held]],
    )
    middle, rows = vectors[held].mean(axis=0), np.arange(held.sum())
    usual = novelty.record(nearest.Nearest(shown, text=False), middle, vectors[held], None, rows)
    return bundle.export(
        folder,
        net=net,
        preprocess=plan,
        classes=classes,
        calibration=calibrate.Calibration(temperature=1.2, threshold=0.5, qhat=0.4),
        reference={"n": 9, "embedding": {"mean": middle.tolist()}, "novelty": usual},
        card=f"# {name}\n\n- Answers with one of 3 classes: {', '.join(classes)}.\n"
        "- Test accuracy 99.0 % (in a test).\n",
        examples={"pictures": seen},
        about={"model": "tiny", "dataset": {"name": name, "version": "abc"}},
        nearest=shown,
    )


@pytest.fixture(scope="session")
def letters_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model of texts about money and sport, as `inflame train` makes it; its run is around it."""
    root, rng = tmp_path_factory.mktemp("letters"), np.random.default_rng(0)
    for name, own in {"money": "bank share profit market loan", "sport": "match goal team coach win"}.items():
        (root / "letters" / name).mkdir(parents=True)
        for number in range(40):
            told = " ".join(rng.choice([*own.split(), "the", "day", "people", f"w{number}"], 30))
            (root / "letters" / name / f"{number}.txt").write_text(told)
    words = ["train", str(root / "letters"), "--json", f"output={root / 'letters-001'}"]
    given = {**os.environ, "INFLAME_HOME": str(root / "home")}
    done = subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr
    return root / "letters-001" / "bundle"


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """A text must be what a file of the repository says; GOLDEN=write writes the file instead."""

    def same(file: Path, text: str) -> None:
        if os.environ.get("GOLDEN") == "write":
            file.write_text(text, encoding="utf-8")
        assert file.read_text(encoding="utf-8") == text, f"{file} is old; if the change is meant: GOLDEN=write pytest"

    return same
