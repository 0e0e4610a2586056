"""Named sets: made ready once, from the mirror or the web, resumed when killed, told with their licence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame import plugins
from inflame.artifact import opening, packed, sources, unpack
from inflame.errors import DataError, NetworkError
from inflame.records import Dataset

RNG = np.random.default_rng(0)


def splits(found: Dataset) -> dict[str, int]:
    column = found.items["split"].to_pylist()
    return {name: column.count(name) for name in sorted(set(column))}


@pytest.fixture
def tiny_mnist(web: Any, hasty: object, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A web server with MNIST's four files, of 60 and 20 digits."""
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    sums = {}
    for part, count in (("train", 60), ("test", 20)):
        pictures = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in zip(packed.IDX[part], (pictures, labels), strict=True):
            head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            web.files[f"/mnist/{name}"] = gzip.compress(head + array.tobytes())
            sums[name] = hashlib.sha256(web.files[f"/mnist/{name}"]).hexdigest()
    monkeypatch.setattr(sources, "_MNIST_SUMS", sums)
    monkeypatch.setattr(sources, "_MNIST_PLACES", (web.url("/nowhere"), web.url("/mnist")))
    return web


def test_every_name_of_the_seam_has_its_source() -> None:
    assert plugins.names("source") == (
        "20newsgroups",
        "bbc-news",
        "butterflies",
        "cifar10",
        "clothing",
        "digits",
        "fashion-mnist",
        "fowl",
        "mnist",
    )
    for name in plugins.names("source"):
        assert callable(plugins.load("source", name))
        about = getattr(sources, name.upper().replace("-", "_").lstrip("20"))
        assert about.name == name
        assert about.licence
        assert about.source


def test_digits_need_no_network(tmp_path: Path) -> None:
    found = sources.digits(tmp_path / "digits")
    assert len(found) == 1797
    assert found.classes == tuple("0123456789")
    assert splits(found) == {"": 1797}
    assert found.licence == "CC BY 4.0"
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == [
        "dataset.json",
        "images.npy",
        "items.parquet",
    ]


def test_mnist_from_the_second_place(tiny_mnist: Any, tmp_path: Path) -> None:
    found = sources.mnist(tmp_path / "m")
    assert splits(found) == {"test": 20, "train": 60}
    assert found.classes == tuple("0123456789")
    assert packed.images(found).shape == (80, 28, 28)
    assert not (tmp_path / "m" / "download").exists()
    asked = len(tiny_mnist.asked)
    again = sources.mnist(tmp_path / "m")
    assert len(tiny_mnist.asked) == asked
    assert again.items.equals(found.items)
    assert (again.licence, again.source) == (sources.MNIST.licence, sources.MNIST.source)


def test_mnist_from_the_mirror(tiny_mnist: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, data in tiny_mnist.files.items():
        place = tmp_path / "mirror" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))
    assert len(sources.mnist(tmp_path / "m")) == 80
    assert tiny_mnist.asked == []
    (tmp_path / "mirror" / "mnist" / packed.IDX["train"][0]).write_bytes(b"damaged")
    assert len(sources.mnist(tmp_path / "n")) == 80
    assert [path for path, _ in tiny_mnist.asked if "nowhere" not in path] == [f"/mnist/{packed.IDX['train'][0]}"]


def test_no_place_at_all(tiny_mnist: Any, tmp_path: Path) -> None:
    tiny_mnist.files.clear()
    with pytest.raises(NetworkError) as caught:
        sources.mnist(tmp_path / "m")
    assert caught.value.where.count("HTTP 404") == 2
    assert "INFLAME_MIRROR" in caught.value.remedy


def test_files_already_fetched_are_not_fetched_again(tiny_mnist: Any, tmp_path: Path) -> None:
    last = f"/mnist/{packed.IDX['test'][1]}"
    kept = tiny_mnist.files.pop(last)
    with pytest.raises(NetworkError):
        sources.mnist(tmp_path / "m")
    tiny_mnist.files[last] = kept
    tiny_mnist.asked.clear()
    assert len(sources.mnist(tmp_path / "m")) == 80
    assert {path for path, _ in tiny_mnist.asked} == {last, last.replace("mnist", "nowhere")}


