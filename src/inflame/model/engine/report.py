"""The report of a run: one HTML file that needs nothing else (no network, no script), and the same as JSON.

`report(run_folder)` reads the files of the run folder (see findings.py), draws, and writes `report.html` and
`report.json` into it. It can be made again at any time, also for a run that was stopped.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from inflame import __version__, store
from inflame.artifact.contents import Contents
from inflame.artifact.preprocess import canvas
from inflame.artifact.texts import decode
from inflame.errors import InflameError
from inflame.model.engine import drawings, explained, findings
from inflame.records import Preprocess, dumps

EXPLAINED, MOMENT = 8, 1.5  # mistakes that are explained, and the seconds after which no further one is
SNIPPET = 240  # characters of a text that are shown
SIDE = 176  # pixels of a thumbnail, shown at half of that on a sharp screen
NUMBERS = 25  # up to so many classes the confusion matrix is a table of numbers
CELLS = 100  # up to so many it is drawn; beyond, the most frequent confusions must do
WORST = 25  # classes listed before the rest is folded away


def report(run_folder: str | Path, *, pictures: int = 24, moment: float = MOMENT) -> Path:
    """Writes `report.html` and `report.json` into the run folder and returns the path of the first.

    `pictures`: how many mistakes and suspected labels are shown; `moment`: seconds that explaining some may take. What
    is missing in the folder is left out; pictures that can't be found any more are said to be so. Raises DataError when
    it is no run folder.
    """
    folder = Path(run_folder)
    found = findings.gather(folder, pictures=pictures)
    found["advice"] = advice(found)
    page = render(found, why=_why(folder, found, moment))
    store.write(folder / "report.json", dumps(_finite(found)))
    store.write(folder / "report.html", page)
    return folder / "report.html"


def render(found: dict[str, Any], why: Mapping[str, Markup] | None = None) -> str:
    """The HTML page for what `findings.gather` found. `why`: what some of the mistakes rest on, by uri."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration, "soft": soft, "count": "{:,}".format}
    root, text = found["dataset"]["root"], found["dataset"].get("kind") == "text"
    source = Contents(root)  # one for all: a table of texts is read once
    return environment.get_template("report.html").render(
        found,
        charts=_charts(found),
        choices=[row for row in found["reasons"] if row["taken"] not in ("taken", "not taken")],
        why=why or {},
        thumbnail=lambda uri: "" if text else thumbnail(root, uri),
        snippet=lambda uri: snippet(source, uri) if text else "",
        thing="text" if text else "picture",
        example="letter.txt" if text else "photo.jpg",
        limits={"numbers": NUMBERS, "cells": CELLS, "worst": WORST},
        made={"by": __version__, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")},
        sqrt=math.sqrt,
    )


def _why(folder: Path, found: dict[str, Any], moment: float) -> dict[str, Markup]:
    """What the worst mistakes rest on: heat over the picture, or the text with its words marked. As many as a moment
    allows: a training waits for this. None where bundle or items have gone."""
    wrong = found["mistakes"]["items"] if "mistakes" in found else []
    shown: dict[str, Markup] = {}
    if not wrong or moment <= 0 or not (folder / "bundle").is_dir():
        return shown
    from inflame.model.engine.predictor import Predictor

    began = time.monotonic()
    with suppress(InflameError, OSError):
        predictor, source = Predictor(folder / "bundle"), Contents(found["dataset"]["root"])
        for item in wrong[:EXPLAINED]:
            one = predictor.explain(source.read(item["uri"]), near=0)
            if one.picture is not None and one.heat is not None:
                image = Markup('<img src="{}" alt="heat over {}">')
                shown[item["uri"]] = image.format(
                    explained.address(explained.overlay(one.picture, one.heat)), item["uri"]
                )
            else:
                shown[item["uri"]] = Markup("<blockquote>{}</blockquote>").format(explained.marked(one, SNIPPET))
            if time.monotonic() - began > moment:
                break
    return shown


def advice(found: dict[str, Any]) -> list[dict[str, str]]:
    """What would help most, the surest first: `{"text", "see"}`, with the section of the page that shows it."""
    if "accuracy" not in found:
        return []
    rows = [
        (_faults(found), "data"),
        (_suspects(found), "labels"),
        (_confused(found), "mistakes"),
        (_weakest(found), "classes"),
        (_few(found), ""),
    ]
    return [{"text": text, "see": see} for text, see in rows if text][:4]


def percent(share: float | None, digits: int = 1) -> str:
    """`94.6 %`, with a space that doesn't break; what is not all or nothing is never rounded to 100 or 0."""
    if share is None:
        return "–"
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if float(text) == 100 and share < 1:
        text = f"{100 - least:.{digits}f}"
    elif float(text) == 0 and share > 0:
        text = f"< {least:.{digits}f}"
    return f"{text}\N{NARROW NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """`58 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.3g}\N{NO-BREAK SPACE}s" if seconds < 10 else f"{whole}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def soft(name: str) -> Markup:
    """A name that may break after its underscores, hyphens and slashes."""
    return Markup("").join(Markup("{}<wbr>").format(char) if char in "_-/" else escape(char) for char in name)


def thumbnail(root: str, uri: str) -> str:
    """The picture as a `data:` address, cut square as the model saw it; empty when it can't be read."""
    try:
        pixels = _pixels(Path(root), uri)
    except (InflameError, OSError, ValueError, IndexError):
        return ""
    small = max(pixels.shape[:2]) < 64
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
    content = io.BytesIO()
    if small:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def snippet(source: Contents, uri: str) -> str:
    """The beginning of a text; empty when it can't be read."""
    try:
        text = " ".join(decode(source.read(uri))[0].split())
    except (InflameError, OSError, ValueError):
        return ""
    return text if len(text) <= SNIPPET else text[:SNIPPET].rsplit(" ", 1)[0] + " …"


def _pixels(root: Path, uri: str) -> Any:
    name, _, row = uri.rpartition("#")
    if name.endswith(".npy") and row.isdigit():
        array = np.load(root / name, mmap_mode="r", allow_pickle=False)[int(row)]
        return np.ascontiguousarray(array if array.ndim == 3 else array[:, :, None])
    return canvas(Contents(root).read(uri), Preprocess(size=SIDE, resize=SIDE))


def _charts(found: dict[str, Any]) -> dict[str, Any]:
    charts: dict[str, Any] = {"curves": _curves(found["curves"])}
    if "accuracy" not in found:
        return charts
    shown, base = found["accuracy"][found["split"]], found["majority"]
    charts["accuracy"] = drawings.interval(
        shown["low"],
        shown["high"],
        shown["value"],
        baseline=base["value"],
        label=f"Accuracy {percent(shown['value'])}, 95 % interval {percent(shown['low'])} to {percent(shown['high'])}; "
        f"always answering {base['class']}: {percent(base['value'])}",
    )
    calibration, unknown = found["calibration"], found["unknown"]
    charts["reliability"] = drawings.reliability(
        calibration["bins"],
        calibration["bins_before"],
        label="How often the model is right at each level of confidence; the numbers are in the table below",
    )
    charts["risk"] = drawings.risk(
        unknown["curve"],
        error=calibration["error"],
        at=(unknown["answered"]["value"], unknown["wrong"]["value"]),
        label="Error rate among the answered items against the share of items that is answered",
    )
    matrix = found["confusion"]["matrix"]
    if NUMBERS < len(matrix) <= CELLS:
        charts["heat"] = drawings.heat(matrix, label="Confusion matrix; the most frequent confusions are listed below")
    return charts


def _curves(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A chart of the losses and one of the accuracies, against seconds, or epochs where there are no seconds."""
    against = "seconds" if rows and all("seconds" in row for row in rows) else "epoch"
    charts = []
    for kind in ("loss", "accuracy"):
        series = [
            drawings.Line(
                points=[(row.get(against, i), row[name]) for i, row in enumerate(rows, 1) if name in row],
                style="main" if name.startswith("val") else "muted",
            )
            for name in (kind, f"val_{kind}")
        ]
        drawn = drawings.lines(
            series,
            label=f"{kind} during training, on training and held-out items",
            x_name=against,
            y_name=kind,
            percent=kind == "accuracy",
        )
        charts += [{"name": kind, "svg": drawn}] if drawn else []
    return charts


def _faults(found: dict[str, Any]) -> str:
    errors = sum(len(f["items"]) or 1 for f in found["faults"] if f["severity"] == "error")
    if not errors:
        return ""
    return f"{errors:,} {'file was' if errors == 1 else 'files were'} left out because of faults: mend and train again."


def _suspects(found: dict[str, Any]) -> str:
    n, of = found["suspects"]["n"], found["suspects"]["of"]
    if not n:
        return ""
    return f"{n:,} of {of:,} labels look doubtful. Look at them, correct what is wrong, and train again."


def _confused(found: dict[str, Any]) -> str:
    wrong, pairs = found["mistakes"]["n"], found["confusions"]
    if not pairs or pairs[0]["n"] < 3 or pairs[0]["n"] < 0.2 * wrong:
        return ""
    worst = pairs[0]
    return (
        f"{worst['n']} of {wrong} mistakes take {worst['label']} for {worst['predicted']}: add items that show the "
        "difference."
    )


def _weakest(found: dict[str, Any]) -> str:
    overall = found["accuracy"][found["split"]]["value"]
    behind = [c for c in found["classes"] if c["support"] >= 3 and c["recall"]["value"] < overall - 0.1]
    if not behind:
        return ""
    worst = min(behind, key=lambda c: c["recall"]["value"])
    trained = found["dataset"].get("counts", {}).get(worst["name"], {}).get("train")
    basis = f" ({trained:,} to learn from)" if trained else ""
    return (
        f"{worst['name']} is found least: {worst['recall']['k']} of {worst['support']}{basis}. More of it "
        "would help most."
    )


def _few(found: dict[str, Any]) -> str:
    shown = found["accuracy"][found["split"]]
    if shown["high"] - shown["low"] < 0.06:
        return ""
    return (
        f"{shown['n']:,} {found['split']} items leave the accuracy open between {percent(shown['low'], 0)} and "
        f"{percent(shown['high'], 0)}; four times as many would halve that."
    )


def _finite(value: Any) -> Any:
    """The same without numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
