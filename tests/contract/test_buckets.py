"""Every place that a job's output can be keeps what `store` promises, with its real driver: S3 and Google's storage as
our control planes have them, Azure's as Azurite has it; and a job is sent there and brought back."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame import store
from inflame.artifact import grow, grow_bucket, opening
from inflame.artifact.contents import Contents
from inflame.errors import DataError
from inflame.infra import attempts, jobs, launch
from inflame.infra.loopback.buckets import Buckets
from inflame.infra.loopback.gcs import Gcs
from inflame.infra.loopback.s3 import S3
from inflame.infra.loopback.server import Server
from inflame.infra.pack import wheel
from inflame.records import JobSpec

pytestmark = [  # of the drivers and what they stand on
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]
AZURITE = Path(__file__).parents[2] / ".peers" / "node_modules" / ".bin"  # npm install --prefix .peers azurite
INFLAME = wheel.files()
APP = """
import sys
from inflame import store
words = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
store.write(store.join(words["output"], "status.json"), '{"state": "done"}')
print("trained", flush=True)
"""


def _lead(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """The environment says where the service is; file systems of earlier tests are forgotten."""
    import fsspec.asyn

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for kind in fsspec.asyn.AsyncFileSystem.__subclasses__():
        kind.clear_instance_cache()


def _s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs")
    buckets = Buckets(tmp_path / "buckets")
    buckets.make("bucket")
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
    with Server(S3(buckets)) as server:
        _lead(monkeypatch, AWS_ENDPOINT_URL=server.url, AWS_DEFAULT_REGION="us-east-1", **keys)
        yield "s3://bucket"


def _gs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # Read when it is imported: else Google is asked what kind of bucket it is, and whether this machine is Google's.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    pytest.importorskip("gcsfs")
    buckets = Buckets(tmp_path / "buckets")
    buckets.make("bucket")
    with Server(Gcs(buckets)) as server:
        _lead(monkeypatch, STORAGE_EMULATOR_HOST=server.url)
        yield "gs://bucket"


def _az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("adlfs")
    program = shutil.which("azurite-blob", path=f"{AZURITE}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs Azurite: npm install --prefix .peers azurite")
    from azure.storage.blob import ContainerClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = b64encode(os.urandom(64)).decode()
    told = f"DefaultEndpointsProtocol=http;AccountName=mine;AccountKey={key};"
    told += f"BlobEndpoint=http://127.0.0.1:{port}/mine;"
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"mine:{key}")
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(tmp_path / "azurite")]
    words += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL) as server:
        try:
            _wait(port, server)
            with ContainerClient.from_connection_string(told, "box") as container:
                container.create_container()
            _lead(monkeypatch, AZURE_STORAGE_CONNECTION_STRING=told)
            yield "az://box"
        finally:
            server.terminate()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert server.poll() is None, "Azurite has ended"
            assert time.monotonic() < until
            time.sleep(0.1)
        else:
            return


def _blobs(seed: int) -> bytes:
    """A picture like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


PLACES = {"s3": _s3, "gs": _gs, "az": _az}


@pytest.fixture(params=["s3", "gs", pytest.param("az", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The uri of an empty bucket."""
    yield from PLACES[request.param](tmp_path, monkeypatch)


def test_what_is_written_is_read_and_listed(place: str) -> None:
    folder = f"{place}/a b/Grüße & co"
    store.write(f"{folder}/one.txt", "one")
    store.write(f"{folder}/one.txt", "two")
    store.write(f"{folder}/deeper/three.txt", "three")
    assert store.read_text(f"{folder}/one.txt") == "two"
    assert store.listdir(folder) == ["deeper", "one.txt"]
    assert store.exists(f"{folder}/deeper")
    assert not store.exists(f"{folder}/nothing")
    with store.open_uri(f"{folder}/one.txt") as file:
        file.seek(1)
        assert file.read() == b"wo"
    with pytest.raises(DataError):
        store.read_bytes(f"{folder}/nothing")


def test_of_several_that_create_one_does(place: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.create(f"{place}/lock", str(number)), range(8)))
    assert sum(made) == 1
    assert store.read_text(f"{place}/lock") == str(made.index(True))


def test_large_files_go_in_pieces(place: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * (24 * 2**10)  # 6 MB
    (tmp_path / "large").write_bytes(data)
    store.upload(tmp_path / "large", f"{place}/large")
    store.download(f"{place}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_data_set_grows_there(place: str) -> None:
    """Items in class folders, then what people named: version 2 refers to both, from any machine."""
    for number, label in enumerate(["lime", "plum"] * 12):
        store.write(f"{place}/photos/{label}/{number}.jpg", _blobs(number))
    before = opening.open(f"{place}/photos")
    named = [grow.Named(content=_blobs(100 + number), label="owl") for number in range(5)]
    made = grow.grow(before, named, new=("owl",))
    assert made.folder == f"{place}/photos/.grown/v0002"
    after = opening.open(made.folder)
    assert after.version == made.version
    assert after.classes == ("lime", "plum", "owl")
    new = [uri for uri in after.items["uri"].to_pylist() if uri.startswith(".grown/")]
    assert {Contents(after.root).read(uri) for uri in new} == {one.content for one in named}
    assert opening.open(f"{place}/photos").version == before.version
    assert grow_bucket.claim(after.root, 2) == 3


def test_a_bucket_that_is_not_there_is_said(place: str) -> None:
    nowhere = f"{place.partition('://')[0]}://nowhere-at-all/x"
    with pytest.raises(DataError, match="nowhere-at-all"):
        store.read_bytes(nowhere)


@pytest.mark.slow
def test_a_job_there_and_back(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_BEAT", "0.3")
    monkeypatch.setattr(attempts, "BEAT", 0.3)
    monkeypatch.setattr(wheel, "files", lambda: dict(INFLAME))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "app.py").write_text(APP)
    sent = launch.plan(JobSpec(model=str(tmp_path / "mine"), output=f"{place}/jobs"), "local").send()
    until = time.monotonic() + 60
    while not (sent := jobs.refresh(sent)).ended:
        assert time.monotonic() < until, sent
        time.sleep(0.1)
    assert (sent.state, sent.reason) == ("done", "")
    assert jobs.logs(sent)[0] == ["trained"]
    assert (jobs.fetch(sent) / "status.json").is_file()


def test_without_keys_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's driver looks for them before it is asked anything."""
    pytest.importorskip("adlfs")
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    _lead(monkeypatch)  # else the file system of an earlier test, with its keys, is asked
    with pytest.raises(DataError, match="az://box refused") as refused:
        store.exists("az://box/x")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in refused.value.remedy
