"""What a sweep may still use of its time and its money."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from inflame import host
from inflame.factory.limits import Limits
from inflame.factory.sweep import cards, slots, workers
from inflame.factory.trials import Sweep


def limits(tmp_path: Path, spent: float = 0.0, *, workers: int = 1, **said: float) -> Limits:
    return Limits(Sweep(name="x", folder=str(tmp_path), model="m", **said), workers, lambda: spent)  # type: ignore[arg-type]


def test_money_is_time_of_all_workers_together(tmp_path: Path) -> None:
    assert limits(tmp_path, price=0.5).left() == math.inf
    assert limits(tmp_path, max_money=2.0, price=0.5).left() == 4 * 3600
    assert limits(tmp_path, 1.0, max_money=2.0, price=0.5, workers=4).left() == 1800
    assert limits(tmp_path, 1.0, max_money=2.0, price=0.5, budget=60.0).left() == pytest.approx(60, abs=1)
    assert limits(tmp_path, 1.9, max_money=2.0, price=0.5).over() == ""


def test_what_is_over_is_said(tmp_path: Path) -> None:
    assert limits(tmp_path, 2.01, max_money=2.0, price=0.5).over() == "the money of the sweep was spent: $2.01"
    (tmp_path / "state.json").write_text('{"seconds": 100}')  # of earlier sittings
    assert limits(tmp_path, budget=60.0).over() == "the time of the sweep was over"
    assert limits(tmp_path, budget=200.0).left() == pytest.approx(100, abs=1)


def test_each_worker_has_gpus_of_its_own_while_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, MIG-b,2,3")
    assert workers() == 4
    assert cards(4) == [["GPU-a"], ["MIG-b"], ["2"], ["3"]]
    assert cards(5)[4] == ["GPU-a"]
    assert workers(2) == 2
    assert cards(2, 2) == [["GPU-a", "MIG-b"], ["2", "3"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers() == host.cores()
    assert cards(2) == [[], []]
    assert len(slots(2)) == 2
