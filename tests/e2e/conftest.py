"""A place to send jobs to, and a website with a browser before it, for several modules of tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import httpx
import pytest

from inflame.infra.loopback.server import Server
from inflame.model.engine import checkpoint

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
PICTURES = Path(os.environ.get("INFLAME_SCREENSHOTS", "") or Path(__file__).parents[1] / "screenshots")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_WIDER = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest(".strip, pre") && one.getBoundingClientRect().right > innerWidth)
  .map((one) => one.outerHTML.slice(0, 120))"""
_APP = """import sys
from pathlib import Path

from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
_TRAIN = """import time
from functools import partial

import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.model.engine import hooks, session
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess
from inflame.runs import Follows

PICTURES = Preprocess(size=8, resize=8, channels=1)


class Slow:
    def __init__(self, seconds):
        self.seconds = seconds

    def after_batch(self, learner):
        time.sleep(self.seconds)


def train(settings):
    h = settings.hyperparam
    with session.begin(settings, canvas=PICTURES, epochs=h.num_epochs) as s:
        pictures = loader.load(s.dataset, PICTURES)
        moves = augment.chain(augment.flip, partial(augment.shift, by=1))
        batches = partial(loader.Batches, preprocess=PICTURES, batch_size=h.batch_size, seed=settings.seed)
        held_out = batches(pictures["val"])
        torch.manual_seed(settings.seed)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.GELU(), nn.Flatten(), nn.Dropout(h.dropout), nn.Linear(288, 32), nn.GELU(),
            nn.Linear(32, 10),
        )
        watched = s.hooks()
        last = next(hook for hook in watched if isinstance(hook, hooks.SaveLast))
        last.every, last.share = h.every, 1.0
        learner = Learner(
            net=net,
            criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
            optimizer=torch.optim.SGD(net.parameters(), lr=h.learning_rate, momentum=0.9),
            schedule=lambda progress: 1 - progress,
            device=s.device or One("cpu", compiled=h.compiled),
            train_loader=batches(pictures["train"], shuffle=h.shuffle, transform=moves),
            val_loader=held_out,
            hooks=[*watched, *([hooks.Ema(h.ema)] if h.ema else []), *([Slow(h.slow)] if h.slow else [])],
        )
        s.fit(learner, epochs=h.num_epochs)
        val = learner.evaluate(held_out)
        if not learner.device.main:
            raise Follows
    return {"run": str(s.run.path), "val": val, "train": len(pictures["train"]), "what": learner.device.describe()}
"""
_CONFIG = """[hyperparam]
num_epochs = 3
batch_size = 23
learning_rate = 0.05
dropout = 0.0
ema = 0.0
compiled = false
shuffle = true
every = 10.0               # seconds between checkpoints
slow = 0.0                 # seconds that a step takes longer
[io]
training_input = "digits"
"""
_FLAGS = [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.*",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@final
class Serving:
    """`inflame serve` in a process of its own, with a home of its own; gives the process and the address."""

    def __init__(self, folder: Path, *bundles: Path, **environment: str) -> None:
        self.log = (folder / "server.log").open("w")
        command = [sys.executable, "-m", "inflame", "serve", "--port", "0", "--json", *map(str, bundles)]
        given = {**os.environ, "INFLAME_HOME": str(folder / "home"), **environment}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=given)

    def __enter__(self) -> tuple[subprocess.Popen[str], str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, Path(self.log.name).read_text()
        address = json.loads(line)["address"]
        for _ in range(200):
            try:
                if httpx.get(f"{address}readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
        return self.process, address

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture(scope="session")
def serving() -> type[Serving]:
    return Serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, which knows no name of any host."""
    if CHROMIUM is None:
        pytest.skip("needs a browser: chromium isn't installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)  # the machine may be busy
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def browse(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Makes pages of the site; whatever a page does wrong fails the test: a script error, or a word to another host.
    What is expected to go wrong is taken out of `browse.wrong`."""
    wrong: list[str] = []
    made = []

    def page(path: str = "", address: str = site, **given: Any) -> Any:
        context = browser.new_context(**given)
        made.append(context)
        opened = context.new_page()
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        own = (address, "data:", "blob:")
        opened.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
        opened.goto(address + path)
        return opened

    page.wrong = wrong  # type: ignore[attr-defined]
    yield page
    for context in made:
        context.close()
    assert not wrong


@pytest.fixture
def fits(request: pytest.FixtureRequest) -> Callable[[Any, str], None]:
    """A page is no wider than its window, and in nobody's way; a picture of it is kept, to be looked at."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

    def look(page: Any, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
        width = page.evaluate("innerWidth")
        page.screenshot(path=PICTURES / f"{name}-{width}-{scheme}.png", full_page=True)
        told = axe.Axe().run(page, options={"runOnly": _RULES}).response["violations"]
        assert not {f"{name}: {one['id']}": [node["html"][:120] for node in one["nodes"]] for one in told}
        assert page.evaluate(_WIDER) == [], name

    return look


@pytest.fixture
def begun() -> Iterator[Callable[[Sequence[str], Path], subprocess.Popen[str]]]:
    """Starts a training, as its command, and gives the process when a checkpoint more lies below the folder."""
    children: list[subprocess.Popen[str]] = []

    def stamps(folder: Path) -> list[int]:
        return [file.stat().st_mtime_ns for file in folder.rglob(f"last*/{checkpoint.NEWEST}")]

    def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
        before = stamps(folder)
        child = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        children.append(child)
        while stamps(folder) == before:
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.02)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def same_end() -> Callable[[Path, Path], None]:
    """Two finished trainings must agree to the last bit: weights, optimizer, average, best and numbers."""

    def same(one: Any, other: Any) -> bool:
        if hasattr(one, "dtype"):
            return bool(one.dtype == other.dtype and one.shape == other.shape and (one == other).all())
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(same, one, other))
        return bool(one == other)

    def look(folder: Path, undisturbed: Path) -> None:
        for place in sorted(path.name for path in undisturbed.iterdir() if path.name.startswith(("last", "best"))):
            mine, theirs = (checkpoint.load(path / place) for path in (folder, undisturbed))
            assert mine is not None
            assert theirs is not None
            for key in {*theirs, "net"} & {"net", "optimizer", "hooks", "at", "tally"}:
                assert same(mine[key], theirs[key]), f"{key} of {place}"
        rows = [
            [json.loads(line) | {"seconds": 0} for line in (path / "metrics.jsonl").read_text().splitlines()]
            for path in (folder, undisturbed)
        ]
        assert rows[0] == rows[1]

    return look


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model without batch norm, of which whatever trains it must give the same numbers."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    folder.mkdir()
    for name, text in (("app.py", _APP), ("train.py", _TRAIN), ("model-config.toml", _CONFIG)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def sagemaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """SageMaker here, with moto's S3 and CloudWatch, as the environment of our commands says."""
    pytest.importorskip("moto")
    import boto3
    from moto.server import ThreadedMotoServer

    from inflame.infra.loopback.sagemaker import SageMaker

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "INFLAME_SAGEMAKER_ROLE": "arn:aws:iam::123456789012:role/inflame",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    boto3.client("s3").create_bucket(Bucket="bucket")
    with Server(SageMaker(tmp_path / "machines")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", server.url)
        yield server
    moto.stop()
