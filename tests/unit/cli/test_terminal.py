"""What only a terminal shows, and what a check leaves out from now on."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from inflame import artifact
from inflame.cli import inbox
from inflame.cli.main import main


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (width, height), (10, 200, 30))
    image.paste((250, 0, 0), (0, 0, width, height // 2))
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (640, 64), (64, 640), (1, 300), (300, 1)])
def test_a_picture_is_drawn_in_colour_and_fits(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = list(inbox._drawn(png(width, height)))
    assert 1 <= len(rows) <= 16
    assert len({row.count("▀") for row in rows}) == 1
    assert 1 <= rows[0].count("▀") <= 56
    assert all(row.endswith("\x1b[0m") for row in rows)
    if height > 1:
        first, last = (re.findall(r"38;2;(\d+);(\d+)", row)[0] for row in (rows[0], rows[-1]))
        assert int(first[0]) > int(first[1]) or len(rows) == 1  # red above …
        assert int(last[1]) > int(last[0]) or len(rows) == 1  # … green
    (broken,) = inbox._drawn(png(64, 64)[:80])
    assert "▀" not in broken


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_where_there_are_no_colours_it_is_said_how_to_see_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv(name, value)
    (line,) = inbox._drawn(png(8, 8))
    assert "inflame inbox show" in line


def test_copies_and_blank_pictures_are_left_out_from_now_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path))  # nothing in it: simple features will do
    (photos / "plum/copy.jpg").write_bytes((photos / "plum/plum_00.jpg").read_bytes())
    Image.new("RGB", (64, 64), (7, 7, 7)).save(photos / "lime/blank.png")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    assert main(["check", str(photos), "--fix"]) == 0
    said = capsys.readouterr().out
    found = re.search(r"fixed  2 items are left out from now on: (\S+); delete that file to undo", said)
    assert found is not None, said
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before
    left = set(artifact.open(photos).items["uri"].to_pylist())
    assert len(left) == 36
    assert "lime/blank.png" not in left
    Path(found[1]).unlink()
    assert len(artifact.open(photos)) > 36


def test_what_a_place_lacks_is_told_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "SAGEMAKER_ROLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    code = main(["doctor", "--on", "sagemaker", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not told["ok"]
    assert [one for one in told["findings"] if one["state"] == "not ok"]
    assert main(["doctor", "--on", "sagemaker"]) == 1
    assert "not ok" in capsys.readouterr().out
    assert main(["doctor", "--on", "sagmaker"]) == 2
    assert "sagemaker" in capsys.readouterr().err
