"""A data set that grows by what people named: the older items stay what and where they were, and nothing leaks."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame import store
from inflame.artifact import grow, grow_bucket, manifest, opening, packed, version
from inflame.artifact.contents import Contents
from inflame.errors import DataError
from inflame.records import Dataset


def jpeg(seed: int) -> bytes:
    """A picture like no other: soft blobs of noise."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    blobs.save(file, "JPEG", quality=92)
    return file.getvalue()


def again(content: bytes, quality: int = 60) -> bytes:
    """The same picture, saved once more."""
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def rows(dataset: Dataset) -> dict[str, dict[str, str]]:
    return {row["uri"]: row for row in dataset.items.to_pylist()}


def held(dataset: Dataset, split: str) -> bytes:
    """The bytes of the first item of a split."""
    return Contents(dataset.root).read(dataset.split(split).items["uri"][0].as_py())


def test_older_items_stay_as_they_were(photos: Path) -> None:
    before = opening.open(photos)
    named = [grow.Named(content=jpeg(900 + n), label="lime", who=("ann",), time=5.0) for n in range(9)]
    made = grow.grow(before, named)
    after = opening.open(made.folder)
    assert (made.number, made.parent, made.items) == (2, before.version, 45)
    assert after.version == made.version
    assert (after.name, after.classes) == (before.name, before.classes)
    old = rows(before)
    assert {uri: row for uri, row in rows(after).items() if uri in old} == old
    new = [row for uri, row in rows(after).items() if uri not in old]
    assert {row["label"] for row in new} == {"lime"}
    assert {row["split"] for row in new} <= {"train", "val"}
    read = Contents(after.root).read
    assert {read(row["uri"]) for row in new} == {one.content for one in named}
    assert made.new[0]["who"] == ["ann"]


def test_the_same_again_makes_no_new_version(photos: Path) -> None:
    before = opening.open(photos)
    named = [grow.Named(content=jpeg(900), label="lime")]
    first = grow.grow(before, named)
    assert grow.grow(before, named).folder == first.folder
    more = grow.grow(before, [*named, grow.Named(content=jpeg(901), label="plum")])
    assert more.number == first.number + 1
    assert [one.number for one in grow.versions(before.name)] == [2, 3]


def test_what_a_killed_one_left_is_cleared_away(photos: Path) -> None:
    before = opening.open(photos)
    left = grow.home_of(before.name) / ".tmp-1-00000000"
    (left / "new-v0002").mkdir(parents=True)
    made = grow.grow(before, [grow.Named(content=jpeg(900), label="lime")])
    assert made.number == 2
    assert not left.exists()


def test_a_grown_set_grows_again_and_can_be_kept_and_brought_back(photos: Path, tmp_path: Path) -> None:
    first = grow.grow(opening.open(photos), [grow.Named(content=jpeg(900), label="lime")])
    second = grow.grow(opening.open(first.folder), [grow.Named(content=jpeg(901), label="lime")])
    after = opening.open(second.folder)
    assert len(after) == 38
    made, _ = version.take(after, tmp_path / "versions")
    restored = version.restore(tmp_path / "versions", made, tmp_path / "back")
    assert opening.open(restored).version == second.version


def test_nothing_near_the_test_split_is_learned(photos: Path) -> None:
    before = opening.open(photos)
    tested, checked = held(before, "test"), held(before, "val")
    of_test, of_val = (before.split(name).items.to_pylist()[0]["label"] for name in ("test", "val"))
    named = [
        grow.Named(content=again(tested), label=of_test),
        grow.Named(content=again(checked), label=of_val),
        grow.Named(content=tested, label=of_test),
        grow.Named(content=jpeg(900), label="lime"),
    ]
    made = grow.grow(before, named)
    sides = [row["split"] for row in made.new]
    assert sides[:3] == ["", "val", ""]
    assert made.left_out == {"nearly an item of the test split": 1, "in the data already": 1}
    asked = grow.grow(before, named, test=True)
    assert asked.new[0]["split"] == "test"


def test_what_can_not_be_added(photos: Path) -> None:
    before = opening.open(photos)
    with pytest.raises(DataError, match='no class "owl"'):
        grow.grow(before, [grow.Named(content=b"x", label="owl")])
    with pytest.raises(DataError, match="nothing to add: 1 can't be used"):
        grow.grow(before, [grow.Named(content=b"no picture at all", label="lime")])
    with pytest.raises(DataError, match="nothing was named"):
        grow.grow(before, [])
    known = before.items.to_pylist()[0]
    wrong = next(name for name in before.classes if name != known["label"])
    content = Contents(before.root).read(known["uri"])
    with pytest.raises(DataError, match="as another class"):
        grow.grow(before, [grow.Named(content=content, label=wrong)])
    assert grow.versions(before.name) == []


def test_hostile_names_of_classes_stay_in_the_folder(tmp_path: Path) -> None:
    for place, name in enumerate(("a..b", "a b", "<b>")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "set" / name / f"{number}.jpg").write_bytes(jpeg(10 * place + number))
    before = opening.open(tmp_path / "set")
    made = grow.grow(before, [grow.Named(content=jpeg(77 + at), label=name) for at, name in enumerate(before.classes)])
    folder = Path(made.folder).resolve()
    real = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(real) == 3 + 3
    assert all(path.resolve().is_relative_to(folder) for path in real)


