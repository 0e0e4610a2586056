"""Faults of texts, and texts as vectors."""

from __future__ import annotations

import numpy as np

from inflame.artifact import prose, suspects, texts

ENGLISH = "The keeper of the park said that the old tree by the lake was not to be cut, and it is in good health."
GERMAN = "Der Wärter im Park sagt, dass der alte Baum am See nicht gefällt wird, und das ist auch für die Vögel gut."
TOPICS = {
    "sport": "goal match team player league cup coach score stadium season",
    "money": "bank market share price profit loan stock trade budget tax",
}


def kinds(bodies: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    uris = [f"a/{number}.txt" for number in range(len(bodies))]
    found = prose.faults(uris, bodies, [texts.words(body) for body in bodies])
    return [(fault.kind, fault.items) for fault in found]


def letters(count: int = 60, seed: int = 0) -> tuple[list[list[str]], np.ndarray]:
    random = np.random.default_rng(seed)
    common = "the of and to in is that for it with as on".split()
    given = np.arange(count) % 2
    told = []
    for label in given:
        topic = list(TOPICS.values())[label].split()
        told.append([*random.choice(topic, 12).tolist(), *random.choice(common, 20).tolist()])
    return told, given


def test_good_texts_have_no_faults() -> None:
    assert kinds([f"{ENGLISH} Number {number}." for number in range(20)]) == []


def test_empty_and_short_texts() -> None:
    bodies = [ENGLISH, "", " \n\t", "Two words", ENGLISH]
    assert kinds(bodies) == [("blank", ("a/1.txt", "a/2.txt")), ("blank", ("a/3.txt",))]


def test_headers_are_a_shortcut() -> None:
    head = "From: ann@example.org\nSubject: the tree\nOrganization: Park\n\n"
    found = kinds([head + ENGLISH for _ in range(10)] + [ENGLISH] * 10)
    assert [kind for kind, _ in found] == ["shortcut"]
    assert kinds([head + ENGLISH] + [ENGLISH] * 19) == []


def test_another_language_is_an_outlier() -> None:
    assert kinds([ENGLISH * 3] * 30 + [GERMAN * 3]) == [("outlier", ("a/30.txt",))]


def test_weights_are_of_length_one_and_sketches_keep_likeness() -> None:
    told, _ = letters()
    counted = prose.count(told)
    lengths = np.bincount(counted.text, counted.weight**2)
    assert np.allclose(lengths, 1)
    sketch = prose.sketches(counted)
    exact = np.zeros((counted.texts, counted.vocabulary))
    exact[counted.text, counted.word] = counted.weight
    assert np.abs(sketch @ sketch.T - exact @ exact.T).mean() < 0.05


def test_no_texts_and_texts_without_words() -> None:
    for told in ([], [[]], [[], ["one", "word"], []]):
        counted = prose.count(told)
        sketch = prose.sketches(counted)
        assert sketch.shape == (len(told), 1024)
        assert prose.pairs(told, sketch).shape == (0, 2)


def test_nearly_the_same_text_is_found() -> None:
    random = np.random.default_rng(0)
    told = [[f"word{number}" for number in random.integers(0, 500, 60)] for _ in range(60)]
    told += [[*told[4], "edited"], [*told[9][::-1]]]
    assert prose.pairs(told, prose.sketches(prose.count(told))).tolist() == [[4, 60], [9, 61]]


def test_naive_bayes_judges_labels_it_has_not_seen() -> None:
    told, true = letters(200)
    given = true.copy()
    given[[7, 20, 33]] = 1 - given[[7, 20, 33]]
    counted = prose.count(told)
    judged = suspects.labels([prose.sketches(counted)], given, more=[prose.bayes(counted)])
    assert judged is not None
    assert set(np.flatnonzero(judged.wrong >= suspects.WRONG_TEXT).tolist()) == {7, 20, 33}
