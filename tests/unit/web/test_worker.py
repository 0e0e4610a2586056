"""The process of a model: it may crash, hang and be killed; its website answers on, and says so where it can't."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from inflame.artifact import seen
from inflame.artifact.preprocess import PictureError
from inflame.errors import BundleError
from inflame.model.engine.bundle import Predictor, amend
from inflame.web import parcels
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.problems import Problem, of
from inflame.web.served import Served
from inflame.web.settings import Settings
from inflame.web.slots import Slot
from inflame.web.wire import Link

Serve = Callable[..., httpx.Client]


@pytest.fixture
def served(fruit_bundle: Path) -> Iterator[Served]:
    made = Served("fruit", fruit_bundle, Settings(read_time=1.0)).wait()
    yield made
    made.close()


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def other(served: Served, pid: int) -> bool:
    return served.worker.up and served.worker.pid != pid


def test_the_same_bytes_give_the_same_numbers_as_in_this_process(
    served: Served, fruit_bundle: Path, photo_set: Path
) -> None:
    model = Model("fruit", fruit_bundle, Settings())
    contents = [file.read_bytes() for file in sorted(photo_set.rglob("*.jpg"))[::4]]
    for one, expected in zip(served.answer(contents), model.answer(contents), strict=True):
        assert isinstance(one, Answer)
        assert isinstance(expected, Answer)
        assert one.shares == expected.shares
        assert one.embedding == expected.embedding
        assert (one.seen, one.kind) == (expected.seen, "JPEG")
        assert one.told() == {**expected.told(), "seconds": one.told()["seconds"]}


def test_what_cannot_be_read_stands_in_its_place(served: Served, apple: bytes) -> None:
    broken, good, empty = served.answer([apple[: len(apple) // 2], apple, b""])
    assert isinstance(broken, PictureError)
    assert broken.kind == "truncated"
    assert isinstance(good, Answer)
    assert isinstance(empty, PictureError)
    assert of(empty).status == 422


def test_reasons_copies_and_what_is_shown(served: Served, apple: bytes) -> None:
    why = served.explain(apple)
    assert why["said"]["near"][0]["label"] == "apple"
    (small,) = served.small_copies([apple], 16)
    assert small[:2] == b"\xff\xd8"
    assert served.small_copies([b"junk"], 16) == [b""]
    assert {one.label for one in served.shown(3)} == {"apple", "lime", "plum"}
    with pytest.raises(PictureError):
        served.explain(b"junk")


def test_metadata_is_stripped_there_and_not_here(
    serve: Serve, apple: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What strangers send is taken apart in the process of the model: here no reader of pictures may be called."""
    with Image.open(io.BytesIO(apple)) as image:
        exif, file = image.getexif(), io.BytesIO()
        exif[0x010E] = "my garden"
        image.save(file, "JPEG", exif=exif)
    client = serve(log=str(tmp_path / "log.db"))

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a picture was opened in the website's process")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refused)
        patch.setattr(Image.Image, "load", refused)
        (said,) = client.post("/v1/classify", files={"file": file.getvalue()}, data={"keep": "1"}).json()["results"]
        client.app.state.service.store.settle()  # type: ignore[attr-defined]
    log = client.app.state.service.store.log  # type: ignore[attr-defined]
    kept, entry = log.kept(said["sha256"]), log.find(said["id"])
    assert b"my garden" in file.getvalue()
    assert b"my garden" not in kept
    numbers, kind = seen.picture(Predictor(client.app.state.service.slots["fruit"].current.folder).read(kept), kept)  # type: ignore[attr-defined]
    assert entry.kind == kind == "JPEG"
    assert np.allclose(entry.seen[:-2], numbers[:-2])  # but for what the shorter file changes: its density


def test_what_cannot_be_taken_apart_is_not_kept(served: Served, apple: bytes) -> None:
    plain, empty, text = served.bare([apple, apple[:40], b"no picture"])
    assert plain[:2] == b"\xff\xd8"
    assert empty == b""
    assert text == b"no picture"  # a text has nothing to take away


def test_a_killed_process_comes_back_and_nobody_is_left_waiting(served: Served, apple: bytes) -> None:
    for _ in range(3):
        pid = served.worker.pid
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(served.answer, [apple] * 3) for _ in range(12)]
            os.kill(pid, signal.SIGKILL)
            for one in asked:
                assert [found.label for found in one.result(20) if isinstance(found, Answer)] == ["apple"] * 3
        assert other(served, pid)
    assert served.worker.deaths == 3


def test_a_picture_that_takes_too_long_ends_the_process_and_only_its_own_answer(served: Served, apple: bytes) -> None:
    pid = served.worker.pid
    os.kill(pid, signal.SIGSTOP)  # it hangs, as it would over a picture without end
    slow, good = served.answer([apple, apple])
    assert isinstance(slow, PictureError)
    assert slow.kind == "too_slow"
    assert of(slow).code == "unprocessable"
    assert isinstance(good, Answer)  # by the next process
    assert served.worker.pid != pid


