"""The website as a visitor meets it: `inflame serve` in its own process, and a real browser without any network."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the browser's driver


@pytest.fixture
def site(serving: Any, fruit_bundle: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server of the fruit."""
    with serving(tmp_path, fruit_bundle) as (_, address):
        yield address


def test_one_gesture_gives_the_answer(browse: Callable[..., Any], photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page.set_input_files("#file", photo_set / "lime" / "lime_11.jpg")
    expect(page.locator(".verdict h2")).to_have_text("lime")
    expect(page.locator(".sure")).to_contain_text(re.compile(r"\d+\.\d %|> 99.9 %"))
    expect(page.locator(".bars tbody tr")).to_have_count(3)
    expect(page.locator(".near li").first).to_contain_text("lime")
    expect(page.locator(".heat img")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    near, heat = (page.locator(name).bounding_box()["y"] for name in (".near", ".heat"))
    assert near < heat
    page.get_by_role("button", name="This is right").click()
    expect(page.locator(".thanks")).to_contain_text("kept")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".opinion")).to_contain_text("Taken back")
    expect(page.locator("#history li")).to_have_count(1)
    page.reload()
    expect(page.locator("#history li")).to_contain_text("lime")
    page.get_by_role("button", name="Remove lime").click()
    expect(page.locator("#history")).to_be_hidden()


def test_drop_paste_camera_examples_and_many(browse: Callable[..., Any], photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse()
    content = list((photo_set / "plum" / "plum_09.jpg").read_bytes())
    hold = """(bytes) => { const d = new DataTransfer();
        d.items.add(new File([new Uint8Array(bytes)], "<img src=x onerror=window.pwned=1>.jpg", {type: "image/jpeg"}));
        return d; }"""
    transfer = page.evaluate_handle(hold, content)
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator(".verdict h2")).to_have_text("plum")
    assert "<img src=x" in page.locator(".answer").get_attribute("data-name")
    page.evaluate(
        f"(bytes) => document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: ({hold})(bytes)}}))",
        list((photo_set / "apple" / "apple_09.jpg").read_bytes()),
    )
    expect(page.locator(".verdict h2")).to_have_text("apple")
    page.get_by_role("button", name="Use the camera").click()
    while not page.evaluate("document.querySelector('video').videoWidth"):
        page.wait_for_timeout(50)
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#history li")).to_have_count(3)
    page.locator(".examples button").first.click()
    expect(page.locator("#history li")).to_have_count(4)
    files = [photo_set / name / f"{name}_10.jpg" for name in ("apple", "lime", "plum")]
    page.set_input_files("#file", [*files, Path(__file__)])
    expect(page.locator(".many tbody tr")).to_have_count(4)
    expect(page.locator(".many .trouble")).to_have_count(1)
    with page.expect_download() as got:
        page.get_by_role("link", name="Download as CSV").click()
    lines = Path(got.value.path()).read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:4]] == ["apple", "lime", "plum"]
    assert page.evaluate("window.pwned") is None


