"""The check: each planted fault is found once, with its true reason, and nothing else; the data stays untouched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import checks, preprocess
from inflame.artifact.checks import conflicting, faults
from inflame.artifact.examining import check
from inflame.artifact.scanning import Scan, scan
from inflame.artifact.sheet import sheet
from inflame.errors import DataError, StorageError
from inflame.records import Check, Fault, Preprocess, dumps

SMALL = Preprocess(size=12, resize=16)


def paint(path: Path, seed: int, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(path, kind, **options)
    return path


def state(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def of_kind(found: Check | tuple[Fault, ...], kind: str) -> list[Fault]:
    return [fault for fault in (found.faults if isinstance(found, Check) else found) if fault.kind == kind]


@pytest.fixture
def faulty(photos: Path) -> Path:
    """Each fault once, in the folder of three classes with twelve photos each."""
    apple, lime, plum = photos / "apple", photos / "lime", photos / "plum"
    good = (apple / "apple_00.jpg").read_bytes()
    (apple / "copy.jpg").write_bytes(good)
    (plum / "stray.jpg").write_bytes((lime / "lime_03.jpg").read_bytes())
    (apple / "empty.jpg").touch()
    (lime / "cut.jpg").write_bytes(good[: len(good) // 2])
    (lime / "page.jpg").write_bytes(b"<html>404</html>")
    (plum / "real.jpg").write_bytes(b"\0\5\x16\7" + bytes(90))
    (plum / ".DS_Store").write_bytes(b"x")
    (plum / "notes.txt").write_text("bought in June")
    (photos / "void").mkdir()
    paint(photos / "lonely" / "only.jpg", 9_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(lime / "turned.jpg", 9_001, exif=exif)
    paint(lime / "print.jpg", 9_002, mode="CMYK")
    paint(lime / "see through.png", 9_003, "PNG", "RGBA")
    paint(plum / "really a png.jpg", 9_004, "PNG")
    return photos


# --- scan ---------------------------------------------------------------------------------------------


def test_a_scan_tells_what_a_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    path = paint(tmp_path / "a b" / "ünï.jpg", 1, exif=exif)
    (found,) = scan(tmp_path, ["a b/ünï.jpg"])
    data = path.read_bytes()
    assert found == Scan(
        uri="a b/ünï.jpg",
        sha256=hashlib.sha256(data).hexdigest(),
        width=20,
        height=24,
        mode="RGB",
        format="JPEG",
        orientation=8,
        bytes=len(data),
    )


def test_scans_are_in_order_and_every_canvas_arrives(photos: Path) -> None:
    uris = names(photos)
    canvases: dict[int, np.ndarray] = {}
    told: list[tuple[int, int]] = []
    found = scan(
        photos,
        uris,
        canvas=SMALL,
        sink=canvases.__setitem__,
        workers=4,
        progress=lambda done, of: told.append((done, of)),
    )
    assert [one.uri for one in found] == uris
    assert told == [(number + 1, len(uris)) for number in range(len(uris))]
    for index, uri in enumerate(uris):
        assert np.array_equal(canvases[index], preprocess.canvas(photos / uri, SMALL))
    assert [one.sha256 for one in scan(photos, uris, workers=1)] == [one.sha256 for one in found]


def test_each_file_is_read_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: dict[Path, int] = {}
    original = Path.read_bytes

    def counted(self: Path) -> bytes:
        count[self] = count.get(self, 0) + 1
        return original(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    scan(photos, names(photos), canvas=SMALL, sink=lambda *_: None)
    assert set(count.values()) == {1}
    assert len(count) == 36


def test_bad_files_neither_stop_nor_reach_the_sink(faulty: Path) -> None:
    os.mkfifo(faulty / "lime" / "pipe.jpg")
    (faulty / "lime" / "nowhere.jpg").symlink_to("/does/not/exist")
    uris = names(faulty)
    reached: set[int] = set()
    found = scan(faulty, uris, canvas=SMALL, sink=lambda index, _: reached.add(index))
    bad = {one.uri: one for one in found if one.kind}
    assert {Path(uri).name for uri in bad} == {
        *("empty.jpg", "cut.jpg", "page.jpg", "real.jpg", ".DS_Store", "notes.txt", "pipe.jpg", "nowhere.jpg")
    }
    assert bad["plum/real.jpg"].kind == "junk"
    assert "truncated" in bad["lime/cut.jpg"].reason
    assert bad["lime/cut.jpg"].sha256
    assert all(one.reason and one.kind in {"junk", "unreadable"} for one in bad.values())
    assert reached == {index for index, one in enumerate(found) if not one.kind}


def test_no_uris() -> None:
    assert scan(Path(), []) == []


def test_what_the_sink_raises_ends_the_pass(photos: Path) -> None:
    seen = 0

    def full(*_: Any) -> None:
        nonlocal seen
        seen += 1
        raise StorageError("The disk is full.", remedy="Free some space.")

    with pytest.raises(StorageError):
        scan(photos, names(photos), canvas=SMALL, sink=full, workers=2)
    assert seen <= 2


def test_ctrl_c_ends_the_pass(photos: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(photos, names(photos), workers=2, progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_rows_of_a_packed_array(tmp_path: Path) -> None:
    for shape, mode in (((5, 8, 10), "L"), ((5, 8, 10, 3), "RGB")):
        array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        np.save(tmp_path / "images.npy", array)
        kept: dict[int, np.ndarray] = {}
        found = scan(
            tmp_path, ["images.npy#4", "images.npy#0"], canvas=Preprocess(size=8, resize=8), sink=kept.__setitem__
        )
        assert found[0].sha256 == hashlib.sha256(array[4].tobytes()).hexdigest()
        assert (found[0].width, found[0].height, found[0].mode) == (10, 8, mode)
        assert np.array_equal(kept[1], preprocess.canvas(array[0], Preprocess(size=8, resize=8)))


def test_a_broken_packed_array(tmp_path: Path) -> None:
    (tmp_path / "images.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError) as caught:
        scan(tmp_path, ["images.npy#0"])
    assert caught.value.remedy


# --- faults -------------------------------------------------------------------------------------------


def good(uri: str, sha256: str = "", **more: Any) -> Scan:
    return Scan(uri=uri, sha256=sha256 or uri, width=9, height=9, mode=more.pop("mode", "RGB"), format="JPEG", **more)


def judged(scans: list[Scan], labels: list[str], **more: Any) -> tuple[Fault, ...]:
    return faults(Path(), [one.uri for one in scans], labels, scans, **more)


def test_a_clean_set_has_no_faults() -> None:
    assert judged([good(f"a/{n}") for n in range(3)], ["a"] * 3, classes=["a"]) == ()


def test_copies_are_one_fault_per_content() -> None:
    scans = [good(f"a/{n}.jpg", f"s{n % 4}") for n in range(9)] + [good("a/9.jpg", "alone")]
    found = judged(scans, ["a"] * 10)
    assert {fault.kind for fault in found} == {"duplicate"}
    assert sorted(len(fault.items) for fault in found) == [2, 2, 2, 3]
    assert "3 times" in next(fault for fault in found if len(fault.items) == 3).reason


def test_copies_in_two_given_splits_are_named() -> None:
    scans = [good("train/a/1", "s"), good("test/a/1", "s"), *[good(f"a/{n}") for n in range(3)]]
    leak, fault = judged(scans, ["a"] * 5, splits=["train", "test", "", "", ""])
    assert (leak.kind, leak.items) == ("split_leak", ("test/a/1", "train/a/1"))
    assert "test and train" in fault.reason
    assert "flatters" in fault.reason


def test_a_content_under_two_labels_is_a_conflict_not_a_copy() -> None:
    scans = [good("a/1", "s"), good("b/1", "s"), good("b/2", "s")]
    scans += [good(f"{label}/{n}") for label in "ab" for n in range(5, 8)]
    labels = [one.uri[0] for one in scans]
    (fault,) = judged(scans, labels)
    assert (fault.kind, fault.severity, fault.items) == ("label_conflict", "error", ("a/1", "b/1", "b/2"))
    assert '"a" and "b"' in fault.reason
    assert conflicting(scans, labels) == {"s"}


def test_files_without_a_hash_are_no_copies() -> None:
    bad = [Scan(uri=f"a/{n}", kind="unreadable", reason="why") for n in range(3)]
    found = judged([*bad, *[good(f"a/g{n}") for n in range(3)]], ["a"] * 6)
    assert [fault.kind for fault in found] == ["unreadable"]
    assert found[0].items == ("a/0", "a/1", "a/2")  # one reason, one fault
    assert conflicting(bad, ["a", "b", "c"]) == set()


@pytest.mark.parametrize(
    ("different", "kinds"), [(0, ["empty_class"]), (1, ["small_class"]), (2, ["small_class"]), (3, [])]
)
def test_small_classes_count_what_can_be_used(different: int, kinds: list[str]) -> None:
    """Bad files, copies and conflicting pictures don't make a class larger."""
    scans = [Scan(uri="a/bad", kind="unreadable", reason="why"), good("a/conflict", "c"), good("b/conflict", "c")]
    scans += [good(f"a/{n}-{copy}", f"s{n}") for n in range(different) for copy in range(2)]
    scans += [good(f"b/{n}") for n in range(5)]
    found = judged(scans, [one.uri[0] for one in scans], classes=["a", "b"])
    assert [fault.kind for fault in found if fault.kind.endswith("class")] == kinds


