"""What goes wrong, as a visitor is told it."""

from __future__ import annotations

import re

import pytest

from inflame.artifact import magic, preprocess
from inflame.errors import DataError
from inflame.web import problems, words

FILES = {
    "AppleDouble": b"\x00\x05\x16\x07" + bytes(60),
    "DS_Store": b"\x00\x00\x00\x01Bud1",
    "LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "annex": b"/annex/objects/MD5E-s1--0.jpg",
    "Office": b"\xd0\xcf\x11\xe0" + bytes(60),
    "sound": b"ID3" + bytes(60),
    "program": b"\x7fELF" + bytes(60),
    "data": b"\x89HDF" + bytes(60),
    "text": b"Dear all, here is the picture.",
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
}


@pytest.mark.parametrize("name", FILES)
def test_a_visitor_has_neither_the_data_nor_the_machine(name: str) -> None:
    with pytest.raises(preprocess.PictureError) as refused:
        preprocess.picture(FILES[name])
    told = problems.of(refused.value)
    assert not re.search(r"pip|git|delete|move|data", told.remedy, re.IGNORECASE), told.remedy
    say = words.say("de")
    assert say(told.remedy) != told.remedy
    assert say(told.detail) != told.detail


def test_every_kind_of_file_has_advice_that_a_visitor_can_follow() -> None:
    for _, kind, what, remedy in magic._OTHERS:
        error = preprocess.PictureError(what, kind=kind, remedy=remedy)
        assert problems.of(error).remedy.split()[0] in ("Save", "Send", "Unpack"), remedy


def test_no_visitor_is_told_a_command() -> None:
    error = DataError("That is no text.", where="", remedy="Choose another model: inflame runs")
    assert problems.of(error).remedy == "Send a text."
