"""Pieces of words are those of BERT's tokeniser (expected values: transformers 5.23, BertTokenizerFast)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inflame.artifact import wordpiece

KNOWN = {
    piece: number
    for number, piece in enumerate(
        [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "un",
            "##aff",
            "##able",
            "the",
            "cafe",
            "Cafe",
            "!",
            "_",
            "今",
            "天",
            "a",
            "##b",
        ]
    )
}


@pytest.mark.parametrize(
    ("text", "small", "expected"),
    [
        ("The unaffable!", True, ["the", "un", "##aff", "##able", "!"]),
        ("Café", True, ["cafe"]),
        ("Cafe THE", False, ["Cafe", "[UNK]"]),
        ("今天", True, ["今", "天"]),
        ("ab a_b", True, ["a", "##b", "a", "_", "[UNK]"]),
        ("una", True, ["[UNK]"]),
        ("un\x10aff\u200bable", True, ["un", "##aff", "##able"]),
        ("a" * 101, True, ["[UNK]"]),
        ("", True, []),
    ],
)
def test_pieces(text: str, small: bool, expected: list[str]) -> None:
    found = wordpiece.pieces(text, KNOWN, small=small, longest=64)
    assert found == ["[CLS]", *expected, "[SEP]"]


@given(st.text(), st.integers(2, 9))
def test_any_text_has_known_pieces_and_no_more_than_asked(text: str, longest: int) -> None:
    found = wordpiece.pieces(text, KNOWN, small=True, longest=longest)
    assert set(found) <= set(KNOWN)
    assert 2 <= len(found) <= longest