def test_a_class_without_files() -> None:
    (fault,) = judged([good(f"a/{n}") for n in range(3)], ["a"] * 3, classes=["a", "z"])
    assert (fault.kind, fault.items) == ("empty_class", ("z",))
    assert '"z"' in fault.reason


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("CMYK", "CMYK"),
        ("LAB", "LAB"),
        ("I;16", "8 bits"),
        ("F", "8 bits"),
        ("P", "palette"),
        ("1", "black and white"),
        ("RGBA", "transparent"),
        ("LA", "transparent"),
        ("P+alpha", "transparent"),
        ("RGB", ""),
        ("L", ""),
    ],
)
def test_odd_modes(mode: str, words: str) -> None:
    found = judged([good("a/1.jpg", mode=mode), good("a/2.jpg"), good("a/3.jpg")], ["a"] * 3)
    assert [fault.kind for fault in found] == (["odd_mode"] if words else [])
    if words:
        assert words in found[0].reason
        assert found[0].severity == "info"


def test_names_that_mislead() -> None:
    fine = [good("a/1.jpg"), good("a/2.JPEG"), good("a/3"), good("a/4.photo")]
    assert judged(fine, ["a"] * 4) == ()
    (fault,) = judged([*fine, good("a/5.png")], ["a"] * 5)
    assert fault.kind == "odd_mode"
    assert "JPEG file under a .png name" in fault.reason


