"""Which facts answer a question: names and slots first, then BM25 over the sentences (SQLite FTS5, in memory).

A question is about something that has a card, or about nothing here. "it" is the picture's answer.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from inflame.web.cards import Card, Fact, simple

# Words that ask for a slot, as they begin.
_ASKED: dict[str, tuple[str, ...]] = {
    slot: tuple(words.split(", "))
    for slot, words in {
        "look": "look like, looks, appearance, colour, color, marking, pattern, size, big, large, wingspan, "
        "describe, recogni, identify, wing, spot, stripe, shape, how tall, weigh, male, female",
        "like": "look alike, look-alike, lookalike, similar, confus, mistake, tell apart, tell it from, tell a, "
        "tell the, difference, differ, distinguish, apart, versus, vs, mimic, resembl",
        "range": "where, range, habitat, found, live, country, countries, continent, region, migrat, occur, native",
        "diet": "eat, food, feed, diet, host, nectar, plant, drink, forage, graze, hungry",
        "season": "when, season, month, time of year, winter, summer, spring, autumn, flight, brood, flies",
        "life": "life, cycle, egg, larva, caterpillar, chrysalis, pupa, breed, reproduc, nest, lay, young, "
        "hatch, grow, lifespan, how long do, chick, old",
        "defence": "poison, toxic, predator, defen, taste, danger, protect, mimic, harm, bite, safe to touch",
        "conservation": "conserv, endanger, threat, protect, rare, declin, status, iucn, extinct",
        "name": "called, name, latin, scientific, mean, family, species, word, invent, origin, history, come from",
        "use": "used, use for, wear, worn, wash, kept, keep, farm, domestic, meat, made of, made from, good for",
        "model": "accura, trained, training data, confiden, the limit, its limit, trust, classes, kinds do you, licen, "
        "calibrat, how good, often wrong, error rate, which version, tested",
    }.items()
}
# What a question is about that says it in other words than the sentences of a model's card do.
_MEANT = {
    "accuracy": (
        "how good",
        "how well",
        "how often",
        "often wrong",
        "error rate",
        "accurate",
        "trust",
        "reliab",
        "be sure",
    )
}
_EMPTY = frozenset(
    (
        "a an and are as at be by can do does for from had has have how i if in is it its me my of on or one s so "
        "tell that the their them there these they this those to was what when where which who whom whose why will"
        " with would you your about please say much many any some not no than then get got like most"
    ).split()
)
_IT = re.compile(
    r"\b(it|its|this one|this|that one|they|them|their|these|the (butterfly|bird|picture|animal|thing|digit))\b"
)
MODEL = "this model"  # the card about it
_ENOUGH = 3.0  # of the score of a sentence; below, nothing is answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A fact, and how well it answers."""

    fact: Fact
    score: float


@final
class Retrieval:
    """Facts to be found. Safe to use from several threads."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self.cards = {card.about: card for card in cards}
        self.facts = [fact for card in cards for fact in card.facts]
        self._names = sorted(
            ((_pattern(name), card.about) for card in cards for name in (card.about, *card.names)),
            key=lambda pair: -len(pair[0].pattern),
        )
        self._lock = threading.Lock()
        self._table = sqlite3.connect(":memory:", check_same_thread=False)
        self._table.execute("CREATE VIRTUAL TABLE facts USING fts5(text, tokenize = 'porter unicode61')")
        self._table.executemany("INSERT INTO facts (rowid, text) VALUES (?, ?)", enumerate(map(_said, self.facts)))

    def __call__(self, question: str, seen: Mapping[str, float] = {}, count: int = 3) -> list[Found]:
        """The facts that answer, the best first; none where nothing does. `seen`: label → probability of the picture
        that the talk is about."""
        asked = " ".join(question.lower().split())
        named, pointed = self._named(asked), bool(_IT.search(asked))
        slots = {slot for slot, words in _ASKED.items() if any(_begins(word, asked) for word in words)}
        known = {about: p for about, p in self._seen(seen).items() if p >= 0.05}
        subjects = dict.fromkeys(named, 1.0) or (known if pointed or slots else {})
        if not subjects and "model" in slots and MODEL in self.cards:
            subjects = {MODEL: 1.0}
        if not subjects or not (slots or self._plain(asked, named)):
            return []
        matched = self._matched(_words(asked, subjects))
        scored = [
            Found(fact=fact, score=self._score(row, fact, subjects, slots, matched))
            for row, fact in enumerate(self.facts)
        ]
        best = sorted((one for one in scored if one.score >= _ENOUGH), key=lambda one: -one.score)
        return best[:count]

    def _score(
        self, row: int, fact: Fact, subjects: Mapping[str, float], slots: set[str], matched: Mapping[int, float]
    ) -> float:
        if fact.about not in subjects:
            return 0.0
        likely = max(subjects.values())
        score = 2 * subjects[fact.about] / likely + min(matched.get(row, 0.0), 4.0)
        if fact.slot in slots:
            score += 3
        if not slots and fact.slot in ("look", "more", "model"):
            score += 1.5 if fact.slot == "look" else 1
        others = [about for about in subjects if about != fact.about]
        if fact.slot == "like" and any(_pattern(other).search(fact.text.lower()) for other in others):
            score += 3
        return score

    def _matched(self, words: Sequence[str]) -> dict[int, float]:
        if not words:
            return {}
        asked = " OR ".join(f'"{word}"' for word in words[:40])
        with self._lock:
            rows = self._table.execute(
                "SELECT rowid, -bm25(facts) FROM facts WHERE facts MATCH ? ORDER BY 2 DESC LIMIT 40", (asked,)
            ).fetchall()
        return dict(rows)

    def _named(self, asked: str) -> list[str]:
        found: list[str] = []
        rest = asked
        for pattern, about in self._names:  # the longest names first: a part of one isn't another
            if pattern.search(rest):
                rest = pattern.sub(" ", rest)
                if about not in found:
                    found.append(about)
        return found

    def _seen(self, seen: Mapping[str, float]) -> dict[str, float]:
        by_name = {simple(name): about for about, card in self.cards.items() for name in (about, *card.names)}
        return {by_name[simple(label)]: p for label, p in seen.items() if simple(label) in by_name}

    def _plain(self, asked: str, named: Sequence[str]) -> bool:
        """Whether little more is asked than "what is it", or "tell me about" something."""
        rest = asked
        for pattern, about in self._names:
            if about in named:
                rest = pattern.sub(" ", rest)
        words = [word for word in re.findall(r"[a-z0-9]+", rest) if word not in _EMPTY]
        return len(words) <= 1 or bool(self._matched(words))


def _words(asked: str, subjects: Mapping[str, float]) -> list[str]:
    """Those that say what is asked."""
    words = [word for word in re.findall(r"[a-z0-9]+", asked) if word not in _EMPTY]
    if MODEL not in subjects:
        return words
    meant = [word for word, ways in _MEANT.items() if any(_begins(way, asked) for way in ways)]
    return [word for word in words if word != "model"] + meant  # every sentence of that card is about the model


def _begins(word: str, asked: str) -> bool:
    return bool(re.search(rf"(?:^|\W){re.escape(word.strip())}", asked))


def _pattern(name: str) -> re.Pattern[str]:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return re.compile(r"\b" + r"[\W_]+".join(map(re.escape, words)) + r"(?:e?s)?\b") if words else re.compile(r"(?!)")


def _said(fact: Fact) -> str:
    return f"{fact.about} {fact.slot} {fact.text}"
