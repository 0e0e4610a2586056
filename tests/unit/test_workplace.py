"""Where people work on inflame: dev container, editor, hooks and forms can be read, and name what there is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflame.cli.main import parser

ROOT = Path(__file__).parents[2]
CONTAINERS = sorted((ROOT / ".devcontainer").rglob("devcontainer.json"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def commented(path: Path) -> Any:
    """JSON with lines that are comments, as editors read it."""
    return json.loads(re.sub(r"^\s*//.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def tools() -> set[str]:
    """The programs that the lock file brings into .venv: of each named in `dev`, and our own."""
    return {re.split(r"[\[<>=!~]", name)[0] for name in PROJECT["optional-dependencies"]["dev"]} | set(
        PROJECT["scripts"]
    )


def is_there(command: str) -> bool:
    """Whether a command is a target of the Makefile, or a program of .venv."""
    program, *words = shlex.split(command)
    if program == "make":
        return set(words) <= TARGETS
    name = program.removeprefix(".venv/bin/")
    known = {"lint-imports": "import-linter"}.get(name, name)
    return (
        program.startswith(".venv/bin/")
        and known in tools()
        and bool(shutil.which(name, path=str(Path(sys.executable).parent)))
    )


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.parent.name)
def test_a_dev_container(path: Path) -> None:
    told = commented(path)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", told["image"])
    assert all(is_there(command) for command in told["postCreateCommand"].split(" && "))
    assert told["forwardPorts"] == [8000], "where inflame serve is"
    assert "3.11" in told["image"]


def test_both_containers_differ_in_the_gpu_alone() -> None:
    plain, gpu = (commented(path) for path in CONTAINERS)
    more = {"name", "runArgs", "hostRequirements"}
    assert {name: value for name, value in gpu.items() if name not in more} == {
        name: value for name, value in plain.items() if name not in more
    }
    assert "--gpus" in gpu["runArgs"]


def test_every_hook_is_a_program_of_the_lock_file() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for hook in repo["hooks"]]
    assert repo["repo"] == "local"
    assert len(entries) >= 4
    assert [entry for entry in entries if not is_there(entry)] == []
    linted = (ROOT / "Makefile").read_text()
    assert all(entry.split()[0].removeprefix(".venv/bin/") in linted for entry in entries), "half of make lint"


def test_the_editor_has_the_rules_of_the_project() -> None:
    told = commented(ROOT / ".vscode" / "settings.json")
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert told["editor.rulers"] == [rules["ruff"]["line-length"]]
    assert told["python.testing.pytestArgs"] == ["-m", "not slow"]
    recommended = {name for path in CONTAINERS for name in commented(path)["customizations"]["vscode"]["extensions"]}
    assert told["[python]"]["editor.defaultFormatter"] in recommended


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert field["attributes"]["label"]
    for command in re.findall(r"`inflame ([^`]+)`", path.read_text(encoding="utf-8")):
        verb, *words = command.split()
        parser(verb).understand(words)


def test_the_request_form_names_targets_and_files() -> None:
    text = (ROOT / ".github" / "pull_request_template.md").read_text()
    assert set(re.findall(r"`make (\w+)`", text)) <= TARGETS
    assert [name for name in re.findall(r"\b\w+\.md\b", text) if not (ROOT / name).is_file()] == []


def test_each_room_with_owners_is_there() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text().splitlines()
    owned = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert [place for place in owned if place != "*" and not (ROOT / place.strip("/")).exists()] == []
