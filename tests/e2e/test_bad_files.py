"""The 50 bad files of the shared data: what each should do, in check, train and predict."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inflame.artifact import examining

# What a reason must say of a file that is refused, by what the list expects and what the file is.
SAID = {
    "empty.jpg": "the file is empty",
    "truncated_jpeg.jpg": "truncated",
    "timeout-6646305047838720": "truncated",
    "png_decompression_dos.png": "unpacks without bound",
    "text_named.jpg": "not a picture but a text",
    "html_named_gif.gif": "web page",
    "hopper.heif": "inflame[heic]",
}
EXPECTED = {"reject: too large": "pixels", "reject: corrupt": "damaged", "reject: not an image": "not a picture"}


@pytest.fixture
def listed(mirror: Path) -> list[dict[str, str]]:
    """The rows of the list."""
    with (mirror / "bad_inputs" / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def mixed(mirror: Path, photos: Path) -> Path:
    """Good photos, and the bad files as a class of their own."""
    shutil.copytree(mirror / "bad_inputs" / "files", photos / "odd")
    return photos


def refused(row: dict[str, str]) -> bool | None:
    """Whether the file must be refused; None where either is right."""
    return None if row["expected"].startswith(("either", "optional")) else row["expected"].startswith("reject")


def test_check_names_what_is_wrong_with_each(mixed: Path, listed: list[dict[str, str]]) -> None:
    found = examining.check(mixed)
    reasons: dict[str, str] = {}
    kinds: dict[str, set[str]] = {}
    for fault in found.faults:
        for item in fault.items:
            kinds.setdefault(Path(item).name, set()).add(fault.kind)
            if fault.kind in ("unreadable", "junk"):
                reasons[Path(item).name] = fault.reason
    for row in listed:
        name, wanted = row["file"], refused(row)
        if wanted is not None:
            assert (name in reasons) == wanted, name
        if name in reasons:
            assert SAID.get(name, EXPECTED.get(row["expected"], "")) in reasons[name], (name, reasons[name])
        if row["category"] == "orientation":
            assert "rotated" in kinds[name], name
    assert "blank" in kinds["multipage.tiff"]
    assert not kinds.get("hopper_gray.jpg", set()) & {"unreadable", "odd_mode"}


@pytest.mark.slow
def test_train_leaves_the_bad_ones_out_and_predict_answers_the_others(
    mixed: Path, listed: list[dict[str, str]]
) -> None:
    done = inflame("train", mixed, "hyperparam.num_epochs=1", "--json")
    run = Path(json.loads(done.stdout.splitlines()[-1])["run"])
    faults = json.loads((run / "dataset.json").read_text())["faults"]
    out = {Path(item).name for fault in faults if fault["kind"] in ("unreadable", "junk") for item in fault["items"]}
    for row in listed:
        assert refused(row) in (None, row["file"] in out), row["file"]
    files = [str(mixed / "odd" / row["file"]) for row in listed]
    done = inflame("predict", *files, "--json", code=1)  # some could not be read
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(files)
    for row, answer in zip(listed, answers, strict=True):
        assert refused(row) in (None, "error" in answer), answer
        assert "error" in answer or 0 <= float(answer["probability"]) <= 1
    inflame("predict", mixed / "odd" / "flower2.webp", mixed / "odd" / "hopper.bmp")


def inflame(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; its exit code and that it shows no traceback are checked."""
    command = [sys.executable, "-m", "inflame", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done
