"""How results look: a line of text everywhere, and where a notebook asks for it a piece of HTML without scripts."""

from __future__ import annotations

import io
from dataclasses import dataclass

from markupsafe import Markup, escape

from inflame.model.engine.explained import address
from inflame.model.engine.nearest import Near
from inflame.records import Prediction, Record

HEIGHT = 720  # pixels of a page within a page
SIDE = 160  # pixels of a picture

_BAR = Markup(
    '<tr><td style="text-align:right">{}</td><td style="text-align:left"><div style="width:{:.0f}px;height:.8em;'
    'background:#c2410c;border-radius:3px"></div></td><td style="text-align:right">{:.1%}</td></tr>'
)
_PICTURE = Markup('<figure style="display:inline-block;margin:.3em"><img src="{}" alt="{}" width="{}">{}</figure>')
_CAPTION = Markup('<figcaption style="text-align:center">{}</figcaption>')


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Record):
    """An accuracy with its 95 % interval, of n items of a split."""

    split: str
    accuracy: float
    low: float
    high: float
    n: int

    def __repr__(self) -> str:
        return f"{self.split} accuracy {self.accuracy:.4f} ({self.low:.3f}–{self.high:.3f}, {self.n:,} items)"

    def _repr_html_(self) -> str:
        left, width = 300 * self.low, max(3.0, 300 * (self.high - self.low))
        return Markup(
            '<div><b style="font-size:1.6em">{:.1%}</b> of {:,} {} items were right; of others like them, most likely '
            '{:.1%} to {:.1%}.<div style="width:300px;height:.8em;background:#ece7e1;border-radius:3px">'
            '<div style="margin-left:{:.0f}px;width:{:.0f}px;height:.8em;background:#c2410c;border-radius:3px"></div>'
            "</div></div>"
        ).format(self.accuracy, self.n, self.split, self.low, self.high, left, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model says of one thing; `picture` is that thing, small, as a file."""

    prediction: Prediction
    picture: bytes = b""

    @property
    def label(self) -> str:
        """The likeliest class, also where `known` is false."""
        return self.prediction.label

    @property
    def probability(self) -> float:
        """How likely that is, calibrated."""
        return self.prediction.probability

    @property
    def known(self) -> bool:
        """Whether it is sure enough to keep to its error rate."""
        return self.prediction.known

    def __repr__(self) -> str:
        return f"{'' if self.known else 'unsure: '}{self.label} {self.probability:.3f}"

    def _repr_html_(self) -> str:
        rows = [_BAR.format(name, 200 * p, p) for name, p in self.prediction.top]
        title = escape(self.label) if self.known else Markup("unsure ({}?)").format(self.label)
        shown = _PICTURE.format(address(self.picture), self.label, SIDE, "") if self.picture else Markup("")
        table = Markup("<table>{}</table>").format(Markup("").join(rows))
        return Markup("<div>{}<b>{}</b>{}</div>").format(shown, title, table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Some items and what they are."""

    items: tuple[Near, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return ", ".join(f"{item.uri} ({item.label})" for item in self.items) or "no examples in this model"

    def _repr_html_(self) -> str:
        parts = [
            _PICTURE.format(address(item.thumb), item.label, SIDE // 2, _CAPTION.format(item.label))
            if item.thumb
            else Markup("<blockquote>{} <i>{}</i></blockquote>").format(item.snippet, item.label)
            for item in self.items
        ]
        return Markup("<div>{}</div>").format(Markup("").join(parts))


def framed(page: str) -> str:
    """A whole page within a page, cut off from it."""
    return Markup('<iframe srcdoc="{}" sandbox="" style="width:100%;height:{}px;border:0"></iframe>').format(
        page, HEIGHT
    )


def thumb(content: bytes) -> bytes:
    """The picture of that file, made small, as PNG; turned as the camera was held."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((2 * SIDE, 2 * SIDE))
    made = io.BytesIO()
    small.save(made, "PNG")
    return made.getvalue()
