"""Self-contained HTML pages of the factory: one file each, nothing fetched, light and dark."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from inflame import __version__

THIN, NARROW = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"


def render(name: str, **values: Any) -> str:
    """The page `pages/NAME.html` with these values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "number": number,
        "duration": duration,
        "energy": energy,
        "money": money,
        "soft": soft,
        "data": data,
        "count": "{:,}".format,
    }
    made = {"by": __version__, "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    return environment.get_template(f"{name}.html").render(values, made=made)


def percent(share: float | None, digits: int = 1) -> str:
    """`94.6 %`; what is not all or nothing is never rounded to 100 or 0."""
    if share is None:
        return "–"
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if float(text) == 100 and share < 1:
        text = f"{100 - least:.{digits}f}"
    elif float(text) == 0 and share > 0:
        text = f"< {least:.{digits}f}"
    return f"{text}{NARROW}%"


def points(share: float | None, digits: int = 1) -> str:
    """`+3.1`: a difference of shares in points of a hundred."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:+.{digits}f}".replace("-", "−")


def number(value: Any) -> str:
    """A number in about four digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """`58 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.2g}{THIN}s" if seconds < 10 else f"{whole}{THIN}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def money(amount: float) -> str:
    """`12.30`, `0.042`, `< 0.001`."""
    if amount >= 1:
        return f"{amount:,.2f}"
    return f"{amount:.2g}" if amount >= 0.001 or amount == 0 else "< 0.001"


def energy(watt_hours: float) -> str:
    """`0.4 Wh`, `12 Wh`, `3.1 kWh`."""
    if watt_hours >= 1000:
        return f"{watt_hours / 1000:.3g}{THIN}kWh"
    return f"{watt_hours:.2g}{THIN}Wh" if watt_hours < 10 else f"{watt_hours:.0f}{THIN}Wh"


def soft(name: str) -> Markup:
    """A name that may break after its underscores, hyphens, dots and slashes."""
    return Markup("").join(Markup("{}<wbr>").format(sign) if sign in "_-/." else escape(sign) for sign in name)


def data(value: Any) -> Markup:
    """The value as JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
