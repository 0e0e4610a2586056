"""The example dashboard and the alert rules ask for numbers that /metrics has, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy" / "monitoring"
_NAME = re.compile(r"\b(inflame_\w+)(?:\{([^}]*)\})?")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.fixture
def shown(serve: Callable[..., httpx.Client], apple: bytes, tmp_path: Path) -> dict[str, set[str]]:
    """The labels of each number on the page of a real server that has answered, refused and not read something."""
    client = serve(log=str(tmp_path / "log.db"))
    client.post("/v1/classify", files={"file": apple})
    client.post("/v1/classify", files={"file": b"no picture"})
    found: dict[str, set[str]] = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            names = {"histogram": [f"{name}_bucket", f"{name}_count", f"{name}_sum"]}.get(kind, [name])
            found |= {one: set() for one in names}
        elif not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels or ""))
    return found


def test_every_number_is_there(shown: dict[str, set[str]]) -> None:
    panels = dashboard()["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in rules()]
    names = [match for expression in asked for match in _NAME.findall(expression)]
    assert len(names) >= 20
    for name, labels in names:
        assert name in shown, f"{name} is not on /metrics"
        assert set(re.findall(r"(\w+)=", labels)) <= shown[name] | {"instance"}


def test_what_sums_keep_is_there(shown: dict[str, set[str]]) -> None:
    for rule in [*rules(), *(t for panel in dashboard()["panels"] for t in panel["targets"])]:
        for kept, name in re.findall(r"by \(([\w, ]+)\) \((?:rate\(|increase\()?(inflame_\w+)", rule["expr"]):
            labels = {word.strip() for word in kept.split(",")} - {"instance"}
            assert labels <= shown[name] or not shown[name], (rule["expr"], shown[name])


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 36
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in found["panels"])
    assert all(panel["datasource"]["uid"] == "${source}" for panel in found["panels"])


def test_rules_say_how_urgent_and_what_happened() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    assert all(rule["labels"]["severity"] in ("page", "ticket") for rule in rules())
    assert all(rule["annotations"]["summary"] for rule in rules())
    asked = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert asked["rule_files"] == ["alerts.yml"]
