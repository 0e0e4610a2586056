"""What people are asked to look at, in which order, and what follows from what they say; in both databases."""

from __future__ import annotations

import numpy as np
import pytest

from inflame.errors import UserError
from inflame.monitor import inbox
from inflame.monitor.entries import VISITOR, Entry, Verdict
from inflame.monitor.log import Log

CLASSES = ("owl", "cat", "dog")


def entry(number: int, shares: tuple[float, ...] = (0.9, 0.06, 0.04), **more: object) -> Entry:
    vector = np.zeros(64)
    vector[number % 64] = 1.0
    values = {
        "model": "m1",
        "input": f"input {number}",
        "label": CLASSES[int(np.argmax(shares))],
        "probability": max(shares),
        "probabilities": np.array(shares),
        "embedding": vector,
        "id": f"{number:032x}",
        "time": 1000.0 + number,
    }
    return Entry(**{**values, **more})


@pytest.fixture
def log(place: str) -> Log:
    found = Log(place)
    found.register("m1", CLASSES, ())
    return found


def chosen(random: bool, count: int, start: int = 0) -> list[int]:
    """Numbers of answers that are, or are not, asked about at random."""
    found = [number for number in range(start, start + 4000) if inbox.is_random(f"{number:032x}") is random]
    return found[:count]


def test_the_least_sure_come_first_and_chance_has_its_turn(log: Log) -> None:
    sure, unsure = chosen(False, 6)[:3], chosen(False, 6)[3:]
    random = chosen(True, 2)
    log.add([entry(number) for number in sure])
    log.add([entry(number, (0.4, 0.38, 0.22)) for number in unsure])
    log.add([entry(number) for number in random])
    found = inbox.waiting(log, "m1", "ann")
    assert [one.random for one in found] == [False, False, False, True, False, False, False, True]
    assert {one.entry.id for one in found[:3]} == {f"{number:032x}" for number in unsure}
    assert found[0].why == "unsure between owl and cat"
    assert found[3].why == "chosen at random"
    assert found[-2].why == "quite sure"


def test_what_a_visitor_doubts_and_what_is_unknown_come_before(log: Log) -> None:
    one, two, three = chosen(False, 3)
    log.add([entry(one, (0.4, 0.38, 0.22)), entry(two), entry(three, known=False)])
    log.verdict(Verdict(answer=f"{two:032x}", said="wrong", who=VISITOR))
    found = inbox.waiting(log, "m1", "ann")
    assert [one.why for one in found] == [
        "a visitor says it is wrong", "unsure between owl and cat", "not known to the model",
    ]  # fmt: skip


def test_nearly_equal_ones_are_shown_once(log: Log) -> None:
    one, two, three = chosen(False, 3)
    same = np.ones(64)
    log.add([entry(one, embedding=same), entry(two, embedding=same * 1.0001), entry(three)])
    found = inbox.waiting(log, "m1", "ann")
    assert sorted(candidate.folded for candidate in found) == [0, 1]


def test_only_what_was_kept_can_be_seen(log: Log) -> None:
    one, two = chosen(False, 2)
    log.add([entry(one), entry(two)])
    log.keep(f"input {two}", b"picture")
    assert len(inbox.waiting(log, "m1", "ann")) == 2
    [seen] = inbox.waiting(log, "m1", "ann", kept=True)
    assert seen.entry.id == f"{two:032x}"


def test_a_reviewer_says_skips_and_takes_back(log: Log) -> None:
    one, two = chosen(False, 2)
    first, second = f"{one:032x}", f"{two:032x}"
    log.add([entry(one), entry(two)])
    assert inbox.say(log, first, "cat", "ann").said == "label"
    assert inbox.say(log, first, "cat", "ann").said == "label"  # a double click
    assert len(log.verdicts()) == 1
    inbox.skip(log, second, "ann")
    assert inbox.waiting(log, "m1", "ann") == []
    taken = inbox.undo(log, "ann")
    assert taken is not None
    assert (taken.answer, taken.label) == (first, "cat")
    assert [candidate.entry.id for candidate in inbox.waiting(log, "m1", "ann")] == [first]
    assert inbox.undo(log, "ann") is None
    assert inbox.undo(log, "bob") is None


def test_the_same_input_is_named_once_whatever_answered(log: Log) -> None:
    one, two = chosen(False, 2)
    log.add([entry(one), entry(two, input=f"input {one}", model="m2")])
    inbox.say(log, f"{one:032x}", "owl", "ann")
    assert inbox.waiting(log, "m2", "ann") == []
    assert [agreed.label for agreed in inbox.labels(log).accepted] == ["owl"]


