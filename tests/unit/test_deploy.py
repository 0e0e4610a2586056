"""What lies in deploy/ fits the program: words it understands, nobody's keys, nobody's root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from inflame.cli.shard import shard_words
from inflame.cli.words import Parser

DEPLOY = Path(__file__).parents[2] / "deploy"


def _understood(words: list[str]) -> object:
    parser = Parser("inflame shard")
    shard_words(parser)
    return parser.understand(words)


def test_the_job_says_what_the_verb_understands() -> None:
    job = yaml.safe_load((DEPLOY / "data" / "job.yaml").read_text())["spec"]["template"]["spec"]
    container = job["containers"][0]
    words = _understood(container["args"])
    assert (words.data, words.target, words.size) == ("s3://raw/photos", "s3://mine/shards", 256)  # type: ignore[attr-defined]
    assert job["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_what_the_readme_runs_is_understood() -> None:
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    runs = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("docker run")]
    assert len(runs) == 4
    for run in runs:
        words = run.partition(" inflame-data")[2].split()
        assert not words or _understood(words)


def test_the_image_is_nobodys() -> None:
    text = (DEPLOY / "data" / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+", text, re.MULTILINE)
    assert text.rindex("USER 10001") > text.rindex("RUN")
    assert 'ENTRYPOINT ["inflame", "shard"]' in text
    steps = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD|torch", steps)


@pytest.mark.parametrize("needed", ["pyproject.toml", "requirements.lock", "README.md", "LICENSE", "src"])
def test_the_build_gets_what_it_copies(needed: str) -> None:
    assert f"!{needed}\n" in (DEPLOY / "data" / "Dockerfile.dockerignore").read_text()
    assert needed in (DEPLOY / "data" / "Dockerfile").read_text()
    assert (DEPLOY.parent / needed).exists()
