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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tongue:
    """How a language asks. `asked`: words that ask for a slot, as they begin; `meant`: what a question is about that
    says it in other words than the sentences of a model's card do; `empty`: words that say nothing; `it`: the
    picture."""

    asked: dict[str, str]
    meant: dict[str, str]
    empty: str
    it: str

    def asks(self, asked: str) -> set[str]:
        """The slots that are asked for."""
        return {slot for slot, words in self.asked.items() if _begins(words, asked)}

    def means(self, asked: str) -> list[str]:
        """The words that are meant."""
        return [word for word, ways in self.meant.items() if _begins(ways, asked)]


_ENGLISH = _Tongue(
    asked={
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
    },
    meant={
        "accuracy": "how good, how well, how often, often wrong, error rate, accurate, trust, reliab, be sure",
    },
    empty="a an and are as at be by can do does for from had has have how i if in is it its me my of on or one s so "
    "tell that the their them there these they this those to was what when where which who whom whose why will "
    "with would you your about please say much many any some not no than then get got like most",
    it="it|its|this one|this|that one|they|them|their|these|the (butterfly|bird|picture|animal|thing|digit)",
)
_GERMAN = _Tongue(
    asked={
        "look": "aussehen, aussieht, wie sieht, wie sehen, farbe, farbig, gefärbt, muster, zeichnung, groß, größe, "
        "klein, spannweite, erkenn, woran, beschreib, flügel, fleck, punkt, streifen, gestalt, wie schwer, männchen, "
        "weibchen, merkmal",
        "like": "ähnlich, ähnel, verwechs, unterscheid, unterschied, auseinander, im vergleich, doppelgänger, nachahm, "
        "mimikry",
        "range": "wo leb, wo komm, wo find, wo gibt, wo flieg, wo ist, wo sind, wo wohn, wo kann, wo man, verbreit, "
        "lebensraum, vorkomm, heimat, heimisch, land, länder, kontinent, gebiet, zieh, wander, zuhause",
        "diet": "frisst, fressen, isst, essen, futter, fütter, nahrung, ernähr, wovon, nektar, pflanze, wirtspflanze, "
        "trink, saug, hungrig",
        "season": "wann, jahreszeit, monat, winter, sommer, frühling, frühjahr, herbst, flugzeit, generation, brut",
        "life": "lebenslauf, lebensdauer, lebenszyklus, eier, eiablage, larve, puppe, verpupp, schlüpf, "
        "entwick, vermehr, fortpflanz, brüt, nest, legt, legen, junge, wächst, wachs, küken, wie alt, wie lange, "
        "überwinter",
        "defence": "gift, ungenießbar, schmeck, feind, räuber, verteidig, abwehr, wehrt, schutz, schütz, gefährlich, "
        "beiß, sticht, anfassen, warnfarb",
        "conservation": "gefährdet, bedroh, selten, geschützt, rückgang, ausgestorben, aussterb, rote liste, iucn, "
        "bestand, häufig",
        "name": "heißt, heißen, genannt, name, latein, wissenschaftlich, bedeut, familie, herkunft, woher, wort, "
        "erfind, erfunden, geschichte, ursprung, gemalt",
        "use": "benutz, verwend, gebrauch, trägt man, getragen, anziehen, wasch, gehalten, halten, zucht, fleisch, "
        "gemacht, hergestellt, wozu, wofür, nützlich",
        "model": "genau, treffsicher, trainiert, gelernt, trainingsdaten, grenzen, vertrau, klassen, lizenz, "
        "kalibrier, wie gut, wie oft, fehler, welche version, geprüft, getestet",
    },
    meant={"accuracy": "wie gut, wie oft, genau, fehler, treffsicher, vertrau, verlass, sicher"},
    empty="ein eine einen einem einer eines der die das den dem des und oder aber ist sind war waren wird werden wie "
    "was wer wo wann warum welche welcher welches welchen im in am an auf aus bei mit von vom zu zum zur für über "
    "unter nach es er sie ihn ihm ihr ihre sein seine dies diese dieser dieses diesen man kann können ich du mir dir "
    "mich dich sich nicht kein keine auch noch nur so sehr viel viele mehr bitte sag sage erzähl erzähle etwas hat "
    "haben habe gibt denn dass ob wenn als da dort hier mein meine meinen",
    it="er|sie|es|ihn|ihm|ihr|ihre|ihren|sein|seine|seinen|dies|diese|dieser|dieses|diesen|der (schmetterling|falter|"
    "vogel)|das (bild|tier|ding|hier)|die ziffer",
)
_TONGUES = {"en": (_ENGLISH,), "de": (_GERMAN, _ENGLISH)}  # names, and much else, are asked about in English as well
MODEL = "this model"  # the card about it
_WORD = re.compile(r"[^\W_]+")
# Words that may stand in any question, in whichever language.
_MILD = (
    "need spend spent begin start stage give gets eaten prefer want show usual typical often exact there please "
    "know make happen people thing kind sort long latin picture brauch verbring beginn normal meist gern kenn "
    "bitte leute ding"
)
_STEM = 4  # letters by which a word is known again, whatever its ending
_ENOUGH = 3.0  # of the score of a sentence; below, nothing is answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A fact, and how well it answers."""

    fact: Fact
    score: float


