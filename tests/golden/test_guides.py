"""Every code block of the documentation is done, in the order of its page, by somebody with a home of their own.

A block without a language is for a shell: each line of it runs, or stands in `LEFT_OUT` with the reason. Where commands
have `$ ` before them the other lines are what they print. `text` is to be looked at; files (toml, yaml, cards) are read
by what reads them. The data are made here, under the names of the pages; `BEFORE` is what a reader has done already.
Trainings are given seconds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame import plugins
from inflame.cli.main import parser
from inflame.factory.costs import costs
from inflame.monitor import rules
from inflame.web import cards

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix(): path
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if path.name != "cli.md"  # which is the help of each verb, written by a test
}
LANGUAGES = {"", "python", "toml", "json", "text", "markdown", "yaml"}
QUICK = {"architecture.md", "http.md", "places.md"}

WEIGHTS = "needs a pretrained network, which the hub has"
INSTALLS = "installs packages from a registry, as the first job of CI does"
ACCOUNT = "sends jobs to a real account, which costs money"
LEFT_OUT = {  # page and beginning of the line: why it isn't run
    ("README.md", "make run"): INSTALLS,
    ("README.md", "make test"): "runs this test",
    ("README.md", "make install"): INSTALLS,
    ("README.md", "conda env create"): INSTALLS,
    ("README.md", "pip install"): INSTALLS,
    ("export.md", "inflame export --to browser"): "fetches a runtime: tests/e2e/test_browser.py does it where it is",
    ("monitor.md", "*/15 * * * *"): "a line for cron, not for a shell",
    ("monitor.md", "inflame inbox"): "asks people: tests/e2e/test_loop.py answers",
    ("monitor.md", "inflame monitor retrain"): "needs what people said: tests/e2e/test_loop.py has it",
    ("places.md", "INFLAME_LIVE=sagemaker"): ACCOUNT,
    ("sweeps.md", "inflame sweep ./my_birds"): ACCOUNT,
    ("trackers.md", "inflame runs --sync RUN --to clearml"): "needs a server of ClearML",
    ("training.md", "inflame train photos/ net=convnext_tiny"): WEIGHTS,
    ("training.md", "inflame train fowl_classifier io.training_input=photos/ net=torchvision:vgg16"): WEIGHTS,
    ("training.md", "inflame train butterfly_vgg16 weights=vgg16.notop.h5"): WEIGHTS,
    ("training.md", "torchrun --nnodes 2"): "needs two machines: tests/e2e/test_many.py has two processes",
    ("training.md", "python -m inflame.infra.ray_train 8"): "needs a cluster of that size",
    ("tutorials/first-model.md", "make install"): INSTALLS,
    ("tutorials/texts.md", "inflame train letters.csv weights=minilm/"): WEIGHTS,
    ("tutorials/web.md", "docker build"): "builds an image: tests/e2e/test_images.py does it",
    ("tutorials/web.md", "docker run"): "needs that image: tests/e2e/test_images.py does it",
}
SAGEMAKER = (
    """printf '[on.sagemaker]\\nrole = "arn:aws:iam::1:role/inflame"\\nregion = "us-east-1"\\n' > inflame.toml"""
)
JOB = "inflame launch mnist --on local --output ./there --no-rehearsal in=3s"
TRAINED = "inflame train birds --in 5s output=~/.inflame/runs/{}"
KEPT = "inflame version photos/ --json | python -c 'import json, sys; print(json.load(sys.stdin)[\"version\"])' > ~/{}"
UNTRAINED = """python -c "
import timm
from safetensors.torch import save_file
net = timm.create_model('resnet18')
save_file({name: value.contiguous() for name, value in net.state_dict().items()}, 'resnet18.mine.safetensors')
" """
BEFORE = {  # what a reader of the page has done by then
    "board.md": [
        *(f"inflame train digits --in 2s seed={seed}" for seed in range(3)),
        "inflame train mnist --in 2s",
        "inflame sweep mnist hyperparam.learning_rate=1e-3,1e-2,3e-2 in=2s",
        "inflame promote auto-digits-001 --as digits",
        "inflame promote auto-digits-002 --as digits --force --reason why",
        *(f"inflame train mnist --in 2s seed={n} output=~/.inflame/runs/a-00{n}" for n in (1, 2, 3)),
        *(
            f"inflame train mnist --in 2s hyperparam.learning_rate=1e-3 seed={n} output=~/.inflame/runs/b-00{n}"
            for n in (1, 2, 3)
        ),
    ],
    "data-versions.md": [
        f"git init -q && dvc init -q && cp {ROOT}/dvc.yaml {ROOT}/params.yaml .",
        KEPT.format("first"),
        "rm photos/turkey/bird00_000.jpg",
        KEPT.format("second"),
    ],
    "export.md": ["mkdir page", "inflame train letters.csv --in 3s", "inflame train photos --in 3s"],
    "machines.md": [SAGEMAKER, JOB],
    "monitor.md": [
        "inflame train birds --in 8s output=~/.inflame/runs/auto-photos-003",
        "inflame promote auto-photos-003 --as butterflies",
        "inflame monitor learn --model butterflies --in 3s",
    ],
    "training.md": [UNTRAINED],
    "tutorials/cloud.md": [JOB],
    "tutorials/drift.md": [
        *("inflame train birds --in 8s seed=1", "inflame train birds --in 8s seed=2"),
        *(
            "inflame monitor learn --model auto-birds-001 --in 3s",
            "inflame monitor learn --model auto-birds-002 --in 3s",
        ),
        *(
            "inflame promote auto-birds-001 --as birds",
            "inflame promote auto-birds-002 --as birds --force --reason why",
        ),
    ],
    "tutorials/first-model.md": ["mkdir ~/.zfunc"],
    "tutorials/web.md": [TRAINED.format("auto-birds-001")],
    "tutorials/your-photos.md": [TRAINED.format("auto-birds-001")],
    "website.md": [
        "cp -r birds butterflies && inflame train butterflies --in 5s",
        "inflame train photos --in 5s output=~/.inflame/runs/auto-photos-007",
        "inflame train mnist --in 3s output=~/.inflame/runs/mnist-digits-002",
        "inflame train letters.csv --in 3s output=~/.inflame/runs/bbc-news",
        "inflame promote auto-photos-007 --as photos",
    ],
}
LOOP = f"""
import runpy, lightning, torch
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
batches = runpy.run_path("{ROOT}/tests/golden/test_first_losses.py")["Batches"]
def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
class TheirModule(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
train_loader, val_loader, mine = batches(), batches(), net()
learner = Learner(
    net=mine, criterion=torch.nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(mine.parameters(), 0.1), hooks=[],
    train_loader=train_loader, val_loader=val_loader, schedule=lambda progress: 1, device=One("cpu", threads=1),
)
"""
GIVEN = {"training.md": LOOP}  # what a block of Python speaks of
OTHERWISE = [  # the page, or all of them; what it says; what is said here
    ("", r"(--in |\bin=)\d+[smh]", r"\g<1>3s"),
    ("", r"^(inflame sweep.* --in )\w+", r"\g<1>15s"),
    ("", r"\bminutes=1\b", "minutes=0.05"),
    ("", r"\. \.venv/bin/activate", f". {Path(sys.executable).parent}/activate"),
    ("", r"^\.venv/bin/inflame", "inflame"),
    ("", r"\binflame get butterflies", "inflame get digits"),
    ("", r"^(inflame launch (?!.*--dry-run)[^#]*)", r"\1 --dry-run "),
    ("", r"^curl ", "curl -sS --fail-with-body "),
    ("README.md", "butterflies", "birds"),
    ("data-versions.md", "3f2a91", "$(cat ~/first)"),
    ("data-versions.md", "8c04d7", "$(cat ~/second)"),
    ("data-versions.md", "s3://bucket/versions", "../remote"),
    ("sweeps.md", "--seeds 5", "--seeds 2"),
    ("trackers.md", r"\bRUN\b", "auto-photos-001"),
    ("training.md", " … ", " io.training_input=photos/ weights=resnet18.mine.safetensors in=3s "),
    ("training.md", "--output runs/vgg", "--output runs/vgg hyperparam.size=32 hyperparam.num_epochs=1 limit=60"),
    ("website.md", "auto-butterflies-001 mnist", "auto-butterflies-001 bbc-news=bbc-news mnist"),
    ("website.md", "viceroy", "sport"),
    ("website.md", "^inflame people add anna.*", "openssl rand -base64 18 | inflame people add anna"),
    ("training.md", r"callbacks=\[\.\.\.\]", "callbacks=[]"),
]
NO = ("inflame doctor --on", "inflame monitor", "inflame promote", "inflame rehearse")  # may say no, and end with 1
SERVERS = re.compile(r"\binflame (serve|look)\b|python -m http\.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its page, the number of its first line there, its language."""

    page: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """The lines that a shell is given."""
        lines = self.text.splitlines()
        if any(line.startswith("$ ") for line in lines):
            return [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip()]


def blocks(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(page=page, line=text.count("\n", 0, found.start(2)) + 1, language=found[1], text=found[2])
        for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)^```", text, re.MULTILINE)
    ]


def left_out(page: str, line: str) -> bool:
    return any(of == page and line.startswith(words) for of, words in LEFT_OUT)


def all_of(*languages: str) -> list[Block]:
    return [block for found in BLOCKS.values() for block in found if block.language in languages]


BLOCKS = {page: found for page in PAGES if (found := blocks(page))}
SHELL = [
    (block.page, line)
    for found in BLOCKS.values()
    for block in found
    if not block.language
    for line in block.commands()
]


@dataclass(slots=True)
class Reader:
    """Somebody who does what a page says, in a folder with the data that it speaks of."""

    desk: Path
    page: str
    port: int = 0
    said: str = ""
    server: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def does(self, block: Block) -> None:
        where = f"{block.page}, line {block.line}"
        if block.language == "toml" and "[on." in block.text:
            (self.desk / "inflame.toml").write_text(block.text)
        elif block.language == "python":
            code = GIVEN.get(self.page, "") + self.otherwise(block.text)
            self.runs(shlex.join([sys.executable, "-c", code]), where)
        elif not block.language:
            for line in block.commands():
                if not left_out(self.page, line):
                    self.runs(self.otherwise(line), f"{where}: {line}")

    def runs(self, line: str, where: str) -> None:
        if SERVERS.search(line):
            self.serves(line, where)
            return
        done = subprocess.run(["bash", "-c", line], **self.place(), timeout=110)
        self.said = done.stdout
        no = line.startswith(NO)
        assert done.returncode in ((0, 1) if no else (0,)), f"{where}\n{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{where}\n{done.stderr}"

    def serves(self, line: str, where: str) -> None:
        """Starts a server, and waits until it answers; the one before ends."""
        self.ends()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        option = f" {self.port} " if "http.server" in line else f" --port {self.port} "
        line = re.sub(r"\s*(#.*)?$", f"{option}", line, count=1)
        self.server = subprocess.Popen(["bash", "-c", line], **self.place(), start_new_session=True)
        for _ in range(600):
            if self.server.poll() is not None:
                raise AssertionError(f"{where}\n{line}\n{self.server.communicate()}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10).read()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"{where}: no answer")

    def ends(self) -> None:
        if self.server is None:
            return
        assert self.server.poll() is None, self.server.communicate()
        os.killpg(self.server.pid, signal.SIGINT)
        try:
            _, said = self.server.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            raise
        assert "Traceback" not in said or "http.server" in said, said
        self.server = None

    def otherwise(self, line: str) -> str:
        for page, what, instead in OTHERWISE:
            if page in ("", self.page):
                line = re.sub(what, instead, line, flags=re.MULTILINE)
        if line.startswith("curl") and "…" in line and self.said.startswith("{"):
            line = line.replace("…", json.loads(self.said)["results"][0]["id"])
        return line.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")

    def place(self) -> dict[str, object]:
        return {"cwd": self.desk, "env": self.environment, "stdout": -1, "stderr": -1, "stdin": -3, "text": True}


def disc(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A photo of a disc on a ground of that colour."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    centre = rng.integers(16, 48, 2)
    pixels = np.array(colour) + rng.normal(0, 25, (64, 64, 3))
    pixels[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 150] *= 0.4
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = Image.Exif()
    taken.get_ifd(0x8769)[0x9003] = f"2026:05:{1 + seed % 28:02} {seed // 3 % 24:02}:{seed % 60:02}:00"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90, exif=taken)


COLOURS = {"turkey": (200, 60, 60), "chicken": (60, 190, 60)}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data that the pages name, made once."""
    desk = tmp_path_factory.mktemp("shelf")
    for index, (name, colour) in enumerate(COLOURS.items()):
        for number in range(150):
            disc(desk / "birds" / name / f"bird{number // 3:02}_{number:03}.jpg", colour, 100 * index + number)
        for number in range(30):
            disc(desk / "new_photos" / f"{name}{number}.jpg", (*colour[:2], 255), 1000 + 100 * index + number)
        disc(desk / "inbox" / f"{name}.jpg", colour, 2000 + index)
    shutil.copytree(desk / "birds", desk / "photos")
    for split, numbers in {"train": range(20), "test": range(20, 30)}.items():
        for name in COLOURS:
            for number in numbers:
                source = desk / "birds" / name / f"bird{number // 3:02}_{number:03}.jpg"
                (desk / "official" / split / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, desk / "official" / split / name)
    for name in ("new.jpg", "photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(desk / "inbox" / "turkey.jpg", desk / name)
    letters(desk)
    seven = np.zeros((8, 8), np.uint8)
    seven[0, 1:7], seven[range(1, 8), [6, 5, 5, 4, 4, 3, 3]] = 255, 255
    Image.fromarray(seven).save(desk / "seven.png")
    return desk


def letters(desk: Path) -> None:
    """The same texts as a table with times, as a table without a head, and as files."""
    rng = np.random.default_rng(0)
    rows = []
    for name, own in {"money": "bank share profit loan", "sport": "match goal team win draw"}.items():
        for number in range(60):
            text = " ".join(rng.choice([*own.split(), "the", f"w{number}"], 12))
            rows.append((text, name, f"2026-01-{1 + number % 28:02}T10:00:00"))
            (desk / "letters" / name).mkdir(parents=True, exist_ok=True)
            (desk / "letters" / name / f"{number}.txt").write_text(text)
    (desk / "letters.csv").write_text("\n".join(["text,label,time", *map(",".join, rows)]))
    (desk / "letters.tsv").write_text("".join(f"{n}\tx\t{text}\n" for n, (text, _, _) in enumerate(rows[::20])))


@pytest.fixture
def reader(shelf: Path, tmp_path: Path, _no_network: None) -> Iterator[Callable[[str], Reader]]:
    found: list[Reader] = []

    def of(page: str) -> Reader:
        desk = Path(shutil.copytree(shelf, tmp_path / "desk"))
        (tmp_path / "home").mkdir()
        gone = ("INFLAME_HOME", "INFLAME_MIRROR", "INFLAME_STARTED", "PYTHONPATH")
        new = Reader(desk=desk, page=page)
        new.environment = {name: value for name, value in os.environ.items() if name not in gone} | {
            "HOME": str(tmp_path / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "BROWSER": "true",  # a page is opened by doing nothing
            "WANDB_MODE": "offline",
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
        }
        (tmp_path / "gitconfig").write_text("[user]\nname = ann\nemail = ann@example.org\n")
        found.append(new)
        return new

    yield of
    for one in found:
        one.ends()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page in QUICK else pytest.mark.slow) for page in BLOCKS]
)
def test_what_a_page_says_can_be_done(page: str, reader: Callable[[str], Reader]) -> None:
    person = reader(page)
    for line in BEFORE.get(page, []):
        person.runs(line, f"before {page}: {line}")
    for block in BLOCKS[page]:
        person.does(block)


def test_every_block_is_of_a_kind_that_is_done_here() -> None:
    assert [
        (block.page, block.line) for found in BLOCKS.values() for block in found if block.language not in LANGUAGES
    ] == []
    assert len(SHELL) > 60


@pytest.mark.parametrize(("page", "words"), LEFT_OUT)
def test_what_is_left_out_is_there(page: str, words: str) -> None:
    assert any(of == page and line.startswith(words) for of, line in SHELL), "no block has this line any more"


@pytest.mark.parametrize("line", sorted({line for _, line in SHELL if line.startswith("inflame ")}))
def test_inflame_understands_a_line(line: str) -> None:
    _, verb, *words = shlex.split(re.split(r"\s#|\s[>|&]", line)[0])
    parser(verb).understand([word for word in words if word != "…"])


@pytest.mark.parametrize(
    "block",
    all_of("json"),
    ids=lambda block: f"{block.page}:{block.line}",
)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_a_card_is_one_that_a_website_takes() -> None:
    read = {"markdown": cards.parse, "yaml": cards.parse_yaml}
    found = [(block, read[block.language](block.text)) for block in all_of("markdown", "yaml")]
    assert {block.page for block, _ in found} == {"website.md"}, "say here who reads it"
    assert {card.about for _, card in found} == {"monarch"}


def test_every_toml_is_one_that_inflame_reads(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read = 0
    for block in all_of("toml"):
        told, read = tomllib.loads(block.text), read + 1
        if block.page == "board.md":
            (home / "costs.toml").write_text(block.text)
            assert {name: getattr(costs(), name) for name in told} == told
        elif "on" in told:
            (tmp_path / "inflame.toml").write_text(block.text)
            for name, values in told["on"].items():
                assert plugins.load("launcher", name)().settings.items() >= values.items()
        else:
            assert block.page == "monitor.md", "say here who reads it"
            (tmp_path / "conf").mkdir()
            (tmp_path / "conf" / "monitor.toml").write_text(block.text)
            assert rules.load().to == tuple(told["to"])
    assert read >= 3
