"""Whatever is sent to the website gets an answer or a problem with a remedy: never a mistake of ours, never a wait."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inflame.errors import InflameError
from inflame.web import oip, uploads
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.problems import Problem, of
from inflame.web.settings import Settings


@pytest.fixture(scope="module")
def model(fruit_bundle: Path) -> Model:
    return Model("fruit", fruit_bundle, Settings(pixels=1_000_000))


def seeds() -> list[bytes]:
    """A small picture of each format that is taken, and of some that aren't."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = []
    for form in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM"):
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112], exif[0x010E] = 6, "about"
        image.save(file, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
        found.append(file.getvalue())
    return found


SEEDS = seeds()


def checked(model: Model, contents: list[bytes]) -> None:
    began = time.monotonic()
    for one in model.answer(contents):
        if isinstance(one, Answer):
            assert one.label in model.classes
            assert 0 <= one.probability <= 1
        else:
            assert isinstance(one, InflameError)
            problem = of(one)
            assert problem.status in (413, 415, 422), one
            assert problem.detail
            assert problem.remedy
    assert time.monotonic() - began < 5


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8)), max_size=6),
    cut=st.floats(0.05, 1),
)
def test_broken_pictures(model: Model, seed: bytes, changes: list[tuple[float, bytes]], cut: float) -> None:
    content = bytearray(seed[: max(1, int(cut * len(seed)))])
    for place, piece in changes:
        at = int(place * (len(content) - 1))
        content[at : at + len(piece)] = piece
    checked(model, [bytes(content), *SEEDS[:2]])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=400))
def test_any_bytes(model: Model, content: bytes) -> None:
    checked(model, [content])


def test_known_bad_files(model: Model) -> None:
    folder = Path(os.environ.get("INFLAME_MIRROR", "")) / "bad_inputs"
    if not os.environ.get("INFLAME_MIRROR") or not folder.is_dir():
        pytest.skip("needs bad files: set INFLAME_MIRROR to a folder that has bad_inputs")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            checked(model, [path.read_bytes()])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from(["name", "shape", "data", "parameters", "inputs"]),
)
def test_any_tensor(model: Model, value: object, place: str) -> None:
    import json

    tensor = {"name": "pictures", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072}
    body = {"inputs": [tensor]}
    (body if place == "inputs" else tensor)[place] = value  # type: ignore[index]
    try:
        _, found = oip._contents(json.dumps(body).encode(), "", model)
    except Problem as problem:
        assert problem.code == "bad_request"  # noqa: PT017 - most values are refused, some are right
    else:
        checked(model, found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.text(max_size=30))
def test_any_json(content: bytes, name: str) -> None:
    try:
        told = uploads.as_object(content)
        uploads.text_of(told, name)
    except Problem as problem:
        assert problem.status in (400, 422)  # noqa: PT017 - the same
