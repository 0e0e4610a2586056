"""The whole examination: features, what is kept, and each kind of fault once from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import examining, features, packed, thumbs
from inflame.records import Check


class Counting:
    """Features of a picture: its mean colours in a 4 x 4 grid. Counts the pictures that it was shown."""

    size = 32

    def __init__(self, name: str = "grid", useless: bool = False) -> None:
        self.name, self.useless, self.shown = name, useless, 0

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        self.shown += len(squares)
        blocks = squares.reshape(len(squares), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(squares), -1) / 255
        return (np.ones_like(blocks) if self.useless else blocks).astype(np.float32)


def items(found: Check, kind: str) -> set[str]:
    return {item for fault in found.faults if fault.kind == kind for item in fault.items}


@pytest.fixture
def large(photos: Path) -> Path:
    """The photos at 128 x 128, so that nets for photos may look at them."""
    for path in photos.rglob("*.jpg"):
        with Image.open(path) as image:
            bigger = image.resize((128, 128), Image.Resampling.BICUBIC)
        bigger.save(path, quality=92)
    return photos


def test_wrong_folders_and_near_copies_are_found(large: Path) -> None:
    shutil.move(large / "apple" / "apple_03.jpg", large / "plum" / "apple_03.jpg")
    with Image.open(large / "lime" / "lime_05.jpg") as image:
        image.resize((90, 90)).save(large / "lime" / "again.png")
        image.resize((90, 90)).save(large / "plum" / "stray.jpg", quality=60)
    found = examining.check(large, embed=Counting())
    assert items(found, "suspected_label") >= {"plum/apple_03.jpg"}
    assert len(items(found, "suspected_label")) <= 3
    near = [set(fault.items) for fault in found.faults if fault.kind == "label_conflict"]
    assert near == [{"lime/again.png", "lime/lime_05.jpg", "plum/stray.jpg"}]


def test_near_copies_across_splits_are_leaks(large: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(large.rglob("*.jpg"))):
        target = tmp_path / "divided" / ("test" if number % 4 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with Image.open(large / "lime" / "lime_01.jpg") as image:
        image.save(tmp_path / "divided" / "test" / "lime" / "again.jpg", quality=50)
    (leak,) = [fault for fault in examining.check(tmp_path / "divided").faults if fault.kind == "split_leak"]
    assert leak.items == ("test/lime/again.jpg", "train/lime/lime_01.jpg")


def test_features_are_looked_at_once(large: Path) -> None:
    embed = Counting()
    first = examining.examine(large, embed=embed)
    assert embed.shown == 36
    assert first.features.shape == (36, 48)
    again = examining.examine(large, embed=embed)
    assert embed.shown == 36
    assert np.array_equal(first.features, again.features)
    assert first.check.faults == again.check.faults
    shutil.move(large / "apple" / "apple_03.jpg", large / "plum" / "apple_03.jpg")
    with Image.open(large / "lime" / "lime_00.jpg") as image:
        image.rotate(180).save(large / "lime" / "new.jpg")
    examining.examine(large, embed=embed)
    assert embed.shown == 37  # a moved file is known by its content


def test_rows_of_features_are_rows_of_items(large: Path) -> None:
    (large / "apple" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    embed = Counting()
    found = examining.examine(large, embed=embed)
    uris = found.dataset.items["uri"].to_pylist()
    assert not found.features[uris.index("apple/bad.jpg")].any()
    row = uris.index("plum/plum_07.jpg")
    with Image.open(large / "plum" / "plum_07.jpg") as image:
        square = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert np.allclose(found.features[row], Counting()(square[None])[0], atol=0.03)


def test_of_several_bodies_the_better_one_leads(large: Path) -> None:
    poor, good = Counting("poor", useless=True), Counting("good")
    assert examining.examine(large, embed=[poor, good]).features.std() > 0.01


def test_tiny_grey_pictures_need_no_body(tmp_path: Path) -> None:
    pixels, labels, _ = packed.digits(tmp_path)
    for number in range(60):
        path = tmp_path / "digits" / labels[number] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    embed = Counting()
    examining.examine(tmp_path / "digits", embed=embed)
    assert embed.shown == 0


def test_blank_and_dark_pictures(large: Path) -> None:
    Image.new("RGB", (128, 128), (90, 90, 90)).save(large / "apple" / "flat.png")
    dark = np.random.default_rng(0).integers(0, 12, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(dark).resize((16, 16)).resize((128, 128)).save(large / "apple" / "dark.png")
    found = examining.check(large)
    assert items(found, "blank") == {"apple/flat.png", "apple/dark.png"}


def test_a_folder_of_texts(tmp_path: Path) -> None:
    words = {"sport": "goal match team player league", "money": "bank market share price profit"}
    random = np.random.default_rng(0)
    for number in range(80):
        label = ("sport", "money")[number % 2]
        body = " ".join([*random.choice(words[label].split(), 15), *random.choice("the of and to in is".split(), 15)])
        path = tmp_path / "news" / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    (tmp_path / "news" / "sport" / "empty.txt").touch()
    shutil.copy(tmp_path / "news" / "sport" / "4.txt", tmp_path / "news" / "sport" / "copy.txt")
    (tmp_path / "news" / "money" / "old.txt").write_bytes("Die Börse grüßt und schließt".encode("latin-1"))
    shutil.move(tmp_path / "news" / "sport" / "10.txt", tmp_path / "news" / "money" / "10.txt")
    found = examining.check(tmp_path / "news")
    assert items(found, "blank") >= {"sport/empty.txt"}
    assert items(found, "duplicate") == {"sport/4.txt", "sport/copy.txt"}
    assert items(found, "odd_mode") == {"money/old.txt"}
    assert "money/10.txt" in items(found, "suspected_label")


def test_a_packed_set(home: Path) -> None:
    found = examining.examine("digits")
    assert found.check.items == len(found.features) == 1797
    assert not [fault for fault in found.check.faults if fault.severity == "error"]


def test_a_damaged_cache_costs_only_time(large: Path, home: Path) -> None:
    embed = Counting()
    first = examining.examine(large, embed=embed)
    for path in [*home.rglob("features.npy"), *home.rglob("faults.json"), *home.rglob("*.parquet")]:
        path.write_bytes(b"broken")
    assert examining.examine(large, embed=embed).check.faults == first.check.faults
    assert embed.shown == 72


def test_descriptors_tell_shapes_and_colours() -> None:
    small = np.random.default_rng(0).integers(0, 256, (5, thumbs.BYTES), dtype=np.uint8)
    found = features.described(small)
    assert found.shape == (5, 8 * 8 * 8 + 8 * 8 * 3)
    assert np.isfinite(found).all()
    assert features.described(thumbs.empty(0)).shape[0] == 0
    assert np.isfinite(features.described(thumbs.empty(3))).all()


def test_equal_contents_share_a_row(large: Path) -> None:
    shutil.copy(large / "apple" / "apple_00.jpg", large / "apple" / "zz.jpg")
    embed: Any = Counting()
    found = examining.examine(large, embed=embed)
    assert embed.shown in (36, 37)
    uris = found.dataset.items["uri"].to_pylist()
    one, two = uris.index("apple/apple_00.jpg"), uris.index("apple/zz.jpg")
    assert np.array_equal(found.features[one], found.features[two])
