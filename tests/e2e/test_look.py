"""Looking through a data set: over HTTP, and in a real browser."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from inflame import artifact
from inflame.artifact import examining, look, overlay

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@pytest.fixture
def address(photos: Path) -> Iterator[str]:
    server, address = look.server(look.Collection(examining.examine(photos)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()
    server.server_close()


class Client:
    """Speaks with the server as a browser does, with its cookie unless told otherwise."""

    def __init__(self, address: str) -> None:
        self.place, self.token = urlsplit(address).netloc, address.partition("t=")[2]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        link = http.client.HTTPConnection(self.place, timeout=20)
        sent = {"Cookie": f"inflame_look={self.token}", **headers}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        link.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), sent)
        answer = link.getresponse()
        content = answer.read()
        link.close()
        return answer.status, content

    def json(self, path: str, body: Any = None) -> Any:
        status, content = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)


def test_items_are_found_by_class_split_fault_and_name(address: str, photos: Path) -> None:
    client = Client(address)
    about = client.json("/api/about")
    assert about["items"] == 36
    for name in about["classes"]:
        found = client.json(f"/api/items?class={name}&count=500")
        assert found["total"] == 12
        assert {item["label"] for item in found["items"]} == {name}
    first = client.json("/api/items?count=1")["items"][0]
    assert client.json(f"/api/items?name={first['uri'].upper()}")["total"] == 1
    assert client.ask(f"/thumb/{first['row']}")[1][:3] == b"\xff\xd8\xff"
    detail = client.json(f"/api/item/{first['row']}")
    assert detail["size"] == "64 x 64"
    assert detail["near"]
    assert first["row"] not in [item["row"] for item in detail["near"]]


def test_a_decision_holds_in_training_and_can_be_undone(address: str, photos: Path) -> None:
    client = Client(address)
    item = client.json("/api/items?count=1")["items"][0]
    other = next(name for name in client.json("/api/about")["classes"] if name != item["label"])
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    assert client.json("/api/move", {"row": item["row"], "label": other})["item"]["label"] == other
    assert client.json("/api/exclude", {"row": item["row"] + 1, "why": "blurred"})["excluded"] == 1
    opened = artifact.open(photos)
    labels = dict(zip(opened.items["uri"].to_pylist(), opened.items["label"].to_pylist(), strict=True))
    assert labels[item["uri"]] == other
    assert len(opened) == 35
    assert {fault.kind for fault in opened.faults} >= {"overlay"}
    client.json("/api/undo", {})
    client.json("/api/undo", {})
    assert overlay.load(str(photos)) == overlay.Overlay()
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == before


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/api/about", None, {"Cookie": ""}, 403),
        ("/api/about", None, {"Host": "evil.example"}, 403),
        ("/api/undo", {}, {"Origin": "http://evil.example"}, 403),
        ("/api/undo", {}, {"Content-Type": "text/plain"}, 400),
        ("/?t=wrong", None, {"Cookie": ""}, 403),
        ("/thumb/99999", None, {}, 400),
        ("/thumb/../../../etc/passwd", None, {}, 404),
        ("/whole/-1", None, {}, 400),
        ("/api/move", {"row": 0, "label": " "}, {}, 400),
        ("/api/move", {"row": "x", "label": "a"}, {}, 400),
        ("/nothing", None, {}, 404),
    ],
)
def test_strangers_and_nonsense_are_refused(
    address: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    assert Client(address).ask(path, body, **headers)[0] == status


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: chromium isn't installed")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_browser(address: str, photos: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        expect(page.locator(".item")).to_have_count(36)
        assert "t=" not in page.url
        classes = page.locator("#class option").all_text_contents()[1:]
        page.select_option("#class", classes[0])
        expect(page.locator(".item")).to_have_count(12)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator(".item").first.click()
        expect(page.locator("dialog .near .item").first).to_be_visible()
        page.keyboard.press("2")
        expect(page.locator("#told")).to_contain_text("1 moved")
        page.keyboard.press("x")
        expect(page.locator("#told")).to_contain_text("1 left out")
        page.keyboard.press("u")
        expect(page.locator("#told")).not_to_contain_text("left out")
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_be_hidden()
        browser.close()
    assert not wrong
    assert list(overlay.load(str(photos)).moved.values()) == [classes[1]]
