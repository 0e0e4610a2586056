"""Bytes to text, text to words, words to counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame import artifact
from inflame.artifact import texts


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("naïve".encode(), "naïve", "utf-8"),
        (b"\xef\xbb\xbfhello", "hello", "utf-8-sig"),
        ("grün".encode("utf-16"), "grün", "utf-16"),
        (b"costs \xa3 5", "costs £ 5", "cp1252"),
        (b"\x81\xa3", "\x81£", "latin-1"),  # no letter of Windows-1252
        (b"one\r\ntwo\rthree", "one\ntwo\nthree", "utf-8"),
        ("grün".encode("utf-32"), "grün", "utf-32"),
        ("grün und".encode("utf-16-le"), "grün und", "utf-16-le"),
        ("grün und".encode("utf-16-be"), "grün und", "utf-16-be"),
        (b"", "", "utf-8"),
    ],
)
def test_bytes_become_text(data: bytes, text: str, encoding: str) -> None:
    assert texts.decode(data) == (text, encoding)


@given(st.binary())
def test_no_bytes_are_refused(data: bytes) -> None:
    text, encoding = texts.decode(data)
    assert isinstance(text, str)
    assert encoding


def test_words_are_small_and_have_two_letters() -> None:
    assert texts.words("A Dog's 42 naïve_dogs, I said") == ["dog", "42", "naïve_dogs", "said"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("今天 rain", ["今", "天", "rain"]),
        ("ฝนตก", ["ฝ", "น", "ต", "ก"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("ＡＢＣ ﬁne", ["abc", "fine"]),
        ("ГРОЗА и дождь", ["гроза", "дождь"]),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    assert texts.words(text) == words


@given(st.text())
def test_any_text_has_words_without_spaces(text: str) -> None:
    assert all(word and word == word.strip() for word in texts.words(text))


def test_what_is_no_text(photos: Path) -> None:
    for file in photos.rglob("*.jpg"):
        assert texts.no_text(file.read_bytes())
    assert texts.no_text(np.random.default_rng(0).bytes(3000))
    for encoding in ("utf-8", "utf-16", "utf-16-le", "cp1252", "utf-32"):
        assert not texts.no_text("naïve dogs\n\tbark\x0c".encode(encoding))
    assert not texts.no_text(b"")


def vectoriser(pairs: int = 64, longest: int = 100) -> texts.Vectoriser:
    learned = texts.learn([["red", "dog"], ["red", "cat"], ["blue", "cat"]], pairs=pairs)
    from dataclasses import replace

    return texts.Vectoriser(replace(learned, longest=longest))


def test_the_vocabulary_is_sorted_and_bounded() -> None:
    told = [["red", "dog"], ["red", "cat"], ["blue", "cat"]]
    assert texts.learn(told).words == ("blue", "cat", "dog", "red")
    assert texts.learn(told, least=2).words == ("cat", "red")
    assert texts.learn(told, most=1).words == ("cat",)


def test_counts_are_those_of_words_and_pairs() -> None:
    count = vectoriser()
    (row,) = [count([["red", "dog", "red", "dog", "unseen"]])]
    found = dict(zip(row.ids.tolist(), row.counts.tolist(), strict=True))
    words = {name: found[place] for place, name in enumerate(count.preprocess.words) if place in found}
    assert words == {"dog": 2.0, "red": 2.0}
    assert sum(value for place, value in found.items() if place >= 4) == 3  # red dog, dog red, red dog
    assert row.unknown.tolist() == pytest.approx([0.2])


def test_an_unknown_word_breaks_a_pair() -> None:
    row = vectoriser()([["red", "unseen", "dog"]])
    assert (row.ids < 4).all()


def test_without_pairs_there_are_only_words() -> None:
    assert (vectoriser(pairs=0)([["red", "dog"]]).ids < 4).all()


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    count = vectoriser(longest=3)
    assert np.array_equal(count([["red"] * 3]).counts, count([["red"] * 50]).counts)


@given(st.lists(st.lists(st.sampled_from(["red", "dog", "cat", "blue", "other"]), max_size=9), max_size=6))
def test_rows_padding_and_taking_agree(told: list[list[str]]) -> None:
    count = vectoriser()
    whole = count(told)
    assert len(whole) == len(told)
    for row, text in enumerate(told):
        one = count([text])
        assert np.array_equal(whole.rows(row, row + 1).ids, one.ids)
        assert np.array_equal(whole.take(np.array([row])).counts, one.counts)
    padded = whole.padded()
    assert padded["ids"].shape == padded["counts"].shape
    assert padded["counts"].sum() == pytest.approx(whole.counts.sum())
    back = whole.take(np.arange(len(told))[::-1])
    assert np.array_equal(back.take(np.arange(len(told))[::-1]).ids, whole.ids)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    topics = {"sport": "match goal team coach win", "money": "bank share profit market loan"}
    for name, own in topics.items():
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(40):
            chosen = rng.choice([*own.split(), "the", "day", "people", f"word{number}"], 30)
            (tmp_path / "letters" / name / f"{number}.txt").write_text(" ".join(chosen))
    return tmp_path / "letters"


def test_a_folder_of_texts_is_a_data_set_of_texts(letters: Path) -> None:
    (letters / "sport" / "notes.md").write_text("no item")
    (letters / "README").write_text("about")
    found = artifact.open(letters)
    assert (found.kind, len(found), found.classes) == ("text", 80, ("money", "sport"))
    assert len(texts.tokenised(found)) == 80
    assert set(found.items["split"].to_pylist()) == {"train", "val", "test"}


def test_pictures_win_where_there_are_any(letters: Path, photos: Path) -> None:
    for folder in letters.iterdir():
        folder.rename(photos / folder.name)
    found = artifact.open(photos)
    assert found.kind == "image"
    assert any("not a picture" in fault.reason for fault in found.faults)