def test_several_reviewers(log: Log) -> None:
    twice = next(number for number in chosen(False, 500) if inbox._digest(f"{number:032x}") % inbox.SECOND == 0)
    answer = f"{twice:032x}"
    log.add([entry(twice)])
    inbox.say(log, answer, "owl", "ann")
    [second] = inbox.waiting(log, "m1", "bob")
    assert second.why == "a second look"
    inbox.say(log, answer, "cat", "bob", comment="look at the ears")
    found = inbox.labels(log)
    assert found.accepted == ()
    [(about, votes)] = found.disputed
    assert about.id == answer
    assert {vote.who: vote.label for vote in votes} == {"ann": "owl", "bob": "cat"}
    [third] = inbox.waiting(log, "m1", "eve")
    assert third.why == "reviewers disagree"
    inbox.say(log, answer, "cat", "eve")
    found = inbox.labels(log)
    assert [(one.label, one.who) for one in found.accepted] == [("cat", ("bob", "eve"))]
    assert len(found.disputed) == 1
    assert inbox.waiting(log, "m1", "zoe") == []


def test_visitors_are_heard_but_not_believed(log: Log) -> None:
    one, two = chosen(False, 2)
    log.add([entry(one), entry(two)])
    for number in (one, two):
        log.verdict(Verdict(answer=f"{number:032x}", said="label", label="dog", who=VISITOR))
    assert inbox.labels(log).accepted == ()
    inbox.say(log, f"{one:032x}", "", "ann")
    assert inbox.labels(log).rejected == 1


@pytest.mark.parametrize("name", ["", "  ", VISITOR, f" {VISITOR}\n", "\x00\x07"])
def test_nobody_speaks_as_nobody(log: Log, name: str) -> None:
    with pytest.raises(UserError, match="a name of their own"):
        inbox.say(log, "x", "owl", name)


def test_something_else_has_a_name_and_is_kept_aside(log: Log) -> None:
    log.add([entry(number) for number in range(6)])
    for number, name in enumerate(("Red  Panda", "red_panda", " red\npanda ", "OWL", "lynx")):
        inbox.say(log, f"{number:032x}", name, "ann", new=True)
    assert [verdict.said for _, verdict in log.verdicts()] == ["new", "new", "new", "right", "new"]
    assert inbox.named(log) == {"Red Panda": 3, "lynx": 1}
    agreed = inbox.labels(log).accepted
    assert [(one.label, one.new) for one in agreed] == [
        ("Red Panda", True), ("Red Panda", True), ("Red Panda", True), ("owl", False), ("lynx", True),
    ]  # fmt: skip
    assert inbox.newcomers(log, CLASSES) == {}, "nothing was kept, so nothing can be learned"
    for number in range(3):
        log.keep(f"input {number}", b"picture")
    assert inbox.newcomers(log, CLASSES) == {"Red Panda": 3}
    assert inbox.newcomers(log, (*CLASSES, "Red Panda")) == {}, "it is a class now"
    inbox.undo(log, "ann")
    assert inbox.named(log) == {"Red Panda": 3}
    with pytest.raises(UserError, match="class is missing"):
        inbox.say(log, f"{5:032x}", " \x00 ", "ann", new=True)


def test_an_unknown_class_and_an_unknown_answer(log: Log) -> None:
    log.add([entry(1)])
    with pytest.raises(UserError, match='Did you mean "cat"'):
        inbox.say(log, f"{1:032x}", "cta", "ann")
    with pytest.raises(UserError, match="no such answer"):
        inbox.say(log, "none", "cat", "ann")


@pytest.mark.parametrize("text", ["'; DROP TABLE verdicts; --", "<script>alert(1)</script>", "%s {} ü"])
def test_injections_are_texts(log: Log, text: str) -> None:
    log.add([entry(1)])
    inbox.say(log, f"{1:032x}", "cat", text, comment=text)
    [(_, said)] = log.verdicts()
    assert (said.who, said.comment) == (text, text)
    with pytest.raises(UserError, match="no class"):
        inbox.say(log, f"{1:032x}", text, "ann")
    with pytest.raises(UserError, match="no such answer"):
        inbox.say(log, text, "cat", "ann")


def test_random_and_apart_are_functions_of_the_name() -> None:
    names = [f"{number:032x}" for number in range(4000)]
    assert 0.08 < np.mean([inbox.is_random(name) for name in names]) < 0.12
    assert 0.22 < np.mean([inbox.is_apart(name) for name in names]) < 0.28
    assert all(inbox.is_random(name) == inbox.is_random(name) for name in names[:50])
