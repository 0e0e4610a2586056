"""Cards are begun for people to fill in: as the chat reads them, all or none, and never over what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame.cli.main import main
from inflame.web import cards


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_card_is_begun_that_the_chat_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", "new", "red  admiral", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["cards"]
    assert one == {"class": "red admiral", "file": "cards/red_admiral.md", "begins": "empty"}
    path = Path(one["file"])
    text = path.read_text(encoding="utf-8")
    found = cards.read(path)
    assert (found.about, found.facts) == ("red admiral", ())
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        slot for slot in cards.SLOTS if slot != "model"
    ] + ["sources"]
    path.write_text(text.replace("## diet\n", "## diet\n- Its caterpillars eat nettles. [1]\n"), encoding="utf-8")
    (fact,) = cards.read(path).facts
    assert (fact.slot, fact.text, fact.licence) == ("diet", "Its caterpillars eat nettles.", "own words, MIT")


def test_what_is_known_already_is_where_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", "new", "Monarch", "--folder", "mine"]) == 0
    said = capsys.readouterr().out
    assert "built-in card" in said
    assert "inflame serve --cards mine" in said
    assert cards.read(Path("mine/monarch.md")).facts == cards.read(cards.FOLDER / "monarch.md").facts


def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cards").mkdir()
    Path("cards/oak.md").write_text("mine")
    assert main(["cards", "new", "birch", "oak"]) == 2
    assert "cards/oak.md" in capsys.readouterr().err
    assert Path("cards/oak.md").read_text() == "mine"
    assert not Path("cards/birch.md").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["knew", "oak"], 'Did you mean "new"?'),
        (["new"], "no class"),
        (["new", "..", "oak"], "no name of a class"),
        (["new", "red oak", "red_oak"], "same file"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("cards").exists()


def test_a_class_leads_nowhere_else() -> None:
    assert main(["cards", "new", "../../etc/x"]) == 0
    assert [path.name for path in Path("cards").iterdir()] == ["etc_x.md"]
