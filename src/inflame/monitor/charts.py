"""The charts of an overview, drawn as everywhere in inflame (see engine/drawings.py); their colours are in
pages/monitor.css."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from inflame.model.engine.drawings import Line, lines
from inflame.monitor.overview import Overview, Span
from inflame.monitor.speech import Say, english

HOUR, DAY = 3_600.0, 86_400.0


def charts(found: Overview, speak: Say = english) -> dict[str, Markup]:
    """By name: traffic, unknown, latency, classes and accuracy over time; those that have nothing to show are empty."""
    days = found.until - found.since > 3 * DAY
    unit, name = (DAY, speak("days from now")) if days else (HOUR, speak("hours from now"))

    def across(when: float) -> float:
        return (when - found.until) / unit

    def of_spans(value: Callable[[Span], float | None]) -> list[tuple[float, float]]:
        return [(across(span.begin), shown) for span in found.spans if (shown := value(span)) is not None]

    made = {
        "traffic": lines(
            [Line(points=of_spans(lambda span: float(span.answers)), style="main")],
            label=speak("answers over time"), x_name=name, y_name=speak("answers"),
        ),
        "unknown": lines(
            [Line(points=of_spans(_unknown), style="main")],
            label=speak("share of answers about what the model does not know, over time"), x_name=name,
            y_name=speak("not known"), percent=True,
        ),
        "latency": lines(
            [
                Line(points=of_spans(lambda span: _milliseconds(span.median)), style="main"),
                Line(points=of_spans(lambda span: _milliseconds(span.slow)), style="other"),
            ],
            label=speak("latency over time: the median, and what 95 of 100 answers stay below"),
            x_name=name, y_name="ms",
        ),
        "classes": lines(
            [Line(points=of_spans(_share(one)), style=f"series{place}") for place, one in enumerate(found.classes, 1)],
            label=speak("share of the answers over time: {names}", names=", ".join(found.classes)), x_name=name,
            y_name=speak("of the answers"), percent=True,
        ),
        "accuracy": _accuracy(found, across, name, speak),
    }  # fmt: skip
    return made if found.answers else dict.fromkeys(made, Markup(""))


def _accuracy(found: Overview, across: Callable[[float], float], name: str, speak: Say) -> Markup:
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
        label=speak("estimated accuracy of the windows that were checked, with its interval"),
        x_name=name,
        y_name=speak("estimated accuracy"),
        percent=True,
    )


def _unknown(span: Span) -> float | None:
    return span.unknown / span.answers if span.answers else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _share(name: str) -> Callable[[Span], float | None]:
    return lambda span: span.classes.get(name, 0) / span.answers if span.answers else None
