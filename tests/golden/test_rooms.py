"""docs/pictures/rooms.svg shows what the imports say: whoever adds an arrow between two rooms sees it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_rooms_svg(golden: Callable[[Path, str], None]) -> None:
    script = runpy.run_path(str(DOCS / "rooms.py"))
    golden(script["PICTURE"], script["picture"]())
    _, _, arrows = script["rooms"]()
    assert ("factory", "infra") in arrows
    assert script["PICTURE"].read_text(encoding="utf-8").count('class="arrow"') == len(arrows)
