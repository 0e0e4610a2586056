"""Whatever files hold, a check ends with a report that names each bad one."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inflame.artifact import checks, examining, sheet
from inflame.errors import DataError
from inflame.records import Check, dumps

_PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
_QUIET = [HealthCheck.function_scoped_fixture]


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_PIXELS).save(file, kind)
    return file.getvalue()


_GOOD = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]
_ZIP = io.BytesIO()
with zipfile.ZipFile(_ZIP, "w") as packed:
    for number in range(4):
        packed.writestr(f"{'ab'[number % 2]}/{number}.jpg", _GOOD[number])
_TABLE = "path,label,split\n" + "".join(f"{'ab'[n % 2]}/{n}.jpg,{'ab'[n % 2]},train\n" for n in range(4))


def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some of them changed, or the end or the beginning cut off."""
    data = bytearray(whole)
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[place] = value
    cut = draw(st.integers(0, len(data)))
    return draw(st.sampled_from([bytes(data), bytes(data[:cut]), bytes(data[cut:])]))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with bytes changed or cut off; or anything."""
    return draw(st.one_of(st.binary(max_size=300), st.just(changed(draw, draw(st.sampled_from(_GOOD))))))


@st.composite
def damaged_set(draw: st.DrawFn) -> tuple[str, bytes]:
    """A zip or a table of pictures, likewise."""
    name, whole = draw(st.sampled_from([("set.zip", _ZIP.getvalue()), ("set.csv", _TABLE.encode())]))
    return name, changed(draw, whole)


@settings(max_examples=60, deadline=None, suppress_health_check=_QUIET)
@given(files=st.lists(damaged(), min_size=1, max_size=6), text=st.booleans())
def test_no_file_ends_a_check(tmp_path: Path, files: list[bytes], text: bool) -> None:
    root = tmp_path / "data"
    shutil.rmtree(root, ignore_errors=True)
    suffix = ".txt" if text else ".jpg"
    for number, data in enumerate(files):
        path = root / "ab"[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = examining.check(root)
    assert found.items == len(files)
    assert all(fault.kind in checks.KINDS for fault in found.faults)
    assert Check.from_json(json.loads(dumps(found))) == found
    page = sheet.sheet(found, root)
    for fault in found.faults:
        if fault.kind == "unreadable":
            assert fault.items[0] in page


@settings(max_examples=40, deadline=None, suppress_health_check=_QUIET)
@given(data=damaged_set())
def test_a_damaged_zip_or_table_is_checked_or_refused_with_a_way_out(tmp_path: Path, data: tuple[str, bytes]) -> None:
    root = tmp_path / "set"
    shutil.rmtree(root, ignore_errors=True)
    for number in range(4):
        path = root / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_GOOD[number])
    name, content = data
    (root / name).write_bytes(content)
    refused = None
    try:
        assert examining.check(root / name).items <= 4
    except DataError as error:
        refused = error
    assert refused is None or (refused.message and refused.remedy)
