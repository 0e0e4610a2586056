"""What is told of the data that a training begins with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from inflame import artifact
from inflame.model.engine import data
from inflame.records import Fault


def fault(kind: str, severity: str, *items: str) -> Fault:
    return Fault(kind=kind, severity=severity, reason=f"why {kind}", items=items)


def test_faults_are_told_by_kind_gravest_first_and_in_few_lines(photos: Path) -> None:
    found = dataclasses.replace(
        artifact.open(photos),
        faults=(
            fault("rotated", "info", "x"),
            fault("duplicate", "warning", "a", "b"),
            fault("unreadable", "error", "c"),
            fault("duplicate", "warning", "d", "e"),
        ),
    )
    assert data.faults(found) == ["1 × unreadable (left out): why unreadable", "4 × duplicate: why duplicate"]
    many = dataclasses.replace(found, faults=tuple(fault(f"kind_{n}", "warning", "a") for n in range(5)))
    assert data.faults(many)[-1].startswith("… and 3 more kinds")
    assert len(data.faults(many)) == 3
