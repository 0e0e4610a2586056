"""dvc.yaml: from a name to a tested model with plain `dvc repro`, and nothing twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflame.cli.main import parser

pytest.importorskip("dvc", reason="needs DVC: pip install 'inflame[dvc]'")

ROOT = Path(__file__).parents[2]
STAGES = ["get", "check", "split", "shard", "train"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of what DVC sees of this repository."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text((ROOT / ".dvc/config").read_text() + "    no_scm = True\n")
    return tmp_path


def _dvc(repo: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "CI": "1", "PATH": path}
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _ran(said: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", said)


def test_what_stands_on_what(repo: Path) -> None:
    arrows = set(re.findall(r'"(\w+)" -> "(\w+)"', _dvc(repo, "dag", "--dot")))
    assert arrows >= {("get", "check"), ("get", "split"), ("split", "shard"), ("shard", "train")}
    assert {name for arrow in arrows for name in arrow} == set(STAGES)


def test_every_command_is_one_that_inflame_understands(repo: Path) -> None:
    values = yaml.safe_load((repo / "params.yaml").read_text())
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    assert list(stages) == STAGES
    for stage in stages.values():
        command = re.sub(r"\$\{(\w+)\}", lambda found: str(values[found[1]]), stage["cmd"]).partition(" > ")[0]
        program, verb, *words = command.split()
        assert program == "inflame"
        parser(verb).understand(words)


def test_our_copy_is_quiet_and_keeps_out_of_git(repo: Path) -> None:
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    outs = re.findall(r"- (data/\S+?):?$", (ROOT / "dvc.yaml").read_text(), re.MULTILINE)
    assert outs
    assert "/data/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_name_to_a_tested_model(repo: Path) -> None:
    assert sorted(_ran(_dvc(repo, "repro"))) == sorted(STAGES)
    test: dict[str, Any] = json.loads((repo / "data/dvc/test.json").read_text().splitlines()[-1])
    assert test["test"]["accuracy"] > 0.9
    assert json.loads((repo / "data/dvc/check/check.json").read_text())["items"] == 1797
    assert _ran(_dvc(repo, "repro")) == []
    assert "accuracy" in _dvc(repo, "metrics", "show", "--json")
    params = (repo / "params.yaml").read_text()
    (repo / "params.yaml").write_text(params.replace("shard_mb: 64", "shard_mb: 1"))
    assert _ran(_dvc(repo, "repro", "shard")) == ["shard"]
    assert len(list((repo / "data/dvc/shards").glob("*.tar"))) > 1
