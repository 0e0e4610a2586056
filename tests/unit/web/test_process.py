"""What the process of a model does for the website, spoken to over its link in this process."""

from __future__ import annotations

import io
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inflame.errors import InflameError
from inflame.model.engine.predictor import Predictor
from inflame.monitor import entries
from inflame.monitor.entries import Entry
from inflame.web import parcels, process
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.settings import Settings
from inflame.web.wire import Link

Asks = Callable[..., tuple[dict[str, Any], list[bytes]]]


@pytest.fixture(scope="module")
def model(fruit_bundle: Path) -> Model:
    return Model("fruit", fruit_bundle, Settings(runtime="onnxruntime"))


@pytest.fixture
def asks(model: Model) -> Iterator[Asks]:
    """Asks the process, and gives what it says in the end; that it has begun is passed over."""
    limit = resource.getrlimit(resource.RLIMIT_CPU)
    here, there = socket.socketpair()
    link = Link(here)
    made = process.Process(Link(there), model, 2)
    thread = threading.Thread(target=made.run)
    thread.start()
    number = 0

    def ask(do: str, *blobs: bytes, **told: Any) -> tuple[dict[str, Any], list[bytes]]:
        nonlocal number
        number += 1
        link.send({"id": number, "do": do, **told}, blobs)
        while True:
            said = link.receive(20)
            assert said is not None
            assert said[0]["id"] == number
            if "at" not in said[0]:
                return said

    yield ask
    link.hang_up()
    thread.join(10)
    assert not thread.is_alive()  # it ends when the website does
    link.close()
    there.close()
    resource.setrlimit(resource.RLIMIT_CPU, limit)


def found(said: tuple[dict[str, Any], list[bytes]]) -> list[Answer | InflameError]:
    return parcels.unwrapped(said[0]["found"], said[1])


def photo(photo_set: Path, name: str, number: int = 10) -> bytes:
    return (photo_set / name / f"{name}_{number:02}.jpg").read_bytes()


def test_answers_come_in_order_with_the_error_in_its_place(asks: Asks, photo_set: Path, fruit_bundle: Path) -> None:
    lime, plum = photo(photo_set, "lime"), photo(photo_set, "plum")
    first, error, last = found(asks("answer", lime, b"no picture", plum))
    wanted = Predictor(fruit_bundle).predict([lime, plum])
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert [first.label, last.label] == ["lime", "plum"]
    assert first.probability == pytest.approx(wanted[0].probability, abs=1e-5)
    assert not isinstance(error, Answer)
    assert "text" in error.message
    (one,) = found(asks("answer", lime))
    assert isinstance(one, Answer)
    assert one.sha256 == first.sha256


def test_reasons_are_pictures_that_a_page_can_show(asks: Asks, photo_set: Path) -> None:
    told, _ = asks("explain", photo(photo_set, "plum"), label="", near=3)
    assert told["said"]["label"] == "plum"
    assert len(told["said"]["near"]) == 3
    assert {one["label"] for one in told["said"]["near"]} == {"plum"}
    assert told["said"]["heat"].startswith("data:image/")
    assert told["pieces"] == []
    broken, _ = asks("explain", b"no picture", label="", near=3)
    assert parcels.error_of(broken).message


def test_small_copies_are_upright_and_bare_ones_keep_their_pixels(asks: Asks) -> None:
    image = Image.new("RGB", (90, 30), (200, 10, 10))
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "a camera"  # lying on its side
    file = io.BytesIO()
    image.save(file, "JPEG", exif=turned)
    _, (small, none) = asks("small", file.getvalue(), b"no picture", side=60)
    assert none == b""
    assert Image.open(io.BytesIO(small)).size == (20, 60)
    _, (bare, nothing) = asks("bare", file.getvalue(), file.getvalue()[:30])
    assert nothing == b""
    assert b"a camera" in file.getvalue()
    assert b"a camera" not in bare
    tiny = io.BytesIO()
    Image.new("RGB", (4, 4)).save(tiny, "PNG")
    _, (shown,) = asks("small", tiny.getvalue(), side=60)
    assert Image.open(io.BytesIO(shown)).size == (60, 60)  # its pixels stay visible


def test_what_it_shows_is_of_every_class(asks: Asks) -> None:
    told, thumbs = asks("shown", count=6)
    assert [one["label"] for one in told["near"]].count("plum") == 2
    assert len(thumbs) == 6
    assert all(Image.open(io.BytesIO(one)).width for one in thumbs)


def test_an_answer_of_the_log_is_told_as_it_was(asks: Asks, photo_set: Path, model: Model) -> None:
    (before,) = found(asks("answer", photo(photo_set, "lime")))
    assert isinstance(before, Answer)
    shares = dict(before.top)
    row = Entry(
        model=model.version,
        input=before.sha256,
        label=before.label,
        probability=before.probability,
        probabilities=np.array([shares[name] for name in model.classes], np.float32),
        known=before.known,
        source="test",
    )
    (again,) = found(asks("again", row=entries.dumps(row.row())))
    assert isinstance(again, Answer)
    assert (again.label, again.set, again.sha256) == (before.label, before.set, before.sha256)
    assert dict(again.top) == pytest.approx(shares, abs=1e-3)  # kept in half precision


def test_it_lives_and_a_mistake_ends_nothing(asks: Asks) -> None:
    assert asks("alive")[0]["alive"] is True
    wrong, _ = asks("again", row="no row")
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        parcels.error_of(wrong)
    assert asks("alive")[0]["alive"] is True


def test_the_website_is_told_what_the_model_is(model: Model) -> None:
    said = process.told(model)
    assert (said["classes"], said["text"], said["channels"]) == (["apple", "lime", "plum"], False, 3)
    assert said["version"] == model.version
