"""A place to send jobs to, and a website with a browser before it, for several modules of tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import httpx
import pytest

from inflame.infra.loopback.server import Server

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
PICTURES = Path(os.environ.get("INFLAME_SCREENSHOTS", "") or Path(__file__).parents[1] / "screenshots")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_WIDER = """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest(".strip, pre") && one.getBoundingClientRect().right > innerWidth)
  .map((one) => one.outerHTML.slice(0, 120))"""
_FLAGS = [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@final
class Serving:
    """`inflame serve` in a process of its own, with a home of its own; gives the process and the address."""

    def __init__(self, folder: Path, *bundles: Path, **environment: str) -> None:
        self.log = (folder / "server.log").open("w")
        command = [sys.executable, "-m", "inflame", "serve", *map(str, bundles), "--port", "0", "--json"]
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
