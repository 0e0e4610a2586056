"""Cards: read from Markdown and from YAML alike, and refused with a reason where a sentence would have no source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inflame.cli.main import main
from inflame.errors import DataError
from inflame.web import cards

MARKDOWN = """\
# red oak
names: Quercus rubra, champion oak
like: pin oak
topic: trees

## like
- A pin oak has deeper lobes. [1]

## look
- Its leaves have pointed lobes. [1]
- The bark is grey: smooth at first, then in ridges. [2]

## diet
- It grows best on deep soil. [1]

## sources
1. Flora of North America, volume 3 | own words, MIT
2. My garden | mine
"""
YAML = """\
about: red oak
names: [Quercus rubra, champion oak]
like: pin oak
topic: trees
facts:
  like:
    - A pin oak has deeper lobes. [1]
  look:
    - Its leaves have pointed lobes. [1]
    - "The bark is grey: smooth at first, then in ridges. [2]"
  diet:
    - It grows best on
      deep soil. [1]
sources:
  1: Flora of North America, volume 3 | own words, MIT
  2: My garden | mine
"""


def test_every_card_can_be_read_and_every_sentence_has_a_source() -> None:
    found = [cards.read(path) for path in cards.files(cards.FOLDER)]
    assert len(found) >= 29
    ids = [fact.id for card in found for fact in card.facts]
    assert len(ids) == len(set(ids))
    assert all(fact.source and fact.licence and fact.text.endswith(".") for card in found for fact in card.facts)
    tailed = {f"{name}_swallowtail" for name in ("black", "eastern_tiger", "pipevine", "spicebush")}
    assert {card.about for card in found} >= {*tailed, "monarch", "viceroy", "chicken", "turkey", "cat", "truck"}


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_yaml_says_the_same_as_markdown(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "oak.md").write_text(MARKDOWN)
    (tmp_path / f"oak{suffix}").write_text(YAML)
    card = cards.read(tmp_path / f"oak{suffix}")
    assert card == cards.read(tmp_path / "oak.md")
    assert [fact.id for fact in card.facts] == ["red oak.like.1", "red oak.look.2", "red oak.look.3", "red oak.diet.4"]
    assert card.facts[2].text == "The bark is grey: smooth at first, then in ridges."
    assert card.names == ("Quercus rubra", "champion oak")


@pytest.mark.parametrize("text", ["no heading", "# a\n\n## look\n- Said by nobody.\n", "# a\n\n## look\n- A. [1]\n"])
def test_a_card_without_sources_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"card can't be used"):
        cards.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no fields"),
        ("- a\n- b\n", "no fields"),
        ("about: [unclosed\n", "no YAML in line 2"),
        ("about: a\nfacts:\n  look:\n  - The bark: grey, [1] and: so on\n", "needs quotes around it"),
        ("about: a\nfacts:\n  look:\n  - The bark is: grey. [1]\n", "something else than sentences"),
        ("about: a\nfacts: {look: 3}\n", "something else than sentences"),
        ("about: a\nfacts:\n  look:\n  - Said by nobody.\n", "sentence 1 of look has no source: 'Said by nobody.'"),
        ("about: a\nfacts:\n  look:\n  - Said. [2]\nsources: {1: Book | mine}\n", "names source 2, which isn't listed"),
        ("about: a\nsources:\n  1: Book without a licence\n", "source 1 is no `title | licence`"),
        ("about: a\nsources: [Book]\n", "its sources are no table"),
        ("about: a\nfacts: {taste: []}\n", 'there is no slot "taste": one of look, '),
        ("about: a\ncolour: red\n", 'a field "colour", which no card has'),
        ("about: {a: b}\n", "about is neither a text"),
        ("names: oak\n", "doesn't say what it is about"),
        ("about: !!python/object/apply:os.system ['true']\n", "no YAML"),
    ],
)
def test_a_broken_card_in_yaml_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "oak.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as refused:
        cards.read(path)
    assert said in str(refused.value)
    assert refused.value.where == str(path)


@pytest.mark.parametrize("suffix", [".md", ".yaml"])
def test_a_card_that_is_no_text_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"oak{suffix}"
    path.write_bytes(MARKDOWN.encode("utf-16"))
    with pytest.raises(DataError, match="no text in UTF-8"):
        cards.read(path)


def test_cards_of_ones_own_of_both_kinds_take_the_place_of_others(tmp_path: Path) -> None:
    (tmp_path / "oak.yml").write_text(YAML)
    (tmp_path / "cat.md").write_text(MARKDOWN.replace("# red oak", "# cat"))
    (tmp_path / "notes.txt").write_text("no card")
    known = cards.library(tmp_path)
    assert [card.about for card in known.own] == ["cat", "red oak"]
    found = {card.about: card for card in cards.fitting(("cats", "dog"), known)}
    assert {"cat", "dog", "red oak"} <= set(found)
    assert found["cat"].facts[1].text == "Its leaves have pointed lobes."
    (tmp_path / "oak.md").write_text(MARKDOWN)
    with pytest.raises(DataError, match='another card in this folder is about "red oak"'):
        cards.library(tmp_path)


# --- other languages -----------------------------------------------------------------------------

GERMAN = """# red oak
names: Roteiche

