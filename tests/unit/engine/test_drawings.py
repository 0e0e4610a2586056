"""Charts are valid SVG, say in words what they show, and put things where they belong."""

from __future__ import annotations

import itertools
import math
import shutil
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame.model.engine import drawings

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_lines_are_a_chart_with_words() -> None:
    series = [
        drawings.Line(points=[(1, 2.0), (2, 1.0), (3, 0.5)], style="main"),
        drawings.Line(points=[(1, 2.5)], style="muted"),
        drawings.Line(points=[], style="main"),
    ]
    root = parsed(drawings.lines(series, label='loss "x" < y & z', x_name="epoch", y_name="loss"))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'loss "x" < y & z'
    (line,) = root.findall("polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights == sorted(heights)  # falling loss goes down the page
    assert len(root.findall("circle")) == 1  # a single point is seen as well
    assert drawings.lines([], label="", x_name="", y_name="") == ""


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_axis_of_shares_ends_where_shares_end(share: float) -> None:
    series = [drawings.Line(points=[(5, share), (6, share)], style="main")]
    root = parsed(drawings.lines(series, label="l", x_name="x", y_name="y", percent=True))
    written = [float(text.text[:-2]) for text in root.findall("text") if text.text and text.text.endswith(" %")]
    assert len(written) > 2
    assert min(written) >= 0
    assert max(written) <= 100


OVERLAPS = """() => { const boxes = [...document.querySelectorAll("text")].map((one) => one.getBoundingClientRect());
  return boxes.some((a, place) => boxes.slice(0, place).some((b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)); }"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: chromium")
def test_the_name_of_an_axis_stands_beside_its_numbers() -> None:
    """In the largest letters of our pages, and in a font that is wide."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page()
        for low, high in ((0.995, 1.0), (0.98712, 0.98719), (0.2, 0.9), (0.0, 0.0001)):
            series = [drawings.Line(points=[(-5, low), (0, high)], style="main")]
            drawn = drawings.lines(series, label="l", x_name="days", y_name="estimated accuracy", percent=True)
            page.set_content(f'<style>text {{ font: 13px "DejaVu Sans" }}</style>{drawn}')
            assert not page.evaluate(OVERLAPS), (low, high)
        browser.close()


def test_a_perfectly_honest_bin_lies_on_the_diagonal() -> None:
    bins = [{"n": 9, "confidence": 0.5, "accuracy": 0.5, "rate_low": 0.2, "rate_high": 0.8}]
    root = parsed(drawings.reliability(bins, bins, label="l"))
    (diagonal,) = root.findall("polyline")
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in diagonal.attrib["points"].split())
    dot = next(c for c in root.findall("circle") if c.attrib["class"] == "dot")
    assert float(dot.attrib["cx"]) == pytest.approx((x0 + x1) / 2)
    assert float(dot.attrib["cy"]) == pytest.approx((y0 + y1) / 2)
    title = dot.find("title")
    assert title is not None
    assert title.text == "9 items: 50% sure, 50% right"


def test_risk_marks_the_chosen_point_and_the_wanted_rate() -> None:
    root = parsed(drawings.risk([[0.1, 0.0], [1.0, 0.2]], error=0.05, at=(0.1, 0.0), label="l"))
    assert len(root.findall("polyline")) == 2
    assert len(root.findall("circle")) == 1
    assert drawings.risk([], error=0.05, at=None, label="l") == ""
    assert parsed(drawings.risk([[1.0, 0.0]], error=0.0, at=None, label="l")) is not None


def test_heat_draws_only_what_happened() -> None:
    root = parsed(drawings.heat([[5, 0], [1, 4]], label="l"))
    cells = [rect for rect in root.findall("rect") if rect.attrib["class"] != "plate"]
    assert [rect.attrib["class"] for rect in cells] == ["good", "bad", "good"]


def test_interval_has_its_parts_in_order() -> None:
    root = parsed(drawings.interval(0.8, 0.9, 0.86, baseline=0.3, label="l"))
    places = {
        line.attrib["class"]: (float(line.attrib["x1"]), float(line.attrib["x2"])) for line in root.findall("line")
    }
    dot = root.find("circle")
    assert dot is not None
    assert places["track"][0] < places["base"][0] < places["range"][0] < float(dot.attrib["cx"]) < places["range"][1]
    assert "base" not in drawings.interval(0, 1, 0.5, baseline=None, label="l")


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6), count=st.integers(2, 8))
def test_ticks_span_the_data_in_even_steps(low: float, span: float, count: int) -> None:
    high = low + span
    found = drawings.ticks(low, high, count)
    step = found[1] - found[0]
    slack = step * 1e-6 + 1e-14 * (abs(low) + abs(high))  # as fine as floats of this size are
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= count + 3
    assert all(math.isclose(b - a, step, rel_tol=1e-3, abs_tol=1e-9) for a, b in itertools.pairwise(found))


def test_ticks_of_nothing() -> None:
    assert drawings.ticks(3, 3, 4)[0] <= 3
    assert drawings.ticks(0, 0, 4)[-1] >= 0
