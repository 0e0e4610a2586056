"""A real Prometheus reads a real website by the files of deploy/: every number that the alerts and the board ask for is
there, and the rules are read and answered."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
TOKEN = "sixteen-letters-and-more"
SHOWN = re.compile(r"\binflame_\w+")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Prometheus: apt-get install prometheus"),
]


def got(address: str, data: bytes | None = None, **headers: str) -> bytes:
    """The answer, as soon as there is a good one."""
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=10) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@contextmanager
def running(log: Path, *words: str, **environment: str) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(words, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def asked(fruit_bundle: Path, photo_set: Path, tmp_path: Path) -> Iterator[Any]:
    """What asks Prometheus, which has seen a website that has answered one picture."""
    site, here = port(), port()
    (tmp_path / "token").write_text(TOKEN)
    shutil.copy(DEPLOY / "monitoring" / "alerts.yml", tmp_path)
    said = (DEPLOY / "compose" / "prometheus.yml").read_text()
    for there, mine in {"/run/secrets/web_token": str(tmp_path / "token"), "web:8000": f"127.0.0.1:{site}"}.items():
        assert there in said
        said = said.replace(there, mine)
    (tmp_path / "prometheus.yml").write_text(said.replace("scrape_interval: 15s", "scrape_interval: 1s"))
    website = [sys.executable, "-m", "inflame", "serve", str(fruit_bundle), "--port", str(site)]
    words = ["--config.file", str(tmp_path / "prometheus.yml"), "--storage.tsdb.path", str(tmp_path / "data")]
    prometheus = ["prometheus", *words, f"--web.listen-address=127.0.0.1:{here}"]

    def ask(path: str, **query: str) -> Any:
        told = json.loads(got(f"http://127.0.0.1:{here}/api/v1/{path}?{urllib.parse.urlencode(query)}"))
        assert told["status"] == "success"
        return told["data"]

    with running(tmp_path / "site.log", *website, INFLAME_WEB_TOKEN=TOKEN):
        got(f"http://127.0.0.1:{site}/readyz")
        picture = (photo_set / "lime" / "lime_03.jpg").read_bytes()
        assert b"lime" in got(f"http://127.0.0.1:{site}/v1/classify", picture, **{"Content-Type": "image/jpeg"})
        with suppress(OSError):  # one answer that is none
            urllib.request.urlopen(f"http://127.0.0.1:{site}/v1/results/none", timeout=10)
        with running(tmp_path / "prometheus.log", *prometheus):
            yield ask


def test_all_that_is_asked_for_is_there(asked: Any) -> None:
    until = time.monotonic() + 60
    while not asked("query", query="inflame_predictions_total")["result"]:
        assert time.monotonic() < until, asked("targets")
        time.sleep(0.2)
    there = set(asked("label/__name__/values"))
    board = json.loads((DEPLOY / "monitoring" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in expressions:
        asked("query", query=expression)  # an error is a bad request, which raises
    # Counters by reason begin with the first of a kind, and nothing was refused here.
    wanted = set(SHOWN.findall(" ".join(expressions) + (DEPLOY / "monitoring" / "alerts.yml").read_text()))
    assert wanted - there <= {"inflame_rejected_total", "inflame_unreadable_total"}
    (group,) = asked("rules")["groups"]
    assert len(group["rules"]) == (DEPLOY / "monitoring" / "alerts.yml").read_text().count("- alert:")
    assert not [rule["lastError"] for rule in group["rules"] if rule.get("lastError")]