def test_a_picture_that_breaks_the_reader_twice_is_refused(
    fruit_bundle: Path, apple: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Served("fruit", fruit_bundle, Settings(read_time=20.0)).wait()
    ask = made.worker.ask
    turns = iter((signal.SIGSEGV, signal.SIGSEGV))

    def asked(*given: Any, **more: Any) -> Any:
        """Each process in turn dies of a fault while it reads the first picture."""
        fault = next(turns, None)
        if fault is None:
            return ask(*given, **more)
        assert within(20, lambda: made.worker.up)
        pid = made.worker.pid
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(ask, *given, **more)
            assert within(5, lambda: bool(made.worker._calls))
            os.kill(pid, fault)
            os.kill(pid, signal.SIGCONT)
            return waits.result(20)

    monkeypatch.setattr(made.worker, "ask", asked)
    try:
        bad, good = made.answer([apple, apple])
        assert isinstance(bad, PictureError)
        assert bad.kind == "corrupt"
        assert isinstance(good, Answer)
        assert made.worker.deaths == 2
    finally:
        made.close()


def test_it_is_limited_and_knows_no_secret(fruit_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment it has what its libraries need. Whatever else there is may be secret."""
    secret = {
        "INFLAME_WEB_TOKEN": "a-secret-of-the-website",
        "INFLAME_CHAT_KEY": "a-secret-of-the-chat",
        "INFLAME_LOG": "postgresql://log:a-secret-of-the-log@db.example/log",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-a-cloud",
        "RAY_ADDRESS": "ray://a-secret-of-a-cluster",
        "THE_NEXT_ONE": "a-secret-that-nobody-has-thought-of",
    }
    needed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7"}
    for name, value in {**secret, **needed}.items():
        monkeypatch.setenv(name, value)
    made = Served("fruit", fruit_bundle, Settings()).wait()
    try:
        place = Path(f"/proc/{made.worker.pid}")
        if not place.exists():
            pytest.skip("needs /proc")
        limits = {line[:26].strip(): line[26:].split() for line in (place / "limits").read_text().splitlines()}
        assert limits["Max core file size"][0] == "0"
        assert int(limits["Max address space"][0]) < 2**36
        assert int(limits["Max cpu time"][0]) < 1000
        told = dict(word.split("=", 1) for word in (place / "environ").read_text().split("\0") if word)
        assert not secret.keys() & told.keys()
        assert "a-secret" not in str(told)
        assert {name: told[name] for name in needed} == needed
        assert told["INFLAME_HOME"] == os.environ["INFLAME_HOME"]
    finally:
        made.close()
    assert made.worker._process.returncode == 0


def test_a_bundle_that_cannot_be_trusted_is_refused_as_it_is_here(fruit_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fruit_bundle, tmp_path / "bundle"))
    (folder / "classes.json").write_text("[]")
    with pytest.raises(BundleError, match=r"classes\.json"):
        Served("fruit", folder, Settings()).wait()


def test_a_version_that_cannot_come_back_makes_room_for_the_one_that_is_there(
    fruit_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(fruit_bundle, tmp_path / "bundle"))
    slot = Slot("fruit", folder, Settings())
    first = slot.current
    amend(folder, {"card.md": b"# another card\n"})
    os.kill(first.worker.pid, signal.SIGKILL)
    assert within(20, lambda: first.worker.gone)
    with pytest.raises(Problem) as away:
        first.answer([b""])
    assert away.value.code == "not_ready"
    assert slot.changed()
    assert slot.reload()
    assert slot.current.card == "# another card\n"
    assert not slot.rollback()
    slot.close()


def test_the_website_says_that_it_is_not_ready_and_then_is(serve: Serve, apple: bytes) -> None:
    client = serve()
    worker = client.app.state.service.slots["fruit"].current.worker  # type: ignore[attr-defined]
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    assert within(1, lambda: client.get("/readyz").status_code == 503)
    assert "fruit starts again" in client.get("/readyz").json()["why"] or worker.pid != pid
    reply = client.post("/v1/classify", files={"file": apple})  # it waits for the next one
    assert reply.status_code == 200
    assert within(20, lambda: client.get("/readyz").status_code == 200)
    assert "inflame_deaths 1.0" in client.get("/metrics").text


def test_no_process_is_left_behind(fruit_bundle: Path) -> None:
    made = Served("fruit", fruit_bundle, Settings()).wait()
    pid = made.worker.pid
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nonsense_of_a_process_is_no_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\x05\0\0\0[1,2]")
        with pytest.raises(ValueError, match="header"):
            Link(ours).receive(5)
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ValueError, match="bytes"):
            Link(ours).receive(5)
        theirs.close()
        assert Link(ours).receive(5) is None
    with pytest.raises(RuntimeError, match="TypeError: it"):
        parcels.error_of(parcels.error_told(TypeError("it")))


@pytest.mark.slow
def test_killed_a_hundred_times(serve: Serve, apple: bytes) -> None:
    """No request hangs; /readyz turns red within a second, and green again when the bundle is loaded."""
    client = serve()
    worker = client.app.state.service.slots["fruit"].current.worker  # type: ignore[attr-defined]
    codes: list[int] = []
    slowest = 0.0
    stop = threading.Event()

    def ask() -> None:
        nonlocal slowest
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=20) as mine:
            while not stop.is_set():
                began = time.monotonic()
                codes.append(mine.post("/v1/classify", files={"file": apple}).status_code)
                slowest = max(slowest, time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    red, back = [], []
    for _ in range(100):
        began = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        assert within(1, lambda: not worker.up)
        red.append(time.monotonic() - began)
        assert within(10, lambda: client.get("/readyz").status_code == 200)
        back.append(time.monotonic() - began)
        answered = len(codes)
        assert within(10, lambda answered=answered: len(codes) > answered + 1)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert set(codes) <= {200, 503, 504}
    assert codes.count(200) > 100
    assert slowest < 12
