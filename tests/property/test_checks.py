"""Whatever files hold, a check ends with a report that names each bad one."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inflame.artifact import checks
from inflame.records import Check, dumps

_JPEG = io.BytesIO()
_PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
Image.fromarray(_PIXELS).save(_JPEG, "JPEG", exif=Image.Exif())
_PNG = io.BytesIO()
Image.fromarray(_PIXELS).save(_PNG, "PNG")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with bytes changed, cut off or doubled; or anything."""
    data = bytearray(draw(st.sampled_from([_JPEG.getvalue(), _PNG.getvalue()])))
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)):
        data[place] = value
    cut = draw(st.integers(0, len(data)))
    return draw(st.sampled_from([bytes(data), bytes(data[:cut]), bytes(data[cut:]), draw(st.binary(max_size=300))]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(damaged(), min_size=1, max_size=6), text=st.booleans())
def test_no_file_ends_a_check(tmp_path: Path, files: list[bytes], text: bool) -> None:
    root = tmp_path / "data"
    shutil.rmtree(root, ignore_errors=True)
    suffix = ".txt" if text else ".jpg"
    for number, data in enumerate(files):
        path = root / "ab"[number % 2] / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    found = checks.check(root)
    assert found.items == len(files)
    assert all(fault.kind in checks.KINDS for fault in found.faults)
    assert Check.from_json(json.loads(dumps(found))) == found
    page = checks.sheet(found, root)
    for fault in found.faults:
        if fault.kind == "unreadable":
            assert fault.items[0] in page


def test_all_bad_inputs_get_what_they_should(mirror: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(mirror / "bad_inputs" / "files", root / "class")
    found = checks.check(root)
    bad = {Path(item).name for fault in found.faults if fault.kind == "unreadable" for item in fault.items}
    beside = {Path(item).name for fault in found.faults if fault.kind == "junk" for item in fault.items}
    with (mirror / "bad_inputs" / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name, wanted = row["file"], row["expected"]
            if wanted.startswith("reject"):
                assert name in bad | beside, name
            elif wanted.startswith("accept"):
                assert name not in bad | beside, name
