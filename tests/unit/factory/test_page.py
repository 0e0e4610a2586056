"""Numbers as pages show them: never rounded to something that they aren't."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame.factory import page
from inflame.factory.page import NARROW, THIN


@given(st.floats(0, 1), st.integers(0, 3))
def test_a_share_is_all_or_nothing_only_where_it_is(share: float, digits: int) -> None:
    text = page.percent(share, digits)
    value = float(text.removesuffix(f"{NARROW}%").removeprefix("< "))
    assert (value == 100) == (share == 1)
    assert (value == 0) == (share == 0)
    assert abs(value - 100 * share) <= 10.0**-digits


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (page.percent(None), "–"),
        (page.percent(0.946), f"94.6{NARROW}%"),
        (page.points(0.031), "+3.1"),
        (page.points(-0.031), "−3.1"),
        (page.points(None), "–"),
        (page.points(math.nan), "–"),
        (page.number(0.00012345), "0.0001234"),
        (page.number(3), "3"),
        (page.number(True), "True"),
        (page.duration(None), "–"),
        (page.duration(0.123), f"0.12{THIN}s"),
        (page.duration(58.4), f"58{THIN}s"),
        (page.duration(99.6), "1 min 40 s"),
        (page.duration(180), "3 min"),
        (page.duration(7500), "2 h 5 min"),
        (page.money(1234.5), "1,234.50"),
        (page.money(0.042), "0.042"),
        (page.money(0.0001), "< 0.001"),
        (page.money(0), "0"),
        (page.energy(0.41), f"0.41{THIN}Wh"),
        (page.energy(12.3), f"12{THIN}Wh"),
        (page.energy(3100), f"3.1{THIN}kWh"),
    ],
)
def test_as_people_write_them(found: str, shown: str) -> None:
    assert found == shown
