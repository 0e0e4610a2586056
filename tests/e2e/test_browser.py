"""The exported page, in a real browser, answers as the Predictor does, and asks no other host for anything."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from inflame.model.engine import bundle, export, nets
from inflame.model.engine.exporters import browser
from inflame.records import Preprocess
from inflame.runs import Run

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
RUNTIME = os.environ.get(browser.OVERRIDE, "") or str(Path(__file__).parents[2] / ".peers" / "onnxruntime-web" / "dist")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: chromium isn't installed"),
    pytest.mark.skipif(
        not Path(RUNTIME).is_dir(),
        reason=f"needs onnxruntime-web: npm pack onnxruntime-web@{browser.VERSION}, unpacked as .peers/onnxruntime-web",
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[("bilinear", 3, 24), ("lanczos", 1, 28)], ids=["colour", "grey"])
def run(request: pytest.FixtureRequest, photos: Path, tmp_path: Path, finished: Callable[..., Run]) -> Run:
    """A run whose net is small and trained for a moment, so that answers are neither sure nor all alike."""
    interpolation, channels, size = request.param
    plan = Preprocess(
        size=size,
        resize=28,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        interpolation=interpolation,
    )
    torch.manual_seed(0)
    net = nets.linear(size=size, channels=channels, classes=3)
    return finished(tmp_path / "fruit-001", photos, net, plan, steps=8, rate=0.003)


@pytest.fixture
def address(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(browser.OVERRIDE, RUNTIME)
    export.export(run, "browser", tmp_path / "page")
    handler = functools.partial(Handler, directory=str(tmp_path / "page"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def odd_pictures(photos: Path, folder: Path) -> list[Path]:
    """Held-out photos, and what decoders disagree about: turned by EXIF, transparent, oblong, grey, tiny."""
    folder.mkdir()
    source = Image.open(next(photos.rglob("*.jpg"))).convert("RGB")
    turned = Image.new("RGB", (90, 60), "olive")
    turned.paste(source.resize((40, 40)), (5, 10))
    tag = Image.Exif()
    tag[0x0112] = 6
    turned.save(folder / "turned.jpg", quality=95, exif=tag)
    clear = source.copy().resize((101, 67)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    source.resize((301, 80)).save(folder / "oblong.png")
    source.convert("L").resize((45, 45)).save(folder / "grey.png")
    source.resize((9, 7)).save(folder / "tiny.png")
    return [*sorted(photos.rglob("*_1*.jpg"))[:4], *sorted(folder.iterdir())]


def test_the_page_answers_as_the_predictor(address: str, run: Run, photos: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    predictor = bundle.Predictor(run.path / "bundle")
    files = odd_pictures(photos, tmp_path / "odd")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 390, "height": 800})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else wrong.append(asked.url),
        )
        page.goto(address)
        page.locator("input:enabled").wait_for(state="attached", timeout=60_000)
        for number, file in enumerate(files, 1):
            page.set_input_files("input", file)
            expect(page.locator("article")).to_have_count(number, timeout=30_000)
            card = page.locator("article").first
            (ours,) = predictor.predict([file], top_k=3)
            theirs = dict(
                zip(predictor.classes, json.loads(card.get_attribute("data-probabilities") or ""), strict=True)
            )
            assert max(abs(theirs[name] - p) for name, p in ours.top) < 0.02, file.name
            assert card.get_attribute("data-label") == ours.label, file.name
        (tmp_path / "no.jpg").write_text("no picture")
        page.set_input_files("input", tmp_path / "no.jpg")
        expect(page.locator("article .wrong").first).to_contain_text("can't be read")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        opened.close()
    assert not wrong