def test_what_is_like_nothing_is_remembered_as_that(browse: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image
    from playwright.sync_api import expect

    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    page = browse(viewport={"width": 390, "height": 800})
    page.evaluate("""localStorage.setItem("inflame-history", '[{"id": "a", "label": "lime", "percent": "91.0"}]')""")
    page.set_input_files("#file", tmp_path / "black.png")
    expect(page.locator("#history li span")).to_have_text(["unlike anything seen", "lime · 91.0 %"])
    page.set_input_files("#file", [tmp_path / "black.png", Path(__file__)])
    expect(page.locator(".many tbody tr")).to_have_count(2)
    assert page.locator(".many img").bounding_box()["width"] >= 40


def test_without_scripts(browse: Callable[..., Any], photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse(java_script_enabled=False, viewport={"width": 390, "height": 640})
    expect(page.locator(".drag")).to_be_hidden()  # neither dropping nor pasting is to be had
    page.set_input_files("#file", photo_set / "apple" / "apple_11.jpg")
    page.get_by_role("button", name="Name it").click()
    expect(page.locator(".verdict h2")).to_have_text("apple")
    expect(page.locator("#answers img.shown")).to_be_in_viewport()  # the new page begins there
    expect(page.locator(".near li").first).to_be_visible()
    page.get_by_text("This is wrong").click()
    page.select_option("select[name=label]", "plum")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".thanks")).to_be_visible()
    page.goto(page.url.replace("/feedback", "/ask?q=How+good+is+this+model"))
    expect(page.locator(".reply")).to_contain_text("99.0 %")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_nothing_is_in_the_way_of_anyone(
    browse: Callable[..., Any], fits: Callable[[Any, str], None], photo_set: Path, site: str, scheme: str, width: int
) -> None:
    page = browse(color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    fits(page, "front")
    page.set_input_files("#file", photo_set / "lime" / "lime_10.jpg")
    page.wait_for_selector(".heat")
    page.get_by_text("Use from code").click()
    page.get_by_text("This is wrong").click()
    fits(page, "answer")
    page.set_input_files("#file", [photo_set / "lime" / "lime_10.jpg", Path(__file__)])
    page.wait_for_selector(".many")
    fits(page, "many")
    page.set_input_files("#file", Path(__file__))
    page.wait_for_selector(".problem")
    fits(page, "problem")
    browse.wrong.clear()  # type: ignore[attr-defined] # the browser reports the 415 that was asked for
    for name, path in {"model": "about", "docs": "docs", "ask": "ask?q=How+good+is+it", "token": "token"}.items():
        page.goto(site + path)
        fits(page, name)
    page.goto(f"{site}?lang=de")
    fits(page, "german")


def test_a_talk(browse: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = browse("ask")
    page.fill("#question", "How good is this model?")
    page.keyboard.press("Enter")
    expect(page.locator(".reply")).to_contain_text("99.0 %")
    expect(page.locator(".sources li").first).to_contain_text("card of this model")
    expect(page.locator(".turn .badge")).to_have_text("offline")
    page.fill("#question", "Who won the world cup?")
    with page.expect_request("**/v1/chat") as asked:
        page.keyboard.press("Enter")
    assert asked.value.post_data_json["topic"] == "this model"  # what "it" would be
    expect(page.locator(".reply").nth(1)).to_contain_text("I only know about")
    page.get_by_role("button", name="This helps").first.click()
    expect(page.locator(".turn").first).to_contain_text("Thank you.")
    page.get_by_role("button", name="I learned something.").click()
    expect(page.locator(".reasons")).to_have_count(0)
    page.get_by_role("button", name="This doesn't help").click()
    page.get_by_label("In your own words").fill("<img src=x onerror=window.pwned=1>")
    page.keyboard.press("Enter")
    expect(page.locator(".reasons")).to_have_count(0)
    page.goto(page.url.replace("/ask", "/monitor"))
    said = page.locator("#chat-said")
    expect(said).to_contain_text("It helped 1 times, and 1 times it did not.")
    expect(said.locator("q")).to_have_text(["<img src=x onerror=window.pwned=1>", "I learned something."])
    assert page.evaluate("window.pwned") is None


@pytest.fixture
def breaking_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An endpoint that words the answers of the sites to come: it says one sentence, and hangs up in the next."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            piece = {"choices": [{"delta": {"content": "In a test accuracy was 99.0 % [1]. Moreover"}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("INFLAME_CHAT_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
        monkeypatch.setenv("INFLAME_CHAT_MODEL", "tiny")
        yield
        server.shutdown()
        thread.join()


def test_an_answer_that_breaks_off_is_not_shown_as_whole(breaking_off: None, browse: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    page = browse("ask")
    expect(page.locator(".badge")).to_have_count(0)
    page.fill("#question", "How good is this model?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .badge")).to_have_text(["worded by tiny", "offline"])
    expect(page.locator(".reply").first).to_have_text("In a test accuracy was 99.0 %. 1")
    expect(page.locator(".cut")).to_have_text("The answer broke off. Here are the facts themselves.")
    expect(page.locator(".reply").nth(1)).to_contain_text("Test accuracy 99.0 % (in a test).")
    tops = [page.locator(one).first.bounding_box()["y"] for one in (".reply", ".badge", ".cut", ".reply >> nth=1")]
    assert tops == sorted(tops)
    page.goto(page.url + "?q=How+good+is+this+model")  # what a browser without scripts gets
    expect(page.locator(".badge")).to_have_text("offline")


def test_a_shared_link_has_no_metadata_and_ends(browse: Callable[..., Any], site: str, tmp_path: Path) -> None:
    from PIL import Image
    from playwright.sync_api import expect

    image = Image.new("RGB", (80, 60), (200, 50, 50))
    exif = image.getexif()
    exif[0x010E] = "SECRET-PLACE"
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    page = browse()
    page.set_input_files("#file", tmp_path / "turned.jpg")
    page.get_by_text("Share by a link").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("[data-share] a").get_attribute("href")
    other = httpx.get(link, trust_env=False).text
    import base64

    picture = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", other)[1])  # type: ignore[index]
    assert b"SECRET-PLACE" not in picture
    assert b"Exif" not in picture
    width, height = Image.open(__import__("io").BytesIO(picture)).size
    assert height > width  # upright
    page.get_by_role("button", name="End it now").click()
    expect(page.locator("[data-share]")).to_contain_text("has ended")
    assert httpx.get(link, trust_env=False).status_code == 404


@pytest.mark.parametrize(("scripts", "width"), [(True, 390), (False, 1280)], ids=["phone", "without scripts"])
def test_the_owner_names_things_and_sees_what_happened(
    browse: Callable[..., Any],
    fits: Callable[[Any, str], None],
    site: str,
    photo_set: Path,
    scripts: bool,
    width: int,
) -> None:
    from playwright.sync_api import expect

    for name in ("lime", "plum"):
        content = (photo_set / name / f"{name}_11.jpg").read_bytes()
        httpx.post(f"{site}v1/classify", files={"file": content}, data={"keep": "1"}, trust_env=False)
    page = browse("review", viewport={"width": width, "height": 800}, java_script_enabled=scripts)

    def press(key: str) -> None:
        if scripts:
            page.locator("html.scripted").wait_for()
            page.keyboard.press(key)
        else:
            page.locator(f"[data-key='{key}']").click()

    page.get_by_label("Your name").fill("Ann")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".lead")).to_contain_text("2 to look at")
    expect(page.locator(".thing img")).to_be_visible()
    first = page.locator(".task").get_attribute("data-answer")
    page.get_by_label("A remark").press("1")  # typed, no key
    page.locator("h1").click()
    press("1")
    expect(page.locator(".lead")).to_contain_text("1 to look at")
    press("u")
    expect(page.locator(".task")).to_have_attribute("data-answer", first)
    for left in (1, 0):
        press("0")
        expect(page.locator(".lead")).to_contain_text(f"{left} to look at")
    expect(page.locator(".answer")).to_contain_text("Nothing more to look at")
    if scripts:  # what looks at the page is a script
        fits(page, "review-done")
    page.goto(f"{site}monitor")
    expect(page.locator("svg.chart").first).to_be_visible()
    if scripts:
        fits(page, "monitor-two")


