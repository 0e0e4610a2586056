"""The pictures of docs/screenshots.md, by hand: `python docs/shots.py` (needs playwright and a chromium).

Everything on them is from real runs, made here in a few minutes: of flowers that this script draws, and of the digits
that come with scikit-learn. Neither is anybody's property.
"""
# ruff: noqa: T201

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures" / "shots"
CHROMIUM = next(path for name in ("chromium", "chromium-browser") if (path := shutil.which(name)))
KINDS = {"daisy": (12, "white", "gold"), "poppy": (5, "firebrick", "black"), "violet": (5, "slateblue", "gold")}
EACH = 120
CARD = """# {name}
names: {name}s

## look
- {look} [1]

## sources
1. docs/shots.py, which draws it | own words, MIT
"""
LOOKS = {
    "daisy": "A daisy has twelve narrow white petals around a golden heart.",
    "poppy": "A poppy has five broad red petals around a black heart.",
    "violet": "A violet has five broad blue petals around a golden heart.",
}
TERMINAL = """<!doctype html><meta charset=utf-8><style>body{{margin:0;background:#1d1f21;color:#d8dadb;
font:15px/1.45 "DejaVu Sans Mono",monospace;padding:20px 24px}}pre{{margin:0;white-space:pre-wrap}}
div{{padding-left:9ch;text-indent:-9ch}}b{{color:#ff8a50}}
</style><pre>{}</pre>"""
NOTEBOOK = """<!doctype html><meta charset=utf-8><style>body{{margin:0;padding:16px 24px;font:14px sans-serif;
max-width:900px}}pre{{background:#f4f4f4;border-left:4px solid #ff7043;padding:8px 12px;font:14px monospace}}
</style>{}"""


def main() -> None:
    """Makes all runs, then all pictures."""
    PICTURES.mkdir(exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, and by children too
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        os.chdir(place)
        os.environ |= {"HOME": place, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "104"}
        os.environ.pop("INFLAME_HOME", None)
        os.environ.pop("INFLAME_MIRROR", None)
        garden(Path("flowers"))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        data(page)
        model(page)
        website(page)
        phone = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="dark", device_scale_factor=1.5)
        with serving() as address:
            ask(phone, address, "flowers/daisy/007.jpg")
            shoot(phone, "phone")
        many(page)
        notebook(page)
        browser.close()
    total = sum(path.stat().st_size for path in PICTURES.glob("*.png"))
    print(f"{PICTURES}: {total / 1e6:.2f} MB")


# --- the data ------------------------------------------------------------------------------------


def garden(folder: Path) -> None:
    """A set of flowers with the faults that `check` is to find."""
    rng = np.random.default_rng(0)
    for name in KINDS:
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            flower(name, rng).save(folder / name / f"{number:03}.jpg", quality=90)
    shutil.copy(folder / "daisy" / "000.jpg", folder / "daisy" / "copy of 000.jpg")
    shutil.copy(folder / "violet" / "005.jpg", folder / "poppy" / "900.jpg")
    (folder / "poppy" / "901.jpg").write_bytes((folder / "poppy" / "001.jpg").read_bytes()[:900])
    (folder / "violet" / "902.jpg").write_text("<html>404 Not Found</html>")
    Image.open(folder / "daisy" / "003.jpg").resize((90, 90)).save(folder / "daisy" / "small 003.jpg", quality=60)