def test_junk_beside_the_pictures() -> None:
    found = judged([good(f"a/{n}") for n in range(3)], ["a"] * 3, junk=["a/Thumbs.db", "a/._1.jpg", "a/notes.txt"])
    assert [fault.items for fault in found] == [("a/._1.jpg", "a/Thumbs.db"), ("a/notes.txt",)]


def test_every_reason_says_what_to_do(faulty: Path) -> None:
    for fault in check(faulty).faults:
        assert fault.severity in {"error", "warning", "info"}
        if fault.severity != "info" and fault.kind != "junk":
            assert re.search(r"\b(copy|delete|add|download|move|save)\b", fault.reason), fault


# --- check --------------------------------------------------------------------------------------------


def test_check_finds_each_planted_fault_and_touches_nothing(faulty: Path) -> None:
    before = state(faulty)
    found = check(faulty)
    assert state(faulty) == before
    assert sorted(item for fault in of_kind(found, "unreadable") for item in fault.items) == [
        "apple/empty.jpg",
        "lime/cut.jpg",
        "lime/page.jpg",
    ]
    assert [fault.items for fault in of_kind(found, "duplicate")] == [("apple/apple_00.jpg", "apple/copy.jpg")]
    assert [fault.items for fault in of_kind(found, "label_conflict")] == [("lime/lime_03.jpg", "plum/stray.jpg")]
    assert [fault.items for fault in of_kind(found, "small_class")] == [("lonely/only.jpg",)]
    assert [fault.items for fault in of_kind(found, "empty_class")] == [("void",)]
    assert [fault.items for fault in of_kind(found, "rotated")] == [("lime/turned.jpg",)]
    assert {item for fault in of_kind(found, "odd_mode") for item in fault.items} == {
        *("lime/print.jpg", "lime/see through.png", "plum/really a png.jpg")
    }
    assert {item for fault in of_kind(found, "junk") for item in fault.items} == {
        *("plum/real.jpg", "plum/.DS_Store", "plum/notes.txt")
    }
    assert (found.dataset, found.classes, found.items) == ("photos", 4, 36 + 2 + 4 + 1 + 4)
    assert found.seconds > 0


def test_check_of_clean_photos(photos: Path) -> None:
    found = check(str(photos))
    assert found.faults == ()
    assert (found.items, found.classes) == (36, 3)


