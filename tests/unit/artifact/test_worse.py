"""Files made worse: other pixels, the same type and size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import preprocess, worse


def files(photos: Path) -> list[bytes]:
    wide = io.BytesIO()
    Image.open(next(photos.rglob("*.jpg"))).resize((90, 40)).save(wide, "PNG")
    return [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))[:4]] + [wide.getvalue()]


@pytest.mark.parametrize("kind", worse.kinds(text=False))
def test_pictures(photo_set: Path, kind: str) -> None:
    before = files(photo_set)
    after = worse.worse(before, kind, 0.6)
    for one, other in zip(before, after, strict=True):
        a, b = (preprocess.picture(content) for content in (one, other))
        assert a.size == b.size
        assert Image.open(io.BytesIO(one)).format == Image.open(io.BytesIO(other)).format
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() > 1


def test_it_is_the_same_every_time_and_stronger_is_worse(photo_set: Path) -> None:
    before = files(photo_set)
    assert worse.worse(before, "noise", 0.5) == worse.worse(before, "noise", 0.5)

    def away(severity: float) -> float:
        made = worse.worse(before[:1], "noise", severity)[0]
        return float(
            np.abs(np.asarray(preprocess.picture(made), float) - np.asarray(preprocess.picture(before[0]))).mean()
        )

    assert away(0.2) < away(0.6) < away(1.0)


def test_strange_things(photo_set: Path) -> None:
    before = files(photo_set)
    after = worse.strange(before)
    for one, other in zip(before, after, strict=True):
        a, b = (preprocess.picture(content) for content in (one, other))
        assert a.size == b.size
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() > 2


@pytest.mark.parametrize("kind", worse.kinds(text=True))
def test_texts(kind: str) -> None:
    text = b"the match ended in a draw, and everybody went home in the rain"
    [made] = worse.worse([text], kind, 0.8, text=True)
    assert made != text
    assert worse.strange([text], text=True)[0].decode().isprintable()
