"""The charts of an overview, drawn as everywhere in inflame (see engine/drawings.py); their colours are in
pages/monitor.css."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from inflame.model.engine.drawings import Line, lines
from inflame.monitor.overview import Overview, Span

HOUR, DAY = 3_600.0, 86_400.0


def charts(found: Overview) -> dict[str, Markup]:
    """By name: traffic, unknown, latency, classes and accuracy over time; those that have nothing to show are empty."""
    unit, name = (DAY, "days from now") if found.until - found.since > 3 * DAY else (HOUR, "hours from now")

    def across(when: float) -> float:
        return (when - found.until) / unit

    def of_spans(value: Callable[[Span], float | None]) -> list[tuple[float, float]]:
        return [(across(span.begin), shown) for span in found.spans if (shown := value(span)) is not None]

    made = {
        "traffic": lines(
            [Line(points=of_spans(lambda span: float(span.answers)), style="main")],
            label="answers over time", x_name=name, y_name="answers",
        ),
        "unknown": lines(
            [Line(points=of_spans(_unknown), style="main")],
            label="share of answers about what the model does not know, over time", x_name=name, y_name="not known",
            percent=True,
        ),
        "latency": lines(
            [
                Line(points=of_spans(lambda span: _milliseconds(span.median)), style="main"),
                Line(points=of_spans(lambda span: _milliseconds(span.slow)), style="other"),
            ],
            label="latency over time: the median, and what 95 of 100 answers stay below", x_name=name, y_name="ms",
        ),
        "classes": lines(
            [Line(points=of_spans(_share(one)), style=f"series{place}") for place, one in enumerate(found.classes, 1)],
            label=f"share of the answers over time: {', '.join(found.classes)}", x_name=name, y_name="of the answers",
            percent=True,
        ),
        "accuracy": _accuracy(found, across, name),
    }  # fmt: skip
    return made if found.answers else dict.fromkeys(made, Markup(""))


def _accuracy(found: Overview, across: Callable[[float], float], name: str) -> Markup:
    """The estimates of the windows that were checked, with their intervals."""
    guesses = [(across(one["to"]), one["accuracy"]) for one in found.windows if one.get("accuracy")]
    reliable = [(when, guess) for when, guess in guesses if guess["reliable"]]
    if len(reliable) < 2:
        return Markup("")

    def of(part: str) -> Sequence[tuple[float, float]]:
        return [(when, guess[part]) for when, guess in reliable]

    return lines(
        [
            Line(points=of("accuracy"), style="main"),
            Line(points=of("low"), style="bound"),
            Line(points=of("high"), style="bound"),
        ],
        label="estimated accuracy of the windows that were checked, with its interval",
        x_name=name,
        y_name="estimated accuracy",
        percent=True,
    )


def _unknown(span: Span) -> float | None:
    return span.unknown / span.answers if span.answers else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _share(name: str) -> Callable[[Span], float | None]:
    return lambda span: span.classes.get(name, 0) / span.answers if span.answers else None