def flower(name: str, rng: np.random.Generator) -> Image.Image:
    """One flower on grass, somewhere, turned and lit somehow."""
    petals, colour, heart = KINDS[name]
    side = 640
    grass = rng.normal((70, 120, 50), 16, (14, 14, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(grass).resize((side, side), Image.Resampling.BICUBIC)
    centre, size = rng.uniform(0.38, 0.62, 2) * side, rng.uniform(0.2, 0.34) * side
    petal = Image.new("L", (side, side))
    wide = size * (0.16 if petals > 6 else 0.36)
    ImageDraw.Draw(petal).ellipse(
        (centre[0] - wide, centre[1] - size, centre[0] + wide, centre[1] - size * 0.1), fill=255
    )
    shade = Image.new("RGB", (side, side), colour)
    start = rng.uniform(0, 360)
    for number in range(petals):
        turned = petal.rotate(start + 360 * number / petals, center=tuple(centre))
        picture.paste(Image.blend(shade, Image.new("RGB", shade.size), 0.12 * (number % 2)), mask=turned)
    middle = size * 0.24
    box = (centre[0] - middle, centre[1] - middle, centre[0] + middle, centre[1] + middle)
    ImageDraw.Draw(picture).ellipse(box, fill=heart)
    small = picture.resize((160, 160), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    lit = np.asarray(small, float) * rng.uniform(0.75, 1.15) + rng.normal(0, 2, (160, 160, 3))
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


# --- the pages -----------------------------------------------------------------------------------


def data(page: Page) -> None:
    """What is said of the data."""
    inflame("check", "flowers", "--out", "found")
    page.goto(Path("found/check.html").absolute().as_uri())
    shoot(page, "check", whole=True)
    with running("look", "flowers") as address:
        page.goto(address)
        page.wait_for_selector(".item img")
        shoot(page, "look")


def model(page: Page) -> None:
    """What a training says while it runs, and its report."""
    said = inflame("train", "flowers", "--in", "40s")
    text = re.sub(rf"{re.escape(os.environ['HOME'])}/", "~/", said)
    lines = [html.escape(line) for line in ["$ inflame train flowers --in 40s", *text.splitlines()]]
    coloured = [re.sub(r"^(\w+)( +)", r"<b>\1</b>\2", line) for line in lines]
    page.set_content(TERMINAL.format("".join(f"<div>{line}</div>" for line in coloured)))
    shoot(page, "training", whole=True)
    inflame("monitor", "learn", "--model", "auto-flowers-001", "--in", "6s")
    page.goto(Path(".inflame/runs/auto-flowers-001/report.html").absolute().as_uri())
    shoot(page, "report")


def website(page: Page) -> None:
    """Answers, the chat, and what the monitor makes of two days of light and one of dusk."""
    with serving() as address:
        ask(page, address, "flowers/poppy/011.jpg")
        shoot(page, "result")
        noise = np.random.default_rng(1).integers(0, 255, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save("noise.png")
        ask(page, address, "noise.png")
        shoot(page, "unknown")
        ask(page, address, "flowers/daisy/012.jpg")
        page.get_by_role("link", name="Ask about it").or_(page.get_by_text("sk about it")).first.click()
        page.wait_for_selector("#question")
        for question in ("What does a daisy look like?", "How good is this model?"):
            page.fill("#question", question)
            page.keyboard.press("Enter")
            page.wait_for_timeout(1500)
        shoot(page, "chat")
        rng = np.random.default_rng(5)
        for number in range(90):
            name = list(KINDS)[number % 3]
            picture = flower(name, rng)
            if number >= 60:  # the light changes
                picture = Image.fromarray((np.asarray(picture) * 0.45).astype(np.uint8)).convert("L").convert("RGB")
            picture.save("asked.jpg", quality=90)
            send(address, Path("asked.jpg"))
        inflame("monitor", "--window", "30", code=(0, 1))
        page.goto(f"{address}monitor")
        shoot(page, "monitor", whole=True)


def many(page: Page) -> None:
    """A sweep of digits: who is best, and why."""
    inflame("sweep", "mnist", "hyperparam.learning_rate=interval(1e-3,1e-1)", "hyperparam.batch_size=32,64,128,256",
            "hyperparam.ema=0,0.99", "--in", "100s", "in=5s", "--no-stopping", "--sampler", "qmc")  # fmt: skip
    for words in (("board", "--sweep", "mnist-001"), ("why", "mnist-001")):
        inflame(*words, "--html", f"{words[0]}.html")
        page.goto(Path(f"{words[0]}.html").absolute().as_uri())
        shoot(page, words[0])


def notebook(page: Page) -> None:
    """The cells of `docs/python.md`, with what a notebook shows of them."""
    import inflame

    model = inflame.open("auto-flowers-001")
    cells = {
        'import inflame\n\nmodel = inflame.open("auto-flowers-001")\nmodel.test()': model.test(),
        'model("flowers/violet/017.jpg")': model("flowers/violet/017.jpg"),
        "model.examples()": model.examples(),
    }
    told = (f"<pre>{html.escape(code)}</pre>{shown._repr_html_()}" for code, shown in cells.items())
    page.set_content(NOTEBOOK.format("".join(told)))
    shoot(page, "notebook")


# --- how -----------------------------------------------------------------------------------------


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """A picture of what the window shows, or of the whole page, in few colours."""
    page.wait_for_timeout(600)
    file = PICTURES / f"{name}.png"
    page.screenshot(path=file, full_page=whole)
    picture = Image.open(file).convert("RGB")
    if picture.height > 1200:
        picture = picture.crop((0, 0, picture.width, 1200))
    picture.quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)
    print(name, picture.size, f"{file.stat().st_size / 1000:.0f} kB", flush=True)


def ask(page: Page, address: str, file: str) -> None:
    """Gives the website a picture, and waits for all that the answer shows."""
    page.goto(address)
    page.set_input_files("#file", file)
    name_it = page.get_by_role("button", name="Name it")
    if name_it.is_visible():
        name_it.click()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2500)


def send(address: str, file: Path) -> None:
    """Asks the API, a second later where it says so."""
    request = urllib.request.Request(f"{address}v1/classify", file.read_bytes(), {"Content-Type": "image/jpeg"})
    try:
        urllib.request.urlopen(request, timeout=30).read()
    except urllib.error.HTTPError as error:
        if error.code != 429:
            raise
        time.sleep(1)


def inflame(*words: str, code: tuple[int, ...] = (0,)) -> str:
    """What the command says: on stderr, then on stdout."""
    done = subprocess.run([sys.executable, "-m", "inflame", *words], capture_output=True, text=True, check=False)
    if done.returncode not in code:
        raise SystemExit(f"inflame {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stderr + done.stdout


@contextmanager
def running(*words: str) -> Iterator[str]:
    """The address of a server, while it runs."""
    command = [sys.executable, "-m", "inflame", *words, "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextmanager
def serving() -> Iterator[str]:
    """The address of a website of the flowers, with cards about them."""
    Path("cards").mkdir(exist_ok=True)
    for name, look in LOOKS.items():
        Path("cards", f"{name}.md").write_text(CARD.format(name=name, look=look))
    with running("serve", "auto-flowers-001", "--cards", "cards") as address:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{address}readyz", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield address


if __name__ == "__main__":
    main()
