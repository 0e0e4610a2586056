"""Visitors whose ways are not smooth: by keyboard, by touch, over a slow line, over one that breaks; who draw, or type
a text; kinds and files with names that are traps; and each page in light and dark, wide and narrow."""

from __future__ import annotations

import math
import re
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the browser's driver

Browse = Callable[..., Any]
Fits = Callable[[Any, str], None]
TRAPS = {
    "apple": "<img src=x onerror=window.pwned=1>",
    "lime": "\u202etxet eht snrut {a} {{7*7}}' onmouseover='window.pwned=1",
    "plum": "very_long_" + "and_longer_" * 20 + "<script>window.pwned=1<",
}


@pytest.fixture(scope="module")
def site(
    serving: Any,
    bundle_of: Callable[..., Path],
    fruit_bundle: Path,
    letters_bundle: Path,
    photo_set: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A site of four models: fruit, letters (texts), digits that can be drawn, and traps: fruit with such names."""
    folder = tmp_path_factory.mktemp("site")
    for name, trap in TRAPS.items():
        shutil.copytree(photo_set / name, folder / "trap photos" / trap)
    _write_digits(folder / "digit pictures")
    traps = bundle_of(folder / "trap photos", folder / "traps", "traps")
    digits = bundle_of(folder / "digit pictures", folder / "digits", "digits", channels=1, size=28)
    with serving(folder, fruit_bundle, letters_bundle, digits, traps) as (_, address):
        yield address
    assert "Traceback" not in (folder / "server.log").read_text()


def _write_digits(root: Path) -> None:
    """White on black, as wide as digits of MNIST, each a little elsewhere."""
    rng = np.random.default_rng(0)
    for name in "017":
        (root / name).mkdir(parents=True)
        for number in range(12):
            image, (x, y) = Image.new("L", (28, 28)), rng.integers(-1, 2, 2)
            pen = ImageDraw.Draw(image)
            if name == "0":
                pen.ellipse((5 + x, 4 + y, 22 + x, 23 + y), outline=255, width=3)
            else:
                pen.line((14 + x, 4 + y, 14 + x, 23 + y) if name == "1" else (21 + x, 4 + y, 11 + x, 23 + y), 255, 3)
                pen.line((6 + x, 4 + y, 21 + x, 4 + y), 255, 3 if name == "7" else 0)
            pixels = np.asarray(image) * (name != "1" or np.abs(np.arange(28) - 14 - x) < 4)
            Image.fromarray(np.clip(pixels + rng.normal(0, 6, (28, 28)), 0, 255).astype(np.uint8)).save(
                root / name / f"{name}_{number:02}.png"
            )


def _choose(page: Any, file: Path) -> None:
    """As a hand does it: the same file can be chosen again."""
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose pictures").click()
    chooser.value.set_files(file)


def _run(page: Any) -> str:
    """Runs the shown JavaScript where it is shown: the label that it gets."""
    code = page.locator(".code pre").nth(2).text_content()
    assert code.startswith("//")
    return str(page.evaluate(f"(async () => {{ {code}\nreturn said.label; }})()"))


def test_the_shown_javascript_asks_again(browse: Browse, site: str, photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse("?model=traps")
    page.set_input_files("#file", photo_set / "plum" / "plum_10.jpg")
    expect(page.locator(".verdict h2")).to_contain_text("very long")
    assert _run(page) == TRAPS["plum"]
    page.locator(".examples button").nth(1).click()
    expect(page.locator("#history li")).to_have_count(2)
    assert _run(page) == page.locator(".answer").get_attribute("data-label")
    page.goto(f"{site}?model=letters")
    page.fill("#text", 'the "bank"\nhas a loan </code><script>window.pwned=1</script>')
    page.get_by_role("button", name="Name it").click()
    expect(page.locator(".verdict h2")).to_have_text("money")
    assert _run(page) == "money"
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_a_text_is_named_and_its_words_are_weighed(browse: Browse, fits: Fits, site: str, scripts: bool) -> None:
    from playwright.sync_api import expect

    page = browse("?model=letters", java_script_enabled=scripts)
    text = "The coach has a goal: to win. " + "Nobody knows. " * 30
    page.get_by_label("Your text").fill(text)
    page.get_by_label("may be kept").check()
    page.get_by_role("button", name="Name it").click()
    expect(page.locator(".verdict h2")).to_have_text("sport")
    expect(page.locator("mark[class^=for]").first).to_be_visible()
    assert {"coach", "goal", "win"} <= set(page.locator("mark[class^=for]").all_text_contents())
    expect(page.locator(".near blockquote").first).to_be_visible()
    expect(page.locator(".about blockquote")).to_have_text(re.compile("^The coach has .* …$"))
    assert page.locator("[data-share]").is_hidden()
    if scripts:
        expect(page.locator("#history li q")).to_contain_text("The coach has a goal")
        fits(page, "text")
    else:
        assert page.get_by_label("Your text").input_value() == text
    page.get_by_role("button", name="This is right").click()
    expect(page.locator(".thanks")).to_contain_text("kept")
    page.goto(f"{site}?model=letters")
    page.locator(".examples button").first.click()
    expect(page.locator(".verdict h2")).to_have_text(re.compile("money|sport"))
    page.goto(f"{site}review?model=letters")
    page.get_by_label("Your name").fill("Ann")
    page.get_by_role("button", name="Begin").click()
    if page.locator(".task").count():  # what was found right may have been named by the other way round already
        expect(page.locator(".task blockquote")).to_contain_text("The coach has a goal")
        if scripts:
            fits(page, "review-text")
        page.locator("[data-key='1']").click()
        page.goto(f"{site}review?model=letters")
    expect(page.locator(".lead").first).to_contain_text("0 to look at")


def test_a_digit_is_drawn_with_the_mouse(browse: Browse, fits: Fits, site: str) -> None:
    from playwright.sync_api import expect

    page = browse("?model=digits")
    page.get_by_role("button", name="Draw").click()

    def draw(*points: tuple[float, float]) -> None:
        page.locator("#pad").scroll_into_view_if_needed()
        box = page.locator("#pad canvas").bounding_box()  # an answer may have moved it
        for number, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if not number:
                page.mouse.down()
        page.mouse.up()

    draw((0.5, 0.2), (0.5, 0.8))
    expect(page.locator(".answer")).to_have_attribute("data-label", "1")
    page.get_by_role("button", name="Wipe").click()
    turns = [2 * math.pi * step / 24 for step in range(25)]
    draw(*[(0.5 + 0.28 * math.sin(turn), 0.5 - 0.32 * math.cos(turn)) for turn in turns])
    expect(page.locator(".answer")).to_have_attribute("data-label", "0")
    fits(page, "drawing")
    assert _run(page) == "0"


def test_the_whole_journey_by_keyboard(browse: Browse, photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse()

    def tab(wanted: str, most: int) -> None:
        """Presses Tab until that is focused."""
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.locator(wanted).and_(page.locator(":focus")).count():
                return
        raise AssertionError(f"{wanted} isn't reached; {page.evaluate('document.activeElement.outerHTML')[:200]}")

    tab(".skip", 1)
    page.keyboard.press("Enter")
    tab("#file", 4)  # by way of the choice of a model
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(photo_set / "apple" / "apple_11.jpg")
    expect(page.locator(".verdict h2")).to_have_text("apple")
    expect(page.locator(".near li").first).to_be_visible()
    tab("button[value=right]", 20)
    page.keyboard.press("Enter")
    expect(page.locator(".thanks")).to_be_visible()
    tab(".thanks button", 2)
    page.keyboard.press("Enter")
    expect(page.locator(".opinion")).to_contain_text("Taken back")
    tab("a[href^='/ask?about']", 2)
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_visible()
    tab("#question", 20)
    page.keyboard.type("How good is this model?")
    page.keyboard.press("Enter")
    expect(page.locator(".reply")).to_contain_text("99.0 %")


def test_a_phone_with_a_finger(browse: Browse, fits: Fits, photo_set: Path) -> None:
    from playwright.sync_api import expect

    page = browse(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose pictures").tap()
    chooser.value.set_files(photo_set / "lime" / "lime_11.jpg")
    expect(page.locator(".verdict h2")).to_have_text("lime")
    expect(page.locator(".heat img")).to_have_count(2)
    page.get_by_text("This is wrong").tap()
    page.select_option("select[name=label]", "plum")
    page.get_by_role("button", name="Send").tap()
    expect(page.locator(".thanks")).to_be_visible()
    fits(page, "phone-thanks")
    page.get_by_role("button", name="Undo").tap()
    expect(page.locator(".opinion")).to_contain_text("Taken back")
    page.get_by_text("Use from code").tap()
    page.get_by_role("link", name="Ask about it").tap()
    expect(page.locator(".subject")).to_be_visible()
    fits(page, "phone-ask")


# --- lines ---------------------------------------------------------------------------------------


@final
class Cutting:
    """A line to the site that breaks, while `after` is not None, when so many bytes went up on one connection."""

    def __init__(self, site: str) -> None:
        self.after: int | None = None
        self.cuts = 0
        self._target = ("127.0.0.1", int(site.rstrip("/").rpartition(":")[2]))
        self._ear = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._ear.getsockname()[1]}/"
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._ear.close()

    def _listen(self) -> None:
        while True:
            try:
                here, _ = self._ear.accept()
            except OSError:
                return
            there = socket.create_connection(self._target)
            threading.Thread(target=self._up, args=(here, there), daemon=True).start()
            threading.Thread(target=self._down, args=(there, here), daemon=True).start()

    def _up(self, here: socket.socket, there: socket.socket) -> None:
        sent = 0
        try:
            while content := here.recv(8192):
                sent += len(content)
                if self.after is not None and sent > self.after:
                    self.cuts += 1
                    for end in (here, there):  # at once, without a word
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                there.sendall(content)
        except OSError:
            pass
        here.close()
        there.close()

    def _down(self, there: socket.socket, here: socket.socket) -> None:
        try:
            while content := there.recv(65_536):
                here.sendall(content)
            here.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def _large(folder: Path) -> Path:
    """A photo of a lime in 120 kB."""
    rng = np.random.default_rng(3)
    pixels = np.clip(np.array((60, 190, 60)) + rng.normal(0, 25, (220, 220, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "large.png")
    return folder / "large.png"


def test_an_upload_that_is_cut_says_so_and_can_be_tried_again(browse: Browse, site: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    line = Cutting(site)
    page = browse(address=line.address)
    line.after = 60_000
    _choose(page, _large(tmp_path))
    expect(page.locator(".problem")).to_contain_text("The server doesn't answer", timeout=20_000)
    expect(page.locator("#busy")).not_to_have_class(re.compile("on"))
    assert line.cuts
    line.after = None
    _choose(page, tmp_path / "large.png")
    expect(page.locator(".verdict h2")).to_be_visible(timeout=20_000)
    assert httpx.get(f"{site}readyz", trust_env=False).status_code == 200
    browse.wrong[:] = [said for said in browse.wrong if "net::ERR_" not in said]  # type: ignore[attr-defined]
    line.close()


def test_on_a_slow_line_it_is_seen_that_something_happens_and_it_can_be_stopped(
    browse: Browse, fits: Fits, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = browse()
    link = page.context.new_cdp_session(page)
    link.send("Network.enable")
    slow = {"offline": False, "latency": 150, "downloadThroughput": 60_000, "uploadThroughput": 60_000}
    link.send("Network.emulateNetworkConditions", slow)
    _choose(page, _large(tmp_path))
    expect(page.locator("#busy")).to_contain_text("Looking")
    fits(page, "slow")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#busy")).to_have_text("")
    assert page.locator("#answers").text_content().strip() == ""
    _choose(page, tmp_path / "large.png")
    expect(page.locator("#busy")).to_contain_text("Looking")
    expect(page.locator(".verdict h2")).to_be_visible(timeout=30_000)
    expect(page.locator(".near li").first).to_be_visible(timeout=30_000)  # the picture goes up once more for that


# --- traps, and all pages ------------------------------------------------------------------------


def test_names_that_are_traps_are_text_wherever_they_stand(
    browse: Browse, fits: Fits, site: str, photo_set: Path
) -> None:
    from playwright.sync_api import expect

    model, made = "traps", []
    for name, trap in TRAPS.items():
        content = (photo_set / name / f"{name}_11.jpg").read_bytes()
        sent = {"file": (f"{trap}.jpg".replace("/", ""), content)}
        said = httpx.post(f"{site}v1/classify?model={model}&keep=1", files=sent, trust_env=False).json()["results"][0]
        assert said["label"] == trap
        made.append(said["id"])
    page = browse(f"?model={model}", viewport={"width": 390, "height": 800})
    fits(page, "traps-front")
    for name, trap in TRAPS.items():
        page.set_input_files(
            "#file",
            {
                "name": f"{trap}.jpg",
                "mimeType": "image/jpeg",
                "buffer": (photo_set / name / f"{name}_10.jpg").read_bytes(),
            },
        )
        expect(page.locator(".answer")).to_have_attribute("data-label", trap)
        expect(page.locator(".heat img")).to_have_count(2)
    page.get_by_text("This is wrong").click()
    page.get_by_text("Use from code").click()
    fits(page, "traps-answer")
    page.get_by_text("Share by a link").click()
    page.get_by_role("button", name="Make a link").click()
    page.goto(page.locator("[data-share] a").get_attribute("href"))
    fits(page, "traps-shared")
    for path in (f"ask?about={made[0]}&q=What+is+it", f"about?model={model}", f"monitor?model={model}"):
        page.goto(site + path)
        fits(page, f"traps-{path.partition('?')[0]}")
    page.goto(f"{site}review?model={model}")
    page.get_by_label("Your name").fill(TRAPS["apple"])
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".task")).to_be_visible()
    fits(page, "traps-review")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_pages_that_one_seldom_sees(
    browse: Browse, fits: Fits, site: str, photo_set: Path, scheme: str, width: int
) -> None:
    from playwright.sync_api import expect

    content = (photo_set / "lime" / "lime_11.jpg").read_bytes()
    said = httpx.post(f"{site}v1/classify?keep=1", files={"file": content}, trust_env=False).json()["results"][0]
    part = httpx.post(f"{site}share", data={"id": said["id"]}, files={"file": ("a.jpg", content)}, trust_env=False)
    link = re.search(r"/r/([\w-]+)", part.text)
    assert link is not None
    page = browse(f"r/{link[1]}", color_scheme=scheme, viewport={"width": width, "height": 900})
    expect(page.locator("h1")).to_have_text("lime")
    fits(page, "shared")
    httpx.post(f"{site}r/{link[1]}/end", trust_env=False)
    page.reload()
    expect(page.locator("h1")).to_contain_text("This link has ended")
    fits(page, "ended")
    browse.wrong.clear()  # type: ignore[attr-defined] # the browser reports the 404 that was asked for
    page.goto(f"{site}token")  # a page without scripts of ours: its forms are sent as those of a browser without any
    _send(page, "feedback", {"id": said["id"], "verdict": "right"})
    expect(page.locator("h1")).to_have_text("Thank you")
    fits(page, "thanks")
    page.goto(f"{site}token")
    _send(page, "", {"text": ""})
    expect(page.locator("h1")).to_contain_text("a picture missing")
    fits(page, "problem-page")
    browse.wrong.clear()  # type: ignore[attr-defined]
    page.goto(f"{site}review")
    fits(page, "review-name")
    page.get_by_label("Your name").fill(f"Ann {scheme} {width}")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator(".task")).to_be_visible()
    fits(page, "review")
    page.goto(f"{site}monitor")
    expect(page.locator("svg.chart").first).to_be_visible()
    fits(page, "monitor")


def _send(page: Any, path: str, fields: dict[str, str]) -> None:
    with page.expect_navigation():
        page.evaluate(
            """([path, fields]) => { const form = Object.assign(document.createElement("form"), { method: "post",
              action: "/" + path, enctype: path ? "application/x-www-form-urlencoded" : "multipart/form-data" });
              for (const [name, value] of Object.entries(fields))
                form.append(Object.assign(document.createElement("input"), { name, value, type: "hidden" }));
              document.body.append(form); form.submit(); }""",
            [path, fields],
        )
