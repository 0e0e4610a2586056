"""Explanations to look at: heat on its picture, words marked in their text, and a page of both in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from inflame.model.engine.explain import Explanation

SHOWN = 224  # pixels that a picture is shown at, at least
LONG = 1500  # characters of a text that are shown
# From nothing over yellow to dark red; seen also by those who don't tell red from green, for it grows darker as well.
_RAMP = np.array([[255, 237, 160], [254, 178, 76], [240, 59, 32], [128, 0, 38]], np.float32)


def overlay(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """The heat [S,S] (0 to 1) over the picture uint8 [S,S,C], as a JPEG of `SHOWN` pixels or more."""
    grey = picture.astype(np.float32).mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    place = heat * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    part = (place - low)[..., None]
    colour = _RAMP[low] * (1 - part) + _RAMP[low + 1] * part
    strength = np.clip(1.4 * heat, 0, 0.75)[..., None]
    return _jpeg((grey * (1 - strength) + colour * strength).round().astype(np.uint8))


def plain(picture: NDArray[np.uint8]) -> bytes:
    """The picture as the net sees it, as a JPEG of the same size as its overlay."""
    return _jpeg(picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1))


def address(content: bytes) -> str:
    """A picture as a `data:` address."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if content else ""


def marked(found: Explanation, most: int = LONG) -> Markup:
    """The text with its words marked by what they add: class `for` or `against`, the strength as `--a`, 0 to 1."""
    strongest = max((abs(word.weight) for word in found.words), default=0.0) or 1.0
    parts, last = [], 0
    for word in found.words:
        if word.end > most:
            break
        share = abs(word.weight) / strongest
        if share < 0.05:
            continue
        mark = Markup('<mark class="{}" style="--a:{:.2f}" title="{:+.3f}">{}</mark>').format(
            "for" if word.weight > 0 else "against", share, word.weight, found.text[word.start : word.end]
        )
        parts += [escape(found.text[last : word.start]), mark]
        last = word.end
    rest = found.text[last:most]
    return Markup("").join([*parts, escape(rest), " …" if len(found.text) > most else ""])


def page(items: Sequence[tuple[str, Explanation]], *, title: str) -> str:
    """The HTML page of these explanations with their names."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [
        {
            "name": name,
            "said": found.prediction,
            "label": found.label,
            "how": _HOW[found.how],
            "picture": address(plain(found.picture)) if found.picture is not None else "",
            "heat": address(overlay(found.picture, found.heat))
            if found.picture is not None and found.heat is not None
            else "",
            "text": marked(found),
            "near": [
                {"uri": one.uri, "label": one.label, "distance": one.distance, "snippet": one.snippet}
                | {"picture": address(one.thumb)}
                for one in found.near
            ],
        }
        for name, found in items
    ]
    return environment.get_template("explained.html").render(title=title, items=shown)


_HOW = {
    "gradient": "The more heat, the more the answer rests on that part (Grad-CAM).",
    "covering": "The more heat, the less sure the answer when that part is covered.",
    "words": "What each word adds, with half of each pair of words it is in.",
    "leaving out": "What is lost when a word is left out.",
}


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    image, content = Image.fromarray(pixels), io.BytesIO()
    if (size := pixels.shape[0]) < SHOWN:
        side = size * -(-SHOWN // size)
        image = image.resize((side, side), Image.Resampling.NEAREST)
    image.save(content, "JPEG", quality=82)
    return content.getvalue()
