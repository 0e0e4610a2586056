"""Downloads against a server that cuts, lies, stalls and forgets."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflame.artifact import fetch, network
from inflame.artifact.fetch import Patience, Remote, download
from inflame.errors import NetworkError, StorageError

DATA = np.random.default_rng(0).bytes(200_000)
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def site(web: Any) -> Any:
    web.files["/a.bin"] = DATA
    return web


def remote(*urls: str, **sums: str) -> Remote:
    return Remote(name="a.bin", urls=urls, **sums)


def test_a_file_arrives_whole_and_alone(site: Any, tmp_path: Path, hasty: Patience) -> None:
    target = download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "new" / "a.bin")
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    assert target.stat().st_mode & 0o444 == 0o444


def test_a_file_that_is_there_is_not_fetched_again(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin").write_bytes(DATA)
    download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "a.bin")
    assert site.asked == []


def test_a_file_that_is_there_but_wrong_is_replaced(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin").write_bytes(DATA[:-1])
    assert download(remote(site.url("/a.bin"), md5=MD5), tmp_path / "a.bin").read_bytes() == DATA


def test_a_server_that_cuts_is_asked_for_the_rest(site: Any, tmp_path: Path, hasty: Patience) -> None:
    target = download(remote(site.url("/a.bin?cut=60000"), sha256=SHA), tmp_path / "a.bin")
    assert target.read_bytes() == DATA
    assert site.ranges() == [None, "bytes=60000-", "bytes=120000-", "bytes=180000-"]


def test_cuts_are_mended_without_a_checksum_by_the_etag(site: Any, tmp_path: Path, hasty: Patience) -> None:
    assert download(remote(site.url("/a.bin?cut=90000")), tmp_path / "a.bin").read_bytes() == DATA
    assert site.ranges() == [None, "bytes=90000-", "bytes=180000-"]


def test_without_checksum_and_etag_it_starts_over(site: Any, tmp_path: Path, hasty: Patience) -> None:
    with pytest.raises(NetworkError) as caught:
        download(remote(site.url("/a.bin?cut=90000&untagged=1")), tmp_path / "a.bin")
    assert set(site.ranges()) == {None}
    assert "cut at 90,000 of 200,000 bytes" in caught.value.where


def test_a_length_that_is_not_told(site: Any, tmp_path: Path, hasty: Patience) -> None:
    assert download(remote(site.url("/a.bin?chunked=1")), tmp_path / "a.bin").read_bytes() == DATA
    assert site.ranges() == [None, None]
    with pytest.raises(NetworkError):
        download(remote(site.url("/a.bin?chunked=99")), tmp_path / "b.bin")


def test_a_server_that_ignores_ranges_is_read_from_the_start(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").write_bytes(DATA[:50_000])
    target = download(remote(site.url("/a.bin?norange=1"), sha256=SHA), tmp_path / "a.bin")
    assert target.read_bytes() == DATA
    assert site.ranges() == ["bytes=50000-"]


def test_a_file_that_changed_meanwhile_is_read_from_the_start(site: Any, tmp_path: Path, hasty: Patience) -> None:
    url = site.url("/a.bin")
    (tmp_path / "a.bin.part").write_bytes(b"x" * 50_000)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": url, "validator": '"old"'}))
    assert download(remote(url), tmp_path / "a.bin").read_bytes() == DATA
    assert site.ranges() == ["bytes=50000-"]


def test_a_beginning_of_something_else_is_thrown_away(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 50_000)
    assert download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "a.bin").read_bytes() == DATA
    assert site.ranges() == ["bytes=50000-", None]


def test_a_beginning_longer_than_the_file_is_thrown_away(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 300_000)
    assert download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "a.bin").read_bytes() == DATA


def test_all_bytes_there_but_not_renamed(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "a.bin").read_bytes() == DATA
    assert site.asked == []
    assert not (tmp_path / "a.bin.part").exists()


def test_another_part_than_asked_for_is_refused(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").write_bytes(DATA[:50_000])
    with pytest.raises(NetworkError) as caught:
        download(remote(site.url("/a.bin?shift=1"), sha256=SHA), tmp_path / "a.bin")
    assert "another part" in caught.value.where


def test_wrong_bytes_lead_to_the_next_place(site: Any, tmp_path: Path, hasty: Patience) -> None:
    site.files["/wrong"] = b"<!DOCTYPE html><p>log in first"
    places = remote(site.url("/wrong"), site.url("/none"), site.url("/a.bin"), sha256=SHA)
    assert download(places, tmp_path / "a.bin").read_bytes() == DATA
    with pytest.raises(NetworkError) as caught:
        download(remote(site.url("/wrong"), site.url("/none"), sha256=SHA), tmp_path / "b.bin", tried=["mirror: no"])
    first, second, third = caught.value.where.splitlines()
    assert first == "mirror: no"
    assert "a web page came instead" in second
    assert "sha256" in second
    assert third.endswith("/none: HTTP 404 Not Found")
    assert "INFLAME_MIRROR" in caught.value.remedy
    assert not (tmp_path / "b.bin").exists()


def test_a_missing_file_is_asked_for_once(site: Any, tmp_path: Path, hasty: Patience) -> None:
    with pytest.raises(NetworkError):
        download(remote(site.url("/none")), tmp_path / "a.bin")
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again(site: Any, tmp_path: Path, hasty: Patience) -> None:
    download(remote(site.url("/a.bin?status=503&times=1"), sha256=SHA), tmp_path / "a.bin")
    assert len(site.asked) == 2
    with pytest.raises(NetworkError) as caught:
        download(remote(site.url("/a.bin?status=503")), tmp_path / "b.bin")
    assert "HTTP 503" in caught.value.where


def test_silence_is_not_waited_out(site: Any, tmp_path: Path, hasty: Patience) -> None:
    begun = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        download(remote(site.url("/a.bin?cut=50000&stall=1&norange=1")), tmp_path / "a.bin")
    assert time.monotonic() - begun < 4
    assert "no byte for" in caught.value.where


def test_a_stalled_download_goes_on_at_the_next_place(site: Any, tmp_path: Path, hasty: Patience) -> None:
    site.files["/b.bin"] = DATA
    places = remote(site.url("/a.bin?cut=50000&stall=1&norange=1"), site.url("/b.bin"), sha256=SHA)
    assert download(places, tmp_path / "a.bin").read_bytes() == DATA
    assert site.asked[-1] == ("/b.bin", "bytes=50000-")


def test_nobody_there(tmp_path: Path, hasty: Patience) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        download(remote(f"http://127.0.0.1:{closed}/a", sha256=SHA), tmp_path / "a.bin")
    assert time.monotonic() - begun < 2
    assert "refused" in caught.value.where.lower()


def test_hosts_are_knocked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name)

    def dead(*_: Any, **__: Any) -> socket.socket:
        time.sleep(5)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", dead)
    begun = time.monotonic()
    silent = network.silent_hosts([f"https://host{n}.example/a" for n in range(9)], seconds=0.2)
    assert time.monotonic() - begun < 2
    assert len(silent) == 9
    assert silent["host0.example"] == "no answer within 0.2 s"


def test_behind_a_proxy_nothing_is_asked() -> None:
    assert network.silent_hosts(["https://example.org/a"], seconds=0.2) == {}


def test_local_paths_and_fsspec_are_places_too(tmp_path: Path, hasty: Patience) -> None:
    import fsspec

    (tmp_path / "here.bin").write_bytes(DATA)
    assert download(remote(str(tmp_path / "here.bin"), sha256=SHA), tmp_path / "a.bin").read_bytes() == DATA
    with fsspec.open("memory://place/a.bin", "wb") as file:
        file.write(DATA)
    assert download(remote("memory://place/a.bin", md5=MD5), tmp_path / "b.bin").read_bytes() == DATA
    with pytest.raises(NetworkError) as caught:
        download(remote(str(tmp_path / "gone.bin"), str(tmp_path), "memory://gone"), tmp_path / "c.bin")
    assert len(caught.value.where.splitlines()) == 3


def test_a_folder_that_cannot_be_written_is_the_disk_not_the_network(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        download(remote(site.url("/a.bin")), tmp_path / "file" / "a.bin")


def test_a_full_disk_is_the_disk_not_the_network(site: Any, tmp_path: Path, hasty: Patience) -> None:
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(StorageError) as caught:
        download(remote(site.url("/a.bin")), tmp_path / "a.bin")
    assert "full" in caught.value.message


def test_killed_in_the_middle_it_goes_on(site: Any, tmp_path: Path, hasty: Patience) -> None:
    url, part = site.url("/a.bin?slow=1"), tmp_path / "a.bin.part"
    code = (
        "from pathlib import Path; from inflame.artifact.fetch import *;"
        f"download(Remote(name='a', urls=({url!r},), sha256={SHA!r}), Path({str(tmp_path / 'a.bin')!r}))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    try:
        deadline = time.monotonic() + 20
        while (not part.exists() or part.stat().st_size < 20_000) and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    size = part.stat().st_size
    assert 0 < size < len(DATA)
    assert not (tmp_path / "a.bin").exists()
    assert download(remote(url, sha256=SHA), tmp_path / "a.bin").read_bytes() == DATA
    assert site.ranges()[-1] == f"bytes={size}-"


def test_a_long_download_tells_one_line_when_nobody_watches(
    site: Any, tmp_path: Path, hasty: Patience, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "quick")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(fetch, "_LONG", 0.0)
    download(remote(site.url("/a.bin"), sha256=SHA), tmp_path / "long")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("a.bin: 0.2 MB from 127.0.0.1 in ")


def test_two_processes_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with fetch.alone(tmp_path):
            order.append("second")

    with fetch.alone(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []
