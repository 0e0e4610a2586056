"""Data sets in buckets, with a real S3 server on this machine: read, sharded, killed, refused, and failing."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from inflame import artifact, remote, store
from inflame.artifact import buckets, finding, shard
from inflame.artifact.contents import Contents
from inflame.cli.main import main
from inflame.errors import DataError, NetworkError

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'inflame[s3]'")

SMALL = shard.Recipe(shard_mb=0.008, size=32)
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def _use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # one that is open goes on asking the former address
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)


@pytest.fixture
def bucket(s3: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The uri of a bucket of this test alone with 12 of the photos in `raw/`; the environment leads to it."""
    boto3 = pytest.importorskip("boto3")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret-word",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    _use(s3, monkeypatch)
    client, name = boto3.client("s3", endpoint_url=s3), f"data-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    for path in photos.rglob("*.jpg"):
        if path.stem[-2:] > "03":
            path.unlink()  # a few will do
            continue
        client.put_object(Bucket=name, Key=f"raw/{path.relative_to(photos).as_posix()}", Body=path.read_bytes())
    return f"s3://{name}"


@pytest.fixture
def proxy(s3: str) -> Iterator[Callable[[Callable[[int], bytes | None]], tuple[str, list[str]]]]:
    """Starts a server before S3 that answers some requests itself: `body of the error = judge(number)`, None lets the
    request through. Gives its address and the list of what it was asked."""
    servers = []

    def start(judge: Callable[[int], bytes | None]) -> tuple[str, list[str]]:
        asked: list[str] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    asked.append(f"{self.command} {self.path}")
                    refusal = judge(len(asked))
                if refusal is None:
                    status, headers, answer = self._pass_on(body)
                else:
                    status, headers, answer = 403 if refusal == DENIED else 503, {}, refusal
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(urlsplit(s3).netloc, timeout=10)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                answer, drop = found.read(), ("transfer-encoding", "connection", "date", "server")
                kept = {name: value for name, value in found.getheaders() if name.lower() not in drop}
                connection.close()
                return found.status, kept, answer

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_all  # noqa: N815 - the names that http.server calls

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_class_folders_in_a_bucket_are_the_same_data(bucket: str, photos: Path) -> None:
    found = artifact.open(f"{bucket}/raw")
    assert (found.name, found.root, len(found)) == ("raw", f"{bucket}/raw", 12)
    assert found.version == artifact.open(photos).version


@pytest.mark.parametrize("to", shard.FORMATS)
def test_from_bucket_to_bucket_and_opened_again(bucket: str, photos: Path, to: str) -> None:
    words = ["shard", f"{bucket}/raw", f"{bucket}/out", "--to", to, "--size", "32", "--shard-mb", "0.008"]
    assert main([*words, "--workers", "1"]) == 0
    assert shard.verify(f"{bucket}/out")["items"] == 12
    found, original = artifact.open(f"{bucket}/out"), artifact.open(photos)
    assert (found.root, found.classes) == (f"{bucket}/out", original.classes)
    assert sorted(found.items["label"].to_pylist()) == sorted(original.items["label"].to_pylist())
    # What was made of the bucket is what is made of the folder, byte for byte.
    recipe = shard.Recipe(to=to, shard_mb=0.008, size=32)
    index = shard.shard(finding.listed(photos), photos.parent / "here", recipe, workers=1)
    data = [Contents(photos.parent / "here").read(f"{index['shards'][0]['name']}#{key}") for key in _keys(to)]
    assert [Contents(f"{bucket}/out").read(f"{index['shards'][0]['name']}#{key}") for key in _keys(to)] == data


def _keys(to: str) -> list[str]:
    return ["00000000.jpg", "00000001.jpg"] if to == "webdataset" else ["0", "1"]


def test_a_shard_is_brought_once_until_it_changes(bucket: str, proxy: Any, monkeypatch: Any) -> None:
    shard.shard(finding.listed(f"{bucket}/raw"), f"{bucket}/out", SMALL, workers=1)
    address, asked = proxy(lambda number: None)
    _use(address, monkeypatch)
    first = artifact.open(f"{bucket}/out")
    bodies = [line for line in asked if line.startswith("GET") and ".tfrecord" in line]
    assert len(bodies) == len({uri.partition("#")[0] for uri in first.items["uri"].to_pylist()})
    asked.clear()
    assert artifact.open(f"{bucket}/out").version == first.version
    assert not [line for line in asked if line.startswith("GET") and ".tfrecord" in line]
    name = first.items["uri"].to_pylist()[0].partition("#")[0]
    store.write(f"{bucket}/out/{name}", b"cut")
    with pytest.raises(DataError, match=f"{name}, record 0 .byte 0.: it is cut short"):
        artifact.open(f"{bucket}/out")
    rest = artifact.open(f"{bucket}/out", skip_bad=True)
    assert 0 < len(rest) < len(first)
    assert f"{name}#0" in [item for fault in rest.faults if fault.kind == "unreadable" for item in fault.items]


def test_an_archive_in_a_bucket(bucket: str, photos: Path, tmp_path: Path) -> None:
    import shutil

    packed = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    store.write(f"{bucket}/photos.zip", Path(packed).read_bytes())
    found = artifact.open(f"{bucket}/photos.zip")
    assert (found.name, len(found)) == ("photos", 12)