@final
class Retrieval:
    """Facts to be found by questions in a language, or in English. Safe to use from several threads."""

    def __init__(self, cards: Sequence[Card], language: str = "en") -> None:
        self._tongues = _TONGUES.get(language, (_ENGLISH,))
        self._empty = frozenset(word for tongue in self._tongues for word in tongue.empty.split())
        self._it = re.compile(rf"\b({'|'.join(tongue.it for tongue in self._tongues)})\b")
        self.cards = {card.about: card for card in cards}
        self.facts = [fact for card in cards for fact in card.facts]
        self._names = sorted(
            ((_pattern(name), card.about) for card in cards for name in (card.about, *card.names)),
            key=lambda pair: -len(pair[0].pattern),
        )
        asks = [words for tongue in self._tongues for words in tongue.asked.values()]
        heard = " ".join([_MILD, *asks, *map(_said, self.facts)]).lower()
        self._heard = {word[:_STEM] for word in _WORD.findall(heard)}
        self._lock = threading.Lock()
        self._table = sqlite3.connect(":memory:", check_same_thread=False)
        self._table.execute("CREATE VIRTUAL TABLE facts USING fts5(text, tokenize = 'porter unicode61')")
        self._table.executemany("INSERT INTO facts (rowid, text) VALUES (?, ?)", enumerate(map(_said, self.facts)))

    def __call__(self, question: str, seen: Mapping[str, float] = {}, count: int = 3, topic: str = "") -> list[Found]:
        """The facts that answer, the best first; none where nothing does. `seen`: label → probability of the picture
        that the talk is about; `topic`: what the answer before was about, which is "it" then."""
        asked = " ".join(question.lower().split())
        named, pointed = self._named(asked), bool(self._it.search(asked))
        slots = {slot for tongue in self._tongues for slot in tongue.asks(asked)}
        known = {about: p for about, p in self._seen(seen).items() if p >= 0.05}
        if pointed and topic in self.cards and topic not in known and (topic != MODEL or not known):
            known = {topic: 1.0}
        if not pointed and self._foreign(asked):
            known = {}  # asked about something else than the picture
        subjects = dict.fromkeys(named, 1.0) or (known if pointed or slots else {})
        if not subjects and "model" in slots and MODEL in self.cards:
            subjects = {MODEL: 1.0}
        if not subjects or not (slots or self._plain(asked, named)):
            return []
        matched = self._matched(self._words(asked, subjects))
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
        if fact.slot == "like" and self._tells_of(fact, subjects):
            score += 3
        return score

    def _tells_of(self, fact: Fact, subjects: Mapping[str, float]) -> bool:
        """Whether it names another of the subjects."""
        others = [pattern for pattern, about in self._names if about in subjects and about != fact.about]
        return any(other.search(fact.text.lower()) for other in others)

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

    def _foreign(self, asked: str) -> bool:
        """Whether it has a word that neither the facts know nor whoever asks for one."""
        return any(word[:_STEM] not in self._heard for word in self._telling(asked) if len(word) >= _STEM)

    def _plain(self, asked: str, named: Sequence[str]) -> bool:
        """Whether little more is asked than "what is it", or "tell me about" something."""
        rest = asked
        for pattern, about in self._names:
            if about in named:
                rest = pattern.sub(" ", rest)
        words = self._telling(rest)
        return len(words) <= 1 or bool(self._matched(words))

    def _words(self, asked: str, subjects: Mapping[str, float]) -> list[str]:
        """Those that say what is asked."""
        words = self._telling(asked)
        if MODEL not in subjects:
            return words
        meant = [word for tongue in self._tongues for word in tongue.means(asked)]
        return [word for word in words if word != "model"] + meant  # every sentence of that card is about the model

    def _telling(self, asked: str) -> list[str]:
        return [word for word in _WORD.findall(asked) if word not in self._empty]


def _begins(words: str, asked: str) -> bool:
    """Whether one of the words, with commas between them, is in the question, or begins a word of it."""
    return any(re.search(rf"(?:^|\W){re.escape(word)}", asked) for word in words.split(", "))


def _pattern(name: str) -> re.Pattern[str]:
    words = _WORD.findall(name.lower())
    return re.compile(r"\b" + r"[\W_]+".join(map(re.escape, words)) + r"(?:e?s)?\b") if words else re.compile(r"(?!)")


def _said(fact: Fact) -> str:
    return f"{fact.about} {fact.slot} {fact.text}"