def test_check_json_is_as_promised(faulty: Path) -> None:
    value = json.loads(dumps(check(faulty)))
    assert set(value) == {"dataset", "items", "classes", "faults", "advice", "seconds"}
    for fault in value["faults"]:
        assert set(fault) == {"kind", "severity", "reason", "items"}
        assert fault["kind"] in checks.KINDS
    assert Check.from_json(value).to_json() == value


def test_check_where_nothing_is_good(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.jpg").write_bytes(b"<html>no</html>" + label.encode())
    found = check(tmp_path)
    assert len(of_kind(found, "empty_class")) == 2
    assert len(of_kind(found, "unreadable")[0].items) == 2


def test_check_again_after_a_change(photos: Path) -> None:
    assert check(photos).faults == ()
    (photos / "apple" / "apple_00.jpg").write_bytes(b"")
    assert [fault.kind for fault in check(photos).faults] == ["unreadable"]


def test_check_tells_its_progress(photos: Path) -> None:
    told: list[tuple[int, int]] = []
    check(photos, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (36, 36)


def test_check_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check(tmp_path / "none")
    assert caught.value.remedy


# --- the page -----------------------------------------------------------------------------------------


def test_the_page_shows_every_fault_and_needs_nothing_else(faulty: Path) -> None:
    found = check(faulty)
    page = sheet(found, faulty)
    for fault in found.faults:
        for item in fault.items:
            assert item in page
    shown = sum(len(f.items) for f in found.faults if f.kind not in ("unreadable", "junk", "empty_class", "imbalance"))
    assert page.count("data:image/jpeg;base64,") >= 2 + 2 + 1 + 1 + 3
    assert page.count("data:image/jpeg;base64,") <= shown
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)|url\(|@import|<script|<link|https?://""", page)


def test_the_page_of_a_clean_set(photos: Path) -> None:
    assert "No faults found" in sheet(check(photos), photos)


def test_names_on_the_page_are_text(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">&.jpg'
    paint(tmp_path / "a" / evil, 1)
    found = Check(
        dataset="<b>set</b>",
        items=1,
        classes=1,
        faults=(Fault(kind="rotated", severity="info", reason="<i>why</i>", items=(f"a/{evil}",)),),
    )
    page = sheet(found, tmp_path)
    assert "<img src=x" not in page
    assert "<i>why" not in page
    assert "<b>set" not in page
    assert "&lt;img src=x" in page
    assert "data:image/jpeg" in page


def test_many_faults_stay_readable(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", 1)
    many = tuple(f"missing/{n:05}.jpg" for n in range(5_000))
    shown = ("a.jpg",) * 40
    found = Check(
        dataset="many",
        items=9_000,
        classes=2,
        faults=(
            Fault(kind="unreadable", severity="error", reason="why", items=many),
            Fault(kind="rotated", severity="info", reason="turned", items=shown),
            *(Fault(kind="duplicate", severity="warning", reason=f"twice {n}", items=("a.jpg",)) for n in range(300)),
        ),
    )
    page = sheet(found, tmp_path)
    assert "and 16 more; 40" in page
    assert "and 3,000 more, all in check.json" in page
    assert "and 100 more like these" in page
    assert len(page) < 3 * 2**20


def test_the_page_of_kinds_it_does_not_know(photos: Path) -> None:
    found = Check(
        dataset="x",
        items=1,
        classes=1,
        faults=(Fault(kind="wrong_label", severity="warning", reason="suspect", items=("apple/apple_00.jpg",)),),
    )
    assert "Wrong label" in sheet(found, photos)


def test_the_page_of_packed_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8), np.uint8))
    items = ("images.npy#0", "images.npy#2", "images.npy#77")
    fault = Fault(kind="duplicate", severity="warning", reason="same", items=items)
    page = sheet(Check(dataset="x", items=3, classes=1, faults=(fault,)), tmp_path)
    assert page.count("data:image/jpeg") == 2


def test_the_page_of_a_zip(faulty: Path, tmp_path: Path) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((faulty / "apple").iterdir()):
            file.write(path, f"apple/{path.name}")
        for path in sorted((faulty / "lime").glob("lime_*")):
            file.write(path, f"lime/{path.name}")
    found = check(archive)
    assert [fault.items for fault in of_kind(found, "duplicate")] == [("apple/apple_00.jpg", "apple/copy.jpg")]
    assert sheet(found, archive).count("data:image/jpeg") == 2