@pytest.mark.parametrize("name", ["images.npy", "items.parquet", "dataset.json"])
def test_a_lost_or_cut_file_is_made_again(tiny_mnist: Any, tmp_path: Path, name: str) -> None:
    before = sources.mnist(tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert sources.mnist(tmp_path / "m").items.equals(before.items)
    path.unlink()
    assert sources.mnist(tmp_path / "m").items.equals(before.items)


def test_two_at_once_fetch_once(tiny_mnist: Any, tmp_path: Path) -> None:
    found: list[Dataset] = []
    threads = [threading.Thread(target=lambda: found.append(sources.mnist(tmp_path / "m"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(one) for one in found] == [80] * 3
    assert len([path for path, _ in tiny_mnist.asked if path.startswith("/mnist/")]) == 4


def test_a_moved_home_still_holds_its_sets(tmp_path: Path) -> None:
    sources.digits(tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert sources.digits(tmp_path / "new").root == str(tmp_path / "new")


# --- photos ----------------------------------------------------------------------------------------------------


def jpeg(seed: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def zipped(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for seed, name in enumerate(names):
            file.writestr(name, jpeg(seed) if name.endswith("jpg") else b"text")
    return buffer.getvalue()


CLOTHES = [
    f"clothing-main/{split}/{kind}/{n}.jpg"
    for split in ("train", "validation", "test")
    for kind in ("hat", "shoe")
    for n in range(3)
]


@pytest.fixture
def shop(web: Any, hasty: object, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    web.files["/clothing.zip"] = zipped(["clothing-main/README.md", *CLOTHES])
    monkeypatch.setattr(sources, "_CLOTHING_ZIP", web.url("/clothing.zip"))
    return web


def test_clothing_from_its_repository(shop: Any, tmp_path: Path) -> None:
    found = sources.clothing(tmp_path / "c")
    assert splits(found) == {"test": 6, "train": 6, "val": 6}
    assert found.classes == ("hat", "shoe")
    assert (found.name, found.licence) == ("clothing", "CC0 1.0")
    assert "val/hat/0.jpg" in found.items["uri"].to_pylist()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["source.json", "test", "train", "val"]
    assert sources.clothing(tmp_path / "c").items.equals(found.items)
    assert len(shop.asked) == 1


def test_photos_that_were_lost_come_back(shop: Any, tmp_path: Path) -> None:
    sources.clothing(tmp_path / "c")
    (tmp_path / "c/train/hat/0.jpg").unlink()
    assert len(sources.clothing(tmp_path / "c")) == 18
    (tmp_path / "c/train/hat/1.jpg").write_bytes(b"")
    assert len(sources.clothing(tmp_path / "c")) == 18
    assert (tmp_path / "c/train/hat/1.jpg").stat().st_size


def test_photos_that_were_lost_and_cannot_come_back_are_told(shop: Any, tmp_path: Path) -> None:
    sources.clothing(tmp_path / "c")
    (tmp_path / "c/train/hat/0.jpg").unlink()
    shop.files.clear()
    found = sources.clothing(tmp_path / "c")
    assert len(found) == 17
    assert [(fault.kind, fault.severity) for fault in found.faults] == [("incomplete", "warning")]


def test_a_damaged_zip_is_not_kept(shop: Any, tmp_path: Path) -> None:
    good = shop.files["/clothing.zip"]
    shop.files["/clothing.zip"] = b"<html>please log in</html>"
    with pytest.raises(DataError, match="can't be unpacked"):
        sources.clothing(tmp_path / "c")
    shop.files["/clothing.zip"] = good
    assert len(sources.clothing(tmp_path / "c")) == 18


def test_clothing_from_the_mirror(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_to = tmp_path / "mirror" / "clothing"
    (tmp_path / "a.zip").write_bytes(zipped([name.replace("clothing-main/", "") for name in CLOTHES]))
    unpack.unpack(tmp_path / "a.zip", unpack_to)
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "mirror"))
    assert splits(sources.clothing(tmp_path / "c")) == {"test": 6, "train": 6, "val": 6}
    assert shop.asked == []


def test_mirror_and_web_are_both_named_when_both_fail(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFLAME_MIRROR", str(tmp_path / "gone"))
    shop.files.clear()
    with pytest.raises(NetworkError, match="clothing could not be fetched") as caught:
        sources.clothing(tmp_path / "c")
    mirror, web = caught.value.where.splitlines()
    assert "gone" in mirror
    assert "HTTP 404" in web


def test_butterflies_take_their_names_from_a_table(
    web: Any, hasty: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    folder = "butterfly_yum_yuck-8b4/data/butterfly_mimics"
    names = [f"{folder}/images/{name}.jpg" for name in ("aa", "bb", "cc", "unnamed")]
    web.files["/b.zip"] = zipped([*names, f"{folder}/image_holdouts/aa.jpg"])
    web.files["/b.csv"] = b"image,name,stage,side\naa,tiger,adult,both\nbb,monarch,adult,dorsal\ncc,moth,adult,dorsal\n"
    monkeypatch.setattr(sources, "_BUTTERFLIES_ZIP", web.url("/b.zip"))
    monkeypatch.setattr(sources, "_BUTTERFLIES_CSV", (web.url("/gone.csv"), web.url("/b.csv")))
    found = sources.butterflies(tmp_path / "b")
    assert found.items["uri"].to_pylist() == ["eastern_tiger_swallowtail/aa.jpg", "monarch/bb.jpg"]


def test_fowl_are_named_in_the_singular(
    web: Any, hasty: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFLAME_MIRROR", raising=False)
    names = [
        f"fowl_data/{split}/{kind}/{n}.jpg"
        for split in ("train", "val")
        for kind in ("chickens", "turkeys")
        for n in (1, 2)
    ]
    web.files["/f.zip"] = zipped([*names, "__MACOSX/fowl_data/train/chickens/._1.jpg"])
    monkeypatch.setattr(sources, "_FOWL_ZIP", web.url("/f.zip"))
    found = sources.fowl(tmp_path / "f")
    assert found.classes == ("chicken", "turkey")
    assert splits(found) == {"train": 4, "val": 4}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("repo/validation/hat/1.jpg", "val/hat/1.jpg"),
        ("train/hat/deep/1.jpg", "train/hat/deep/1.jpg"),
        ("train/1.jpg", None),
        ("repo/README.md", None),
        ("train/hat/notes.txt", None),
        ("train/hat/.hidden.jpg", None),
        ("other/hat/1.jpg", None),
    ],
)
def test_places_by_split(name: str, place: str | None) -> None:
    assert sources.by_split(name) == place


def test_addresses_are_pinned() -> None:
    """What has no checksum must at least be a fixed version."""
    import re

    for url in (sources._CLOTHING_ZIP, sources._BUTTERFLIES_ZIP, *sources._BUTTERFLIES_CSV):
        assert re.search(r"/[0-9a-f]{40}(/|$)", url)
        assert url.startswith("https://")


def test_killed_while_packing_it_starts_again(tmp_path: Path, home: Path) -> None:
    """A set without its description is not a set."""
    code = (
        "import os, sys, numpy; from pathlib import Path; from inflame.artifact import manifest, packed, sources;"
        "packed.digits = lambda _: (numpy.zeros((3, 8, 8), 'uint8'), list('012'), [''] * 3);"
        "manifest.save = lambda *_: os._exit(9); sources.digits(Path(sys.argv[1]))"
    )
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")])
    assert child.returncode == 9
    assert (tmp_path / "d" / "images.npy").exists()
    assert len(sources.digits(tmp_path / "d")) == 1797


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("mnist", 70_000), ("fashion-mnist", 70_000), ("cifar10", 60_000)])
def test_whole_sets_from_the_mirror(name: str, count: int, mirror: Path) -> None:
    found = opening.getdata(name)
    assert len(found) == count
    assert splits(found)["test"] == 10_000
    assert 4_500 < splits(found)["val"] < 5_500


@pytest.mark.parametrize(("name", "count", "classes"), [("clothing", 471, 10), ("butterflies", 713, 6)])
def test_whole_photo_sets_from_the_mirror(name: str, count: int, classes: int, mirror: Path) -> None:
    found = opening.getdata(name)
    assert (len(found), len(found.classes)) == (count, classes)
    assert json.loads((Path(found.root) / "source.json").read_text())["licence"] == found.licence
