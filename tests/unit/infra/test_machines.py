"""Names of machines: ours mean the same everywhere, others are the provider's, prices have a date or are unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflame.errors import UserError
from inflame.infra import machines
from inflame.records import JobSpec

CLOUDS = ("sagemaker", "azureml", "vertexai")


@pytest.mark.parametrize("backend", CLOUDS)
@pytest.mark.parametrize("name", machines.names())
def test_each_name_is_a_machine_of_each_cloud(name: str, backend: str) -> None:
    found = machines.find(name, backend)
    assert found.native
    assert (found.gpus or 0) == (0 if name.startswith("cpu") else int(name[4:]) if name[4:].isdigit() else 1)
    assert found.price is None or (found.price > 0 and found.date and found.region and found.source)


def test_larger_costs_more() -> None:
    for backend in CLOUDS:
        for kind in ("cpu-", "gpu-"):
            found = [machines.find(name, backend) for name in machines.names() if name.startswith(kind)]
            known = [machine.price for machine in found if machine.price]
            assert known == sorted(known)
            assert len(known) > 1


def test_an_unknown_price_is_unknown_and_never_nothing() -> None:
    found = machines.find("ml.p99.huge", "sagemaker")
    assert (found.native, found.price, found.said(), found.cost(3600)) == ("ml.p99.huge", None, "unknown", None)
    assert machines.find("gpu-8", "local").price is None
    assert machines.price(JobSpec(model="m", machine="ml.p99.huge", count=2), "sagemaker") is None


def test_two_machines_cost_twice() -> None:
    assert machines.price(JobSpec(model="m", machine="gpu-small", count=2), "sagemaker") == pytest.approx(2 * 0.736)
    assert machines.find("gpu-small", "sagemaker").cost(1800, 2) == pytest.approx(0.736)


@pytest.mark.parametrize(
    ("word", "guess"), [("gpu-smal", "gpu-small"), ("gpu_1", "gpu-1"), ("cpu-smal", "cpu-small"), ("gpu-2", "gpu-")]
)
def test_the_nearest_name_is_told(word: str, guess: str) -> None:
    with pytest.raises(UserError, match=f'no machine "{word}".*Did you mean "{guess}') as error:
        machines.find(word, "sagemaker")
    assert "ml.g4dn.xlarge" in error.value.remedy


def test_what_is_free_has_no_names_of_its_own() -> None:
    with pytest.raises(UserError, match="no machine"):
        machines.find("ml.m5.large", "slurm")


def test_own_prices_win_one_by_one(home: Path) -> None:
    (home / "machines.toml").write_text('date = "2026-11"\n[prices.sagemaker]\n"ml.g4dn.xlarge" = 0.5\n')
    assert machines.find("gpu-small", "sagemaker").price == 0.5
    assert machines.find("cpu-small", "sagemaker").price == 0.115


@pytest.mark.parametrize("text", ["prices = 3", '[prices.sagemaker]\n"x" = -1', "]"])
def test_a_table_that_cannot_be_is_refused(home: Path, text: str) -> None:
    (home / "machines.toml").write_text(text)
    with pytest.raises(UserError, match="can't be read"):
        machines.find("gpu-small", "sagemaker")