def test_check_reads_a_bucket(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    store.write(f"{bucket}/raw/apple/empty.jpg", b"")
    assert main(["check", f"{bucket}/raw", "--json"]) == 0
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert "apple/empty.jpg" in [item for fault in faults for item in fault["items"]]


def test_a_kill_between_two_buckets_loses_nothing(bucket: str) -> None:
    whole = shard.shard(finding.listed(f"{bucket}/raw"), f"{bucket}/whole", SMALL, workers=1)
    line = (
        "import sys, time\nfrom inflame.artifact import finding, shard\n"
        "upload = shard.store.upload\n"
        "def slow(*words):\n    upload(*words)\n    time.sleep(0.3)\n"
        "shard.store.upload = slow\n"
        "shard.shard(finding.listed(sys.argv[1]), sys.argv[2], shard.Recipe(shard_mb=0.008, size=32), workers=1)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", line, f"{bucket}/raw", f"{bucket}/out"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 30
    while not store.exists(f"{bucket}/out/notes") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)  # after a shard's note, most likely between the next shard and its note
    process.wait()
    assert not store.exists(f"{bucket}/out/shards.json")
    done = len(store.listdir(f"{bucket}/out/notes"))
    assert 0 < done < len(whole["shards"])
    index = shard.shard(finding.listed(f"{bucket}/raw"), f"{bucket}/out", SMALL, workers=1)
    assert index["shards"] == whole["shards"]
    assert shard.verify(f"{bucket}/out")["items"] == 12


def test_a_bucket_without_rights(
    bucket: str, proxy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = proxy(lambda number: DENIED)
    _use(address, monkeypatch)
    for words in (
        ["shard", f"{bucket}/raw", "out"],
        ["check", f"{bucket}/raw"],
        ["split", f"{bucket}/raw"],
    ):
        asked.clear()
        assert main(words) == 2
        told = capsys.readouterr().err
        assert f"{bucket} refused" in told
        assert "AWS_ACCESS_KEY_ID" in told
        assert "very-secret-word" not in told
        assert len(asked) == 1  # asking again won't help


def test_a_target_that_may_not_be_written(bucket: str, proxy: Any, photos: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(photos.parent)
    address, asked = proxy(lambda number: DENIED if asked[-1].startswith("PUT") else None)
    _use(address, monkeypatch)
    assert main(["shard", "photos", f"{bucket}/out", "--workers", "1"]) == 2
    told = capsys.readouterr().err
    assert f"{bucket} refused" in told
    assert "write" in told


def test_every_third_answer_fails_and_all_works(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory, count = fsspec.get_filesystem_class("memory"), [0]
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    whole = shard.shard(finding.listed(photos), photos.parent / "whole", SMALL, workers=1)

    def flaky(real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*words: Any, **more: Any) -> Any:
            count[0] += 1
            if count[0] % 3 == 0:
                raise OSError("503 Slow Down")
            return real(*words, **more)

        return asked

    for name in ("cat_file", "pipe_file", "put_file", "exists"):
        monkeypatch.setattr(memory, name, flaky(getattr(memory, name)))
    for path in photos.rglob("*.jpg"):
        store.write(f"memory://third/raw/{path.relative_to(photos).as_posix()}", path.read_bytes())
    index = shard.shard(finding.listed("memory://third/raw"), "memory://third/out", SMALL, workers=1)
    assert index["shards"] == whole["shards"]
    assert len(artifact.open("memory://third/raw")) == 36
    monkeypatch.undo()
    memory().rm("/third", recursive=True)


@pytest.mark.slow
def test_a_bucket_that_fails_every_third_time_and_all_works(
    bucket: str, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shard.shard(finding.listed(f"{bucket}/raw"), f"{bucket}/whole", SMALL, workers=1)
    address, asked = proxy(lambda number: SLOW_DOWN if number % 3 == 0 else None)
    _use(address, monkeypatch)
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    index = shard.shard(finding.listed(f"{bucket}/raw"), f"{bucket}/out", SMALL, workers=1)
    assert index["shards"] == whole["shards"]
    assert len(artifact.open(f"{bucket}/out")) == 12
    assert len(asked) > 40


@pytest.mark.slow
def test_a_bucket_that_always_fails_is_told_in_time(bucket: str, proxy: Any, monkeypatch: Any, capsys: Any) -> None:
    address, asked = proxy(lambda number: SLOW_DOWN)
    _use(address, monkeypatch)
    began = time.monotonic()
    assert main(["shard", f"{bucket}/raw", "out"]) == 1
    assert time.monotonic() - began < 60
    told = capsys.readouterr().err
    assert f"{bucket}/raw could not be reached in 6 tries" in told
    assert len(asked) < 50


def test_tries_come_later_and_later_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", pauses.append)

    def fails(system: object, place: str) -> None:
        raise OSError("503 Slow Down")

    with pytest.raises(NetworkError, match="in 6 tries: OSError: 503 Slow Down"):
        remote.ask("memory://anywhere/x", fails)
    assert len(pauses) == remote.TRIES - 1
    assert pauses[-1] > 4 * pauses[0]
    pauses.clear()
    monkeypatch.setattr(remote, "PATIENCE", -1.0)
    with pytest.raises(NetworkError):
        remote.ask("memory://anywhere/x", fails)
    assert not pauses


def test_a_file_in_a_bucket_that_dies_stops_the_reading(bucket: str, proxy: Any, monkeypatch: Any) -> None:
    """A place that fails is no fault of the items: they are not called unreadable."""
    address, _ = proxy(lambda number: SLOW_DOWN if number > 5 else None)
    _use(address, monkeypatch)
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    monkeypatch.setattr(remote, "TRIES", 2)
    with pytest.raises(NetworkError, match="could not be reached"):
        artifact.open(f"{bucket}/raw")


def test_what_is_a_bucket() -> None:
    assert buckets.is_bucket("s3://bucket/photos")
    assert not buckets.is_bucket("photos")
    assert not buckets.is_bucket("https://host/photos.zip")
    assert finding.is_one("s3://bucket/photos.zip")
    assert not finding.is_one("s3://bucket/photos")