def test_no_server_listens_to_others_without_a_token(fruit_bundle: Path) -> None:
    command = [sys.executable, "-m", "inflame", "serve", str(fruit_bundle), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "INFLAME_WEB_TOKEN" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cards", "nowhere"], "no folder with cards"),
        (["--port", "99999"], "is no port"),
        (["--prot", "1"], 'Did you mean "--port"'),
    ],
)
def test_wrong_words_are_told(fruit_bundle: Path, words: list[str], told: str) -> None:
    command = [sys.executable, "-m", "inflame", "serve", str(fruit_bundle), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_it_needs_no_torch_starts_soon_and_stops_well(
    serving: Any, fruit_bundle: Path, photo_set: Path, tmp_path: Path
) -> None:
    import time
    from concurrent.futures import ThreadPoolExecutor

    began = time.monotonic()
    with serving(tmp_path, fruit_bundle) as (process, address):
        assert time.monotonic() - began < 10
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text()
        content = (photo_set / "apple" / "apple_01.jpg").read_bytes()

        client = httpx.Client(trust_env=False, timeout=20)

        def ask(_: int) -> int:
            try:
                return client.post(f"{address}v1/classify", files={"file": content}).status_code
            except httpx.TransportError:
                return 0  # it had not been accepted

        with client, ThreadPoolExecutor(8) as pool:
            replies = [pool.submit(ask, number) for number in range(200)]
            while sum(reply.done() for reply in replies) < 20:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            codes = {reply.result() for reply in replies}
        assert codes <= {200, 503, 0}
        assert 200 in codes
        assert process.wait(15) == 0
