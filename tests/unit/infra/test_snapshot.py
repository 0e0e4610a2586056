"""The code as it is: what belongs to it, what is refused, and that the repository isn't touched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from inflame.errors import DataError
from inflame.infra.pack import secrets, snapshot

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, **IDENTITY}
    )
    return done.stdout.strip()


def fill(folder: Path) -> Path:
    model = folder / "models" / "mine"
    model.mkdir(parents=True)
    (model / "app.py").write_text("print('app')\n")
    (model / "train.py").write_text("# first\n")
    (folder / "shared.py").write_text("X = 1\n")
    (folder / ".gitignore").write_text("out/\n*.log\n")
    (folder / "old.py").write_text("pass\n")
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder in a repository with a commit."""
    folder = tmp_path / "the repo"
    found = fill(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return found


def names(found: snapshot.Snapshot) -> set[str]:
    return {entry.path for entry in found.entries}


def test_what_is_committed_is_the_tree_of_the_commit(model: Path) -> None:
    found = snapshot.take(model)
    assert found.tree == git(model, "rev-parse", "HEAD^{tree}")
    assert (found.model, found.root, found.branch, found.diff) == ("models/mine", model.parents[1], "main", "")
    assert found.commit == git(model, "rev-parse", "HEAD")


def test_changed_new_and_deleted_files_count_and_nothing_is_touched(model: Path) -> None:
    top = model.parents[1]
    (model / "train.py").write_text("# second\n")
    (top / "staged.py").write_text("staged\n")
    git(top, "add", "staged.py")
    (top / "grüße \n.py").write_text("new\n")
    (top / "old.py").unlink()
    (top / "out").mkdir()
    (top / "out" / "weights").write_text("ignored\n")
    (top / "link.py").symlink_to("shared.py")
    before = (
        git(top, "status", "--porcelain=v2"),
        (top / ".git" / "index").read_bytes(),
        sorted((top / ".git").rglob("*")),
    )
    found = snapshot.take(model)
    assert names(found) == {
        ".gitignore", "models/mine/app.py", "models/mine/train.py", "shared.py", "staged.py", "grüße \n.py", "link.py",
    }  # fmt: skip
    assert "+# second" in found.diff
    assert (top / ".git" / "index").read_bytes() == before[1]
    assert sorted((top / ".git").rglob("*")) == before[2]
    assert git(top, "status", "--porcelain=v2") == before[0]
    content = {entry.path: data for entry, data in found.contents(found.entries)}
    assert content["models/mine/train.py"] == b"# second\n"
    assert content["link.py"] == b"shared.py"
    git(top, "add", "-A")
    assert found.tree == git(top, "write-tree")


def test_the_same_code_has_the_same_name_however_often_and_wherever(model: Path, tmp_path: Path) -> None:
    first = snapshot.take(model).tree
    assert snapshot.take(model).tree == first
    assert snapshot.take(fill(tmp_path / "elsewhere")).tree != first  # of the folder alone
    assert snapshot.take_folder(tmp_path / "elsewhere").tree == first
    (model / "train.py").write_text("# other\n")
    assert snapshot.take(model).tree != first
    (model / "train.py").write_text("# first\n")
    assert snapshot.take(model).tree == first


def test_a_folder_in_no_repository(tmp_path: Path) -> None:
    model = fill(tmp_path)
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "app.pyc").write_bytes(b"x")
    (model / "train.log").write_text("x")
    found = snapshot.take(model)
    assert (found.root, found.model, found.commit) == (model, ".", "")
    assert names(found) == {"app.py", "train.py", "train.log"}
    (model / ".inflameignore").write_text("*.log\n")
    assert names(snapshot.take(model)) == {"app.py", "train.py", ".inflameignore"}


def test_a_model_that_git_ignores_goes_by_itself(model: Path) -> None:
    other = fill(model.parents[1] / "out")
    found = snapshot.take(other)
    assert (found.root, found.model) == (other, ".")


def test_what_git_has_can_be_left_out(model: Path) -> None:
    (model.parents[1] / ".inflameignore").write_text("old.py\n")
    assert "old.py" not in names(snapshot.take(model))


@pytest.mark.parametrize("name", [".env", "deploy.pem", "id_rsa", "credentials.json", ".ENV.local"])
def test_secrets_are_refused_by_name(model: Path, name: str) -> None:
    (model / name).write_text("")
    with pytest.raises(DataError, match=r"hold secrets.*models/mine/") as error:
        snapshot.take(model)
    assert ".gitignore" in error.value.remedy
    with (model.parents[1] / ".gitignore").open("a") as file:
        file.write(f"{name}\n")
    assert f"models/mine/{name}" not in names(snapshot.take(model))


# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "AWS": "key = 'AKIA" + "Q3EGRIFTBXYZAB67'",
    "private key": "-----BEGIN RSA PRIVATE " + "KEY-----\n" + "MIIEpAIBAAKCAQEA" * 4,
    "GitHub": "gh" + "p_" + "a1B2" * 9,
    "Hugging Face": "hf" + "_" + "abCD" * 8 + "ef",
    "Azure": "AccountKey" + "=" + "a1B2" * 21 + "ab==",
    "Google service": '{"private_key' + '_id": "' + "0a1b" * 10 + '"}',
    "OpenAI": "sk" + "-proj-" + "a1B2" * 12,
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_refused_by_what_is_inside(model: Path, kind: str) -> None:
    (model / "train.py").write_text(f"# harmless\n{SECRETS[kind]}\n")
    for _ in range(2):  # a refusal is not remembered as clean
        with pytest.raises(DataError, match=f"train.py.*{kind}"):
            snapshot.take(model)


@pytest.mark.parametrize(
    "text",
    ["AKIAIOSFODNN7EXAMPLE", "PRIVATE KEY goes here", "ghp_…", "sk-learn is a library", "aws_secret_access_key = x"],
)
def test_what_only_looks_like_a_secret_passes(text: str) -> None:
    assert secrets.inside(text.encode()) == ""


def test_large_files_and_data_are_refused_by_name(model: Path) -> None:
    (model / "big.bin").write_bytes(bytes(2000))
    with pytest.raises(DataError, match=r"larger than 1\.0 KB.*models/mine/big\.bin \(2\.0 KB\)"):
        snapshot.take(model, limit=1024)
    (model / "big.bin").unlink()
    for number in range(20):
        (model / f"{number}.jpg").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"20 files are data.*models/mine \(2\.0 KB\)") as error:
        snapshot.take(model, limit=1024)
    assert "io.training_input" in error.value.remedy


def test_the_biggest_come_first(model: Path) -> None:
    (model / "long.py").write_text("x = 1\n" * 100)
    assert [entry.path for entry in snapshot.take(model).biggest(1)] == ["models/mine/long.py"]


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    model = fill(tmp_path)
    git(tmp_path, "init", "-q")
    found = snapshot.take(model)
    assert (found.model, found.commit) == ("models/mine", "")
    assert "shared.py" in names(found)


def test_a_repository_in_the_repository_is_said(model: Path) -> None:
    inner = model.parents[1] / "vendored"
    inner.mkdir()
    (inner / "x.py").write_text("")
    git(inner, "init", "-q")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "x")
    git(model.parents[1], "-c", "advice.addEmbeddedRepo=false", "add", "-A")
    found = snapshot.take(model)
    assert any("vendored" in note for note in found.notes)
    assert not any(name.startswith("vendored") for name in names(found))
