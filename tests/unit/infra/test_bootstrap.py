"""The first program on a machine: what it installs, what it says when it can't begin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from inflame.infra import bootstrap
from inflame.infra.pack import requirements, wheel


def test_it_needs_the_standard_library_alone() -> None:
    code = "import runpy, sys; sys.path = [p for p in sys.path if 'site-packages' not in p and '/src' not in p]; "
    code += f"runpy.run_path({bootstrap.__file__!r}); bad = [m for m in sys.modules if m.startswith('inflame')]; "
    code += "assert not bad, bad"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)


def test_what_is_satisfied() -> None:
    import numpy as np

    assert bootstrap.satisfied(f"numpy=={np.__version__}")
    assert bootstrap.satisfied("numpy>=1.20")
    assert not bootstrap.satisfied("numpy==1.0.1")
    assert not bootstrap.satisfied("there-is-no-such-package==1.0")
    assert not bootstrap.satisfied("./a/path")


def unpacked(tmp_path: Path, lines: list[str]) -> Path:
    inside = tmp_path / "work" / ".inflame"
    inside.mkdir(parents=True)
    (inside / wheel.name()).write_bytes(wheel.build(wheel.files()))
    (inside / "requirements.txt").write_text("\n".join(lines))
    return inside.parent


def test_prepare_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_PARTS", str(tmp_path / "parts"))
    work = unpacked(tmp_path, list(requirements.needed(tmp_path)))
    (target,) = bootstrap.prepare(work, print)  # all packages are here: there is inflame alone
    assert (target / "inflame" / "infra" / "aboard.py").is_file()
    assert (target / "inflame" / "infra" / "machines.toml").is_file()
    stamp = target.stat().st_mtime_ns
    assert bootstrap.prepare(work, print) == [target]
    assert target.stat().st_mtime_ns == stamp
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [target.name]


def test_packages_are_kept_when_inflame_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLAME_PARTS", str(tmp_path / "parts"))
    installed: list[list[str]] = []

    def install(lines: list[str], target: Path, say: object) -> None:
        installed.append(lines)
        target.mkdir()

    monkeypatch.setattr(bootstrap, "_install", install)
    work = unpacked(tmp_path, ["there-is-no-such-package==1.0"])
    first = bootstrap.prepare(work, print)
    (work / ".inflame" / wheel.name()).write_bytes(wheel.build({"inflame/__init__.py": b"changed = 1\n"}))
    second = bootstrap.prepare(work, print)
    assert installed == [["there-is-no-such-package==1.0"]]
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_a_requirement_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    work = unpacked(tmp_path, ["there-is-no-such-package==1.0"])
    (work / ".inflame" / "bootstrap.py").write_text(Path(bootstrap.__file__).read_text(encoding="utf-8"))
    job = {"output": str(tmp_path / "out"), "count": 1, "inputs": []}
    given = {**os.environ, "INFLAME_JOB": json.dumps(job), "INFLAME_PARTS": str(tmp_path / "parts"), "PIP_RETRIES": "0"}
    program = [sys.executable, str(work / ".inflame" / "bootstrap.py")]
    done = subprocess.run(program, env=given, capture_output=True, text=True)
    told = json.loads((tmp_path / "out" / "exit.json").read_text())
    assert (done.returncode, told["state"], told["code"]) == (1, "failed", 1)
    assert "requirements can't be installed" in told["reason"]
    assert "there-is-no-such-package" in told["reason"]
    assert not list((tmp_path / "parts").iterdir())


def test_a_job_that_is_not_said(tmp_path: Path) -> None:
    work = unpacked(tmp_path, [])
    (work / ".inflame" / "bootstrap.py").write_text(Path(bootstrap.__file__).read_text(encoding="utf-8"))
    given = {key: value for key, value in os.environ.items() if key != "INFLAME_JOB"}
    program = [sys.executable, str(work / ".inflame" / "bootstrap.py")]
    done = subprocess.run(program, env=given, capture_output=True, text=True)
    assert done.returncode == 1
    assert "INFLAME_JOB" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_is_one(tmp_path: Path) -> None:
    contents = wheel.files()
    data = wheel.build(contents)
    assert data == wheel.build(wheel.files())
    file = tmp_path / wheel.name()
    file.write_bytes(data)
    names = zipfile.ZipFile(file).namelist()
    assert not [name for name in names if "__pycache__" in name]
    assert any(name.endswith("entry_points.txt") for name in names)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path / "t"),
        str(file),
    ]
    subprocess.run(pip, check=True)
    assert (tmp_path / "t" / "inflame" / "cli" / "main.py").is_file()


def test_requirements_are_pinned_without_what_the_image_has(tmp_path: Path) -> None:
    lines = requirements.needed(tmp_path, output="s3://b/x")
    by_name = {line.partition("=")[0].partition(">")[0].partition("<")[0]: line for line in lines}
    assert "==" in by_name["onnx"]
    assert "==" in by_name["s3fs"]
    assert by_name["torch"].startswith("torch>=")
    assert not any(line.startswith(("nvidia", "inflame", "pytest", "triton")) for line in lines)
    assert any(line.startswith("torch==") for line in requirements.needed(tmp_path, image="python:3.11-slim"))


def test_what_the_model_imports_is_needed(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import json, helper, inflame\nfrom jinja2 import Template\nimport psutil\n")
    (tmp_path / "helper.py").write_text("import numpy\nimport nobody_knows\n")
    names = {line.partition("==")[0] for line in requirements.needed(tmp_path, image="python:3.11")}
    assert {"psutil", "jinja2", "numpy"} <= names
    assert not {"helper", "json", "nobody-knows", "nobody_knows"} & names
    (tmp_path / "requirements.txt").write_text("# mine\njoblib\n-r other.txt\nsome-thing==1.2  # not here\n")
    lines = requirements.needed(tmp_path, image="python:3.11")
    assert "some-thing==1.2" in lines
    assert "psutil" not in " ".join(lines)


def test_whoever_waits_is_told_why_it_did_not_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from inflame import store

    places = (tmp_path / "out", (tmp_path / "other").as_uri(), f"memory://gave-up-{tmp_path.name}/out")
    for output in map(str, places):
        assert bootstrap._give_up({"output": output}, "no wheel", 1.26) == 1
        told = json.loads(store.read_text(store.join(output, "exit.json")))
        assert (told["state"], told["reason"], told["seconds"]) == ("failed", "no wheel", 1.3)
    for nowhere in ({}, {"output": "nosuch://place"}):
        assert bootstrap._give_up(nowhere, "no wheel", 0.0) == 1
    assert capsys.readouterr().err == "inflame: error: no wheel\n" * 5


def test_an_archive_without_inflame_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = unpacked(tmp_path, [])
    (work / ".inflame" / wheel.name()).unlink()
    with pytest.raises(bootstrap.Trouble, match=r"no wheel of inflame: \['requirements.txt'\]"):
        bootstrap.prepare(work, print)


def test_what_another_process_made_meanwhile_is_taken(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        folder.mkdir()
        target = folder.parent / folder.name.rpartition("-")[2]
        target.mkdir()
        (target / "theirs").touch()  # a folder that isn't empty can't be replaced

    made = bootstrap._made(tmp_path, b"told", make)
    assert [path.name for path in tmp_path.iterdir()] == [made.name]
    assert (made / "theirs").exists()

    def fail(folder: Path) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        bootstrap._made(tmp_path, b"other", fail)