def test_rows_of_a_packed_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 12, 12), dtype=np.uint8)
    root = tmp_path / "small"
    made = packed.write(root, (images, ["one", "two"] * 20, (["train"] * 3 + ["test"]) * 10))
    manifest.save(made, root)
    before = opening.open(root)
    file = io.BytesIO()
    new = rng.integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(new).save(file, "PNG")
    grown = grow.grow(before, [grow.Named(content=file.getvalue(), label="two")])
    after = opening.open(grown.folder)
    assert packed.images(after).shape == (41, 12, 12)
    np.testing.assert_array_equal(packed.images(after)[40], new)
    assert rows(after)["images.npy#40"]["split"] == "train"
    assert rows(before).items() <= rows(after).items()


def test_texts_of_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = np.array(["".join(rng.choice(list("aeioubcdfgh"), 6)) for _ in range(400)])
    bodies = [" ".join(rng.choice(known, 50)) for _ in range(60)]
    lines = [f"{body},{'sport' if n % 2 else 'news'}" for n, body in enumerate(bodies)]
    (tmp_path / "letters.csv").write_text("\n".join(["text,label", *lines]))
    before = opening.open(tmp_path / "letters.csv")
    tested = held(before, "test").decode()
    named = [
        grow.Named(content=b"a wholly different text about ships, harbours and the price of tea", label="news"),
        grow.Named(content=f"{tested} again".encode(), label="news"),
    ]
    made = grow.grow(before, named)
    assert [bool(row["split"]) for row in made.new] == [True, False]
    after = opening.open(made.folder)
    assert after.kind == "text"
    assert len(after) == len(before) + 1
    read = Contents(after.root).read
    assert all(read(uri) for uri in after.items["uri"].to_pylist())


def test_a_set_that_is_gone_is_refused(photos: Path, tmp_path: Path) -> None:
    before = dataclasses.replace(opening.open(photos), root=str(tmp_path / "gone"))
    with pytest.raises(DataError, match="not where it was"):
        grow.grow(before, [grow.Named(content=b"x", label="lime")])


def test_what_is_none_of_the_classes_becomes_one(photos: Path) -> None:
    before = opening.open(photos)
    named = [grow.Named(content=jpeg(900 + n), label="red <b> fig") for n in range(8)]
    with pytest.raises(DataError, match='no class "red <b> fig"'):
        grow.grow(before, named)
    made = grow.grow(before, named, new=("red <b> fig", "nobody's"))
    after = opening.open(made.folder)
    assert made.new_classes == ("red <b> fig",)
    assert after.classes == (*before.classes, "red <b> fig")
    assert after.version == made.version
    assert {row["split"] for row in rows(after).values() if row["label"] == "red <b> fig"} <= {"train", "val"}
    assert grow.grow(after, [grow.Named(content=jpeg(990), label="red <b> fig")]).number == 3


def pictures(place: str, folder: Path) -> str:
    """The class folders of `folder` in a bucket."""
    for file in sorted(folder.rglob("*.jpg")):
        store.write(f"{place}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return place


@pytest.fixture
def bucket(photos: Path) -> Iterator[str]:
    """A data set in fsspec's memory, which is a bucket to inflame."""
    import fsspec

    name = f"/grow-{os.urandom(6).hex()}"
    yield pictures(f"memory:/{name}", photos)
    fsspec.filesystem("memory").rm(name, recursive=True)


def test_a_set_in_a_bucket_grows_there(bucket: str) -> None:
    before = opening.open(bucket)
    named = [grow.Named(content=jpeg(900 + n), label="lime", who=("ann",)) for n in range(9)]
    tested = before.split("test").items.to_pylist()[0]
    near = grow.Named(content=again(held(before, "test")), label=tested["label"])
    made = grow.grow(before, [*named, near])
    assert made.folder == f"{bucket}/.grown/v0002"
    assert made.left_out == {"nearly an item of the test split": 1}
    after = opening.open(made.folder)
    assert (after.version, after.root, after.name) == (made.version, before.root, before.name)
    assert rows(before).items() <= rows(after).items()
    new = [row for uri, row in rows(after).items() if uri.startswith(".grown/v0002/lime/")]
    assert {Contents(after.root).read(row["uri"]) for row in new} == {one.content for one in named}
    assert opening.open(bucket).version == before.version, "the folder itself is as it was"
    assert grow.grow(before, [*named, near]).folder == made.folder
    again_grown = grow.grow(after, [grow.Named(content=jpeg(950), label="owl")], new=("owl",))
    assert again_grown.number == 3
    assert opening.open(again_grown.folder).classes == (*before.classes, "owl")


def test_several_machines_that_grow_a_bucket_get_a_number_each(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opening.open(bucket)
    # What another machine has begun, and was killed in, or has not finished yet.
    monkeypatch.setattr(grow_bucket, "numbers", lambda root: [])
    assert grow_bucket.claim(bucket, 2) == 2
    made = grow.grow(before, [grow.Named(content=jpeg(900), label="lime")])
    assert made.number == 3
    with pytest.raises(DataError):
        opening.open(f"{bucket}/.grown/v0002")