## like
- Eine Sumpfeiche ist tiefer gelappt. [1]

## look
- Ihre Blätter sind spitz gelappt. [1]
- Die Rinde ist grau: erst glatt, dann rissig. [2]

## diet
- Am besten wächst sie auf tiefem Boden. [1]

## sources
1. Flora of North America, volume 3 | own words, MIT
2. My garden | mine
"""


@pytest.mark.parametrize("suffix", [".md", ".yaml"])
def test_a_card_says_the_same_in_the_language_of_who_asks(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"oak{suffix}").write_text(MARKDOWN if suffix == ".md" else YAML)
    (tmp_path / "oak.de.md").write_text(GERMAN)
    known = cards.library(tmp_path)
    assert [card.about for card in known.own] == ["red oak"]
    (english,), (german,) = cards.fitting(("red oak",), known), cards.fitting(("red oak",), known, "de")
    assert [fact.id for fact in english.facts] == [fact.id for fact in german.facts]
    assert [fact.language for fact in german.facts] == ["de"] * 4
    assert {fact.language for fact in english.facts} == {""}  # what one's own cards are in, nobody knows
    assert german.names == ("Quercus rubra", "champion oak", "Roteiche")
    (look, like) = cards.at_a_glance(["red oak"], [german])
    assert (look.text, like.text) == ("Ihre Blätter sind spitz gelappt.", "Eine Sumpfeiche ist tiefer gelappt.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GERMAN.replace("- Eine Sumpfeiche ist tiefer gelappt. [1]\n", ""), "not as many sentences"),
        (GERMAN.replace("## like", "## life"), "under the same headings"),
        (GERMAN.replace("# red oak", "# Roteiche"), "whose name says no language"),
    ],
)
def test_one_that_says_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "oak.md").write_text(MARKDOWN)
    (tmp_path / "oak.de.md").write_text(text)
    with pytest.raises(DataError, match=said) as refused:
        cards.library(tmp_path)
    assert refused.value.where.endswith("oak.de.md")


def test_ones_own_card_is_not_told_in_the_words_of_ours(tmp_path: Path) -> None:
    (tmp_path / "monarch.md").write_text(MARKDOWN.replace("# red oak", "# monarch"))
    known = cards.library(tmp_path)
    found = {card.about: card for card in cards.fitting(("monarch", "viceroy"), known, "de")}
    assert found["monarch"].facts[0].text == "A pin oak has deeper lobes."
    assert found["viceroy"].facts[0].text.startswith("Ein Vizekönig")


def test_ours_name_the_same_sources_and_figures_in_every_language() -> None:
    def figures(text: str) -> list[str]:
        return sorted(re.findall(r"\d+", re.sub(r"(?<=\d)[.,](?=\d{3})", "", text)))

    told = [(card, other) for card in cards.library().ours for other in card.others.values()]
    assert {card.about for card, _ in told} >= {"monarch", "viceroy", "black_swallowtail"}
    for card, other in told:
        assert [(one.source, one.licence) for one in card.facts] == [(one.source, one.licence) for one in other.facts]
        assert [figures(one.text) for one in card.facts] == [figures(one.text) for one in other.facts]


def test_a_card_in_yaml_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "red_oak.yaml").write_text(YAML)
    assert main(["cards", "new", "red oak"]) == 2
    assert "red_oak.yaml" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "cards").iterdir()] == ["red_oak.yaml"]


def test_the_website_says_which_card_is_broken(
    tmp_path: Path, fruit_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "oak.yaml").write_text("about: a\nfacts:\n  look:\n  - Said by nobody.\n")
    assert main(["serve", str(fruit_bundle), "--port", "0", "--cards", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has no source" in said
    assert "oak.yaml" in said


def test_the_guide_shows_the_same_card_twice() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "website.md").read_text(encoding="utf-8")
    _, _, told = guide.partition("\n## The chat\n")
    plain, yaml = (re.search(rf"```{kind}\n(.*?)```", told, re.DOTALL) for kind in ("markdown", "yaml"))
    assert plain is not None
    assert yaml is not None
    card = cards.parse(plain[1])
    assert cards.parse_yaml(yaml[1]) == card
    assert card.facts
