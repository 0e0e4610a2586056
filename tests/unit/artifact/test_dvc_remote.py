"""The `.dvc` file is DVC's own; pushing and pulling lose nobody's versions, at a folder and at a real S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inflame import artifact, store
from inflame.artifact import dvc_remote, version
from inflame.errors import DataError, MissingExtra, NetworkError, UserError

pytest.importorskip("dvc", reason="needs DVC: pip install 'inflame[dvc]'")


def _dvc(root: Path, *words: str) -> str:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "CI": "1"}
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=root, env=env, check=True, capture_output=True, text=True).stdout


def _taken(photos: Path) -> tuple[version.Snapshot, Path]:
    folder = version.home_of("photos")
    made, _ = version.take(artifact.open(photos), folder)
    dvc_remote.track(folder)
    return made, folder


def _machine(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """The folder of versions of `photos` on another machine."""
    monkeypatch.setenv("INFLAME_HOME", str(home))
    return version.home_of("photos")


def test_the_file_is_what_dvc_add_writes(tmp_path: Path) -> None:
    folder = tmp_path / "repo" / "my photos"
    for name in ("packs/b.parquet", "packs/a.parquet", "versions/1/x.json", "versions/1-2/x.json", "z", "a b"):
        store.write(folder / name, f"content of {name}")
    ours = dvc_remote.describe(folder)
    _dvc(tmp_path / "repo", "init", "--no-scm", "--quiet")
    _dvc(tmp_path / "repo", "add", "--quiet", folder.name)
    assert dvc_remote.dvc_file(folder).read_text().replace("path: my photos", 'path: "my photos"') == ours


def test_in_a_repository_of_ones_own(photos: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=repo, check=True)
    _dvc(repo, "init", "--quiet")
    made, _ = version.take(artifact.open(photos), repo / "kept" / "photos")
    file = dvc_remote.track(repo / "kept" / "photos")
    assert file == repo / "kept/photos.dvc"
    assert "/photos" in (repo / "kept/.gitignore").read_text()
    assert "up to date" in _dvc(repo, "status")
    dvc_remote.push(repo / "kept" / "photos", str(tmp_path / "remote"))
    shutil.rmtree(repo / "kept/photos")
    shutil.rmtree(repo / ".dvc/cache")
    dvc_remote.pull(repo / "kept" / "photos", str(tmp_path / "remote"))
    version.verify(repo / "kept/photos", made)
    assert "remote" not in (repo / ".dvc/config").read_text()  # a place said on the command line stays out of git


@pytest.mark.slow
def test_two_machines_keep_both_sides(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = str(tmp_path / "remote")
    first, here = _taken(photos)
    dvc_remote.push(here, remote)
    there = _machine(monkeypatch, tmp_path / "home2")
    dvc_remote.pull(there, remote)
    version.verify(there, first)
    (photos / "lime/lime_00.jpg").unlink()
    second, _ = _taken(photos)
    dvc_remote.push(there)  # the place is remembered
    monkeypatch.setenv("INFLAME_HOME", str(here.parents[1]))
    (photos / "lime/lime_01.jpg").unlink()
    third, _ = _taken(photos)
    dvc_remote.push(here)  # somebody else pushed meanwhile
    assert {one.version for one in version.snapshots(here)} == {one.version for one in (first, second, third)}
    version.verify(here, second)
    dvc_remote.pull(_machine(monkeypatch, tmp_path / "home3"), remote)
    assert len(version.snapshots(version.home_of("photos"))) == 3


def test_a_remote_without_that_name(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with pytest.raises(DataError, match="no versions of photos"):
        dvc_remote.pull(version.home_of("photos"), str(tmp_path / "remote"))


@pytest.mark.parametrize("text", ["outs:\n- md5: x\n  path: ../../evil\n", "deps:\n- path: /etc\n", ""])
def test_a_file_at_the_remote_that_we_did_not_write(tmp_path: Path, text: str) -> None:
    store.write(tmp_path / "remote/photos.dvc", text)
    with pytest.raises(DataError, match="no versions of photos"):
        dvc_remote.pull(version.home_of("photos"), str(tmp_path / "remote"))


def test_a_remote_that_nobody_named(photos: Path) -> None:
    _, here = _taken(photos)
    with pytest.raises(UserError, match="Nobody said") as told:
        dvc_remote.push(here)
    assert "--remote" in told.value.remedy


def test_without_dvc(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc", None)  # type: ignore[arg-type]
    _, here = _taken(photos)
    assert dvc_remote.dvc_file(here).read_text() == dvc_remote.describe(here)
    with pytest.raises(MissingExtra) as told:
        dvc_remote.push(here, "remote")
    assert told.value.remedy == "pip install 'inflame[dvc]'"


def test_a_folder_outside_of_any_repository(photos: Path, tmp_path: Path) -> None:
    version.take(artifact.open(photos), tmp_path / "loose")
    with pytest.raises(UserError, match="not in a DVC repository"):
        dvc_remote.push(tmp_path / "loose", str(tmp_path / "remote"))


# --- S3 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of this test alone, and the environment that leads to it."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs", reason="needs s3fs: pip install 'inflame[s3]'")
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"versions-{os.urandom(4).hex()}"
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=name)
    return f"s3://{name}/kept"


def test_s3_there_and_back(photos: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-word")
    made, here = _taken(photos)
    assert dvc_remote.push(here, bucket) == bucket
    files = [path for path in store.home().rglob("*") if path.is_file()]
    assert not [path for path in files if b"very-secret-word" in path.read_bytes()]
    there = _machine(monkeypatch, tmp_path / "home2")
    dvc_remote.pull(there, bucket)
    version.verify(there, made)
    assert artifact.open(version.restore(there, made, tmp_path / "then")).version == made.version


def test_a_bucket_that_is_not_there(photos: Path, bucket: str) -> None:
    _, here = _taken(photos)
    with pytest.raises(NetworkError) as told:
        dvc_remote.push(here, "s3://nobody-made-this/kept")
    assert "NoSuchBucket" in told.value.message or "does not exist" in told.value.message
