"""Help as wide as the terminal."""

from __future__ import annotations

import shlex

from inflame.cli.layout import fitted, usage


def test_what_fits_stays_as_it_is() -> None:
    text = "One.\n\n  two   columns\n\nthree\nfour\n"
    assert fitted(text, 40) == text
    assert usage("usage: inflame x [RUN]\n               more\n\n", 40) == "usage: inflame x [RUN]\n               more"


def test_a_sentence_is_filled_anew_and_its_neighbours_are_not() -> None:
    text = "A sentence that was broken by hand at\nsome place.\nAnother."
    assert fitted(text, 24) == "A sentence that was\nbroken by hand at some\nplace.\nAnother."


def test_columns_keep_their_place_or_stand_below() -> None:
    line = "  inflame get NAME    fetch a named data set"
    assert fitted(line, 42) == "  inflame get NAME\n      fetch a named data set"
    assert fitted("  a   " + "word " * 12, 40).splitlines()[1].startswith("      word")


def test_names_with_their_meanings_are_pairs() -> None:
    line = "  list    all of them     stop  it saves and ends"
    assert fitted(line, 40) == "  list    all of them\n  stop  it saves and ends"


def test_a_command_can_be_copied_from_a_narrow_terminal() -> None:
    line = "  inflame launch ./my_birds --on vertexai --max-money 5 'a b c' in=1h"
    narrow = fitted(line, 30)
    assert max(map(len, narrow.splitlines())) <= 30
    assert shlex.split(narrow.replace("\\\n", "")) == shlex.split(line)
    assert "--on vertexai" in narrow
    written = "  inflame sweep ./my_birds --on sagemaker \\\n      --machine gpu-small --workers 4"
    assert shlex.split(fitted(written, 24).replace("\\\n", "")) == shlex.split(written.replace("\\\n", ""))


def test_an_option_of_the_usage_stays_whole() -> None:
    told = usage("usage: inflame board [WHERE…] [--by SCORE] [--csv FILE]\n\n", 34)
    assert told.splitlines() == [
        "usage: inflame board [WHERE…]",
        "                     [--by SCORE]",
        "                     [--csv FILE]",
    ]
