"""What mkdocs is told while it builds the site: the list of decisions, by their titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DECISIONS = Path(__file__).parent / "decisions"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Adds the decisions to the page about them."""
    if page.file.src_uri != "decisions/README.md":
        return markdown
    titles = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in sorted(DECISIONS.glob("0*.md"))}
    return markdown + "\n\n" + "\n".join(f"- [{title[2:]}]({path.name})" for path, title in titles.items())
