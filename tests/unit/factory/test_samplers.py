"""Points of a space."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame.config.axes import Axis
from inflame.errors import UserError
from inflame.factory import samplers
from inflame.factory.trials import Trial

RATE = Axis(key="hyperparam.learning_rate", low=1e-4, high=1e-1, log=True)
SIZE = Axis(key="hyperparam.batch_size", low=1, high=4, whole=True)
NET = Axis(key="net", values=("a", "b", "c"))
AXES = (RATE, SIZE, NET)


@given(st.sampled_from(["random", "qmc"]), st.integers(0, 5000), st.integers(0, 100))
def test_points_are_in_the_space_and_a_function_of_their_number(name: str, number: int, seed: int) -> None:
    found = samplers.point(name, AXES, number, seed=seed)
    assert found == samplers.point(name, AXES, number, seed=seed)
    assert found is not None
    assert RATE.low <= found[RATE.key] <= RATE.high
    assert found[SIZE.key] in (1, 2, 3, 4)
    assert found["net"] in NET.values


def test_another_seed_is_another_sequence() -> None:
    for name in ("random", "qmc"):
        assert samplers.point(name, AXES, 3, seed=0) != samplers.point(name, AXES, 3, seed=1)


def test_quasi_random_points_fill_the_space_evenly() -> None:
    """Of 64 points each quarter of an axis has its 16, where random ones have 11 to 21 or so."""
    for axes in ((RATE, SIZE), (NET, RATE)):
        points = [samplers.point("qmc", axes, number, seed=5) or {} for number in range(64)]
        quarter = Counter(int(4 * math.log(p[RATE.key] / 1e-4) / math.log(1e3) * 0.999999) for p in points)
        assert all(14 <= quarter[place] <= 18 for place in range(4)), quarter


def test_whole_numbers_have_equal_shares() -> None:
    counts = Counter((samplers.point("random", (SIZE,), n, seed=0) or {})[SIZE.key] for n in range(4000))
    assert all(900 < counts[value] < 1100 for value in (1, 2, 3, 4)), counts


def test_a_grid_has_every_combination_once_and_an_end() -> None:
    axes = (NET, Axis(key="seed", values=(0, 1)))
    found = [samplers.point("grid", axes, number, seed=0) for number in range(7)]
    assert found[0] == {"net": "a", "seed": 0}
    assert found[1] == {"net": "a", "seed": 1}
    assert len({tuple(point.items()) for point in found[:6] if point}) == 6
    assert found[6] is None


def test_the_sampler_that_suits() -> None:
    grid = (NET, Axis(key="seed", values=(0, 1)))
    assert samplers.choose("", grid, 1, None) == "grid"
    assert samplers.choose("", grid, 1, 5) == "tpe"
    assert samplers.choose("", AXES, 1, 5) == "tpe"
    assert samplers.choose("", grid, 2, None) == "nsga"
    with pytest.raises(UserError, match='Did you mean "random"'):
        samplers.choose("randm", grid, 1, None)
    with pytest.raises(UserError, match="has all between two bounds"):
        samplers.choose("grid", AXES, 1, None)


@pytest.mark.parametrize("name", ["tpe", "nsga", "gp"])
def test_samplers_that_learn_come_closer(name: str) -> None:
    """A hill at a rate of 1e-2 and a size of 3: the last points are nearer to it than the first."""
    directions = ("maximize", "minimize") if name == "nsga" else ("maximize",)
    sampler = samplers.Learned(name, AXES, directions, seed=0)
    trials: list[Trial] = []
    states = ("done", "done", "stopped", "waiting", "failed", "running")
    for number in range(48 if name == "nsga" else 30):
        settings = sampler.propose(number, trials)
        assert settings == sampler.propose(number, trials), "the same trials give the same point"
        height = -abs(math.log10(settings[RATE.key]) + 2) - abs(settings[SIZE.key] - 3) / 2
        state = "done" if name == "nsga" else states[number % 6] if number > 3 else "done"
        values = (height, -height) if name == "nsga" else (height,)
        trials.append(Trial(number=number, settings=settings, state=state, values=values, budget=5.0))
    heights = [trial.values[0] for trial in trials]
    assert sum(heights[-10:]) > sum(heights[:10]) + 2


def test_the_recipe_itself_is_tried_first_where_it_is_in_the_space() -> None:
    own = {RATE.key: 1e-3, SIZE.key: 2, "net": NET.values[0]}
    sampler = samplers.Learned("tpe", AXES, ("maximize",), seed=0, own=own)
    assert sampler.propose(0, []) == own
    assert sampler.propose(1, []) != own
    without = samplers.Learned("tpe", AXES, ("maximize",), seed=0, own={RATE.key: 1e-3})
    assert set(without.propose(0, [])) == set(own)


def test_lists_can_be_chosen() -> None:
    axis = Axis(key="hyperparam.widths", values=((1, 2), (3, 4)))
    sampler = samplers.Learned("tpe", (axis,), ("maximize",), seed=0)
    trials = [Trial(number=n, settings={axis.key: (1, 2)}, state="done", values=(1.0,)) for n in range(12)]
    assert sampler.propose(12, trials)[axis.key] in axis.values
