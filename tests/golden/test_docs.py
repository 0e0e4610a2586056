"""The documentation holds together: every verb is in it, links lead somewhere, numbers were measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inflame.cli.main import JOURNEY, VERBS
from inflame.config import schema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(nav: object) -> list[str]:
    """The files of a part of the navigation."""
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav
    return [name for value in values for name in named(value)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        if not re.match(r"https?:|mailto:|…", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    listed = {name for name in pages if name.startswith("decisions/") and name != "decisions/README.md"}
    assert pages - listed == set(named(NAV))  # decisions are listed by docs/hooks.py


def test_what_needs_an_explanation_has_one() -> None:
    five = {"ladder", "budgets", "splits", "honest-numbers", "drift"}
    assert {page.stem for page in (DOCS / "explanation").iterdir()} == five
    for name in five:
        page = text(DOCS / "explanation" / f"{name}.md")
        assert len(page.split()) < 800, "short"
        assert "\n|---|" in page, "with numbers"
        assert f"explanation/{name}.md" in text(DOCS / "index.md")


def test_every_picture_is_shown_and_small() -> None:
    shots = sorted((DOCS / "pictures" / "shots").glob("*.png"))
    shown = re.findall(r"\]\(pictures/shots/([\w-]+)\.png\)", text(DOCS / "screenshots.md"))
    assert sorted(shown) == [shot.stem for shot in shots]
    assert len(shots) >= 12
    assert sum(shot.stat().st_size for shot in shots) < 1.5e6
    made = text(DOCS / "shots.py")
    assert [name for name in shown if f'"{name}"' not in made] == [], "by the script"


def test_how_to_has_every_verb_in_its_place() -> None:
    parts = re.split(r"^## (.+)$", text(DOCS / "how-to.md"), flags=re.MULTILINE)[1:]
    told = {
        title: re.findall(r"^\*\*(\w+)\*\*", part, re.MULTILINE)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    }
    assert told == {title: list(verbs) for title, verbs in JOURNEY.items()}


def test_every_verb_is_in_a_guide_or_a_tutorial() -> None:
    guides = "".join(text(page) for page in PAGES if page.name not in ("cli.md", "how-to.md", "reference.md"))
    assert [name for name in VERBS if f"inflame {name}" not in guides] == []


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, key in (schema.COMMON | schema.IO).items() if not key.help] == []


def test_what_is_compared_was_measured() -> None:
    measured = text(ROOT / "benchmarks" / "README.md")
    rows = [line.split("|") for line in text(DOCS / "compare.md").splitlines() if "`python -m" in line]
    assert len(rows) >= 8
    for row in rows:
        for number in re.findall(r"(?<![\w_])\d[\d,.]*\d(?: %| s)?(?![\w_])", f"{row[2]} {row[3]}"):
            assert number.removesuffix(" s") in measured, f"{row[1].strip()}: {number}"
        (module,) = re.findall(r"python -m benchmarks\.(\w+)", row[4])
        assert (ROOT / "benchmarks" / f"{module}.py").is_file()


@pytest.mark.slow
def test_the_site_is_built_and_asks_nobody(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material: pip install 'inflame[docs]'")
    # Not --quiet: --strict counts only the warnings that are said.
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "tutorials" / "first-model" / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', page)
    assert fetched == []
