"""What the monitor says as HTML: one self-contained page (nothing fetched, light and dark, readable on a phone), or
the same as a part of the website's page."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inflame import __version__
from inflame.model.engine.drawings import interval
from inflame.monitor import told
from inflame.monitor.charts import charts
from inflame.monitor.entries import Entry
from inflame.monitor.overview import Overview
from inflame.monitor.speech import Say, english

SIDE = 160  # pixels of a shown picture
STYLE = Path(__file__).parent / "pages" / "monitor.css"  # of a part; the page around it names the colours
_USUAL: dict[str, Any] = {"found": None, "charts": {}, "unreadable": 0, "measured": None}


def part(found: Overview, unlike: Sequence[Mapping[str, str]], speak: Say = english) -> str:
    """An overview without a page around it. unlike: the entries of its latest window, as `shown` gives them."""
    about = {"window": found.window, "measured": found.measured, "unlike": unlike}
    return render("_part", speak, found=found, charts=charts(found, speak), **about)


def entry(one: Entry, content: bytes | None) -> dict[str, str]:
    """An entry as a page shows it; of what was not kept only the answer."""
    around = {"picture": "", "text": "", "name": one.id[:8], "label": f"{one.label} {one.probability:.2f}"}
    return {**around, **(shown(content) if content else {})}


def render(name: str, speak: Say = english, **values: Any) -> str:
    """The page `pages/NAME.html` with these values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format}
    for word in (told.finding, told.named, told.size, told.accuracy, told.often, told.advice):
        environment.filters[word.__name__] = functools.partial(word, speak=speak)
    environment.filters["when"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    environment.globals |= {"t": speak, "heads": told.HEADS, "interval": interval}
    made = {"by": __version__, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    return environment.get_template(f"{name}.html").render({**_USUAL, **values}, made=made)


def percent(share: float) -> str:
    """`12 %`"""
    return (
        f"{100 * share:.0f}\N{NARROW NO-BREAK SPACE}%"
        if share >= 0.1 or not share
        else f"{100 * share:.1f}\N{NARROW NO-BREAK SPACE}%"
    )


def shown(content: bytes) -> dict[str, str]:
    """How an input is shown: {"picture": a data URI} or {"text": its beginning}."""
    from PIL import Image, ImageOps

    with suppress(Exception), Image.open(io.BytesIO(content)) as image:  # a text, or a picture that can't be read
        small = ImageOps.exif_transpose(image).convert("RGB")
        if max(small.size) < SIDE // 2:
            small = small.resize((SIDE, SIDE * small.height // small.width), Image.Resampling.NEAREST)
        small.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
        return {"picture": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}
    return {"text": " ".join(content[:600].decode("utf-8", "replace").split())[:240]}
