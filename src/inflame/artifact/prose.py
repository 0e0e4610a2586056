"""Faults of texts: empty ones, headers that give the class away, other languages, nearly the same text twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import twins
from inflame.artifact.suspects import Doubles, Ints, Judge
from inflame.records import Fault

SHORT = 5  # words under which a text says too little
HEADERS = 0.2  # share of texts that begin with header lines from which it is told
ALIKE, COMMON = 0.9, 0.8  # cosine of sketches, share of words in common: nearly the same text

_SKETCH, _COARSE = 1024, 256
_SMOOTH = 0.1  # added to every sum of weights, for words not seen
_BLOCK = 2048
_HEADER = re.compile(r"[A-Z][\w-]{1,30}: ?\S.*")
_LANGUAGES = {
    "English": "the of and to in is that for it was with as on be at by this are from have not",
    "German": "der die und das ist nicht ein eine mit den von zu im auf für sich auch dem des wie",
    "French": "le la les des et est une dans que pour qui sur pas avec plus par au ce sont du",
    "Spanish": "el la los las que de en un una por con para es se del al como más lo su",
    "Italian": "il la che di un una per non con del della sono gli nel alla come anche più si lo",
    "Portuguese": "o os as que de em um uma para com não do da no na por mais dos se como",
    "Dutch": "de het een van en is dat op te niet zijn met voor aan er door om bij ook als",
}
_COMMON_WORDS = {name: frozenset(words.split()) for name, words in _LANGUAGES.items()}

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def faults(uris: Sequence[str], bodies: Sequence[str], words: Sequence[list[str]]) -> Iterator[Fault]:
    """What is wrong with texts by themselves. bodies: the texts; words: their words (`texts.words`)."""
    empty = [uri for uri, told in zip(uris, words, strict=True) if not told]
    short = [uri for uri, told in zip(uris, words, strict=True) if 0 < len(told) < SHORT]
    if empty:
        yield Fault(kind="blank", severity="warning", reason="empty: no word in it; delete it", items=tuple(empty))
    if short:
        reason = f"fewer than {SHORT} words: too little to tell a class by; delete it, or add the rest"
        yield Fault(kind="blank", severity="warning", reason=reason, items=tuple(short))
    yield from _headers(uris, bodies)
    yield from _languages(uris, words)


@dataclass(frozen=True, slots=True)
class Counted:
    """The words of texts as one list of entries: which text, which word (int64 [E] each), and its TF-IDF weight of
    (1 + log count) · idf, texts of length 1 (float64 [E]). `texts` and `vocabulary` say how many there are."""

    text: Ints
    word: Ints
    weight: Doubles
    texts: int
    vocabulary: int


def count(words: Sequence[list[str]]) -> Counted:
    """The words of texts (`texts.words`), counted and weighted."""
    place: dict[str, int] = {}
    ids = np.fromiter((place.setdefault(word, len(place)) for told in words for word in told), dtype=np.int64)
    text = np.repeat(np.arange(len(words)), [len(told) for told in words])
    size = max(len(place), 1)
    entries, counts = np.unique(text * size + ids, return_counts=True)
    text, ids = np.divmod(entries, size)
    idf = np.log((1 + len(words)) / (1 + np.bincount(ids, minlength=size))) + 1
    weight = (1 + np.log(counts)) * idf[ids]
    length = np.sqrt(np.bincount(text, weights=weight**2, minlength=len(words)))
    return Counted(text, ids, weight / np.maximum(length[text], 1e-12), len(words), size)


def sketches(counted: Counted) -> Floats:
    """The weights of words hashed with signs into 1,024 numbers (Weinberger et al., 2009): float32 [N,1024], rows of
    length 1. Likeness is kept up to about 0.03."""
    random = np.random.default_rng(0)
    bucket, sign = random.integers(0, _SKETCH, counted.vocabulary), random.choice((-1.0, 1.0), counted.vocabulary)
    found = np.zeros((counted.texts, _SKETCH), dtype=np.float32)
    for start in range(0, counted.texts, _BLOCK):
        low, high = np.searchsorted(counted.text, (start, start + _BLOCK))
        word, rows = counted.word[low:high], counted.text[low:high] - start
        sums = np.bincount(rows * _SKETCH + bucket[word], counted.weight[low:high] * sign[word], _BLOCK * _SKETCH)
        some = found[start : start + _BLOCK]
        some[:] = sums.reshape(_BLOCK, _SKETCH)[: len(some)]
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return found


def bayes(counted: Counted) -> Judge:
    """A judge for `suspects.labels`: complement naive Bayes (Rennie et al., 2003), each fold by the others."""

    def judge(given: Ints, fold: Ints) -> Doubles:
        classes = int(given.max()) + 1
        scores = np.zeros((counted.texts, classes))
        for number in np.unique(fold):
            out = fold[counted.text] == number
            scores += _complement(counted, given, ~out, out, classes)
        return scores

    return judge


def _complement(counted: Counted, given: Ints, seen: Bools, out: Bools, classes: int) -> Doubles:
    """Scores [N,K] of the entries `out`, with weights from the entries `seen`; zero for texts without any."""
    size = counted.vocabulary
    place = given[counted.text[seen]] * size + counted.word[seen]
    sums = np.bincount(place, counted.weight[seen], classes * size).reshape(classes, size)
    rest = sums.sum(0) - sums + _SMOOTH
    table = np.log(rest) - np.log(rest.sum(1, keepdims=True))
    table /= np.abs(table).sum(1, keepdims=True) / size
    word, text, weight = counted.word[out], counted.text[out], counted.weight[out]
    return np.stack([-np.bincount(text, table[label][word] * weight, counted.texts) for label in range(classes)], 1)


def pairs(words: Sequence[list[str]], sketch: Floats) -> twins.Ints:
    """Texts that share nearly all words: rows int64 [M,2], first < second."""
    found = []
    sets = [frozenset(told) for told in words]
    coarse = sketch.reshape(len(sketch), _SKETCH // _COARSE, _COARSE).sum(1)  # folded, to look sooner
    coarse /= np.maximum(np.linalg.norm(coarse, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(sketch), _BLOCK):
        near = coarse[start : start + _BLOCK] @ coarse[start:].T
        links = np.argwhere(near > ALIKE - 0.15) + start
        links = links[links[:, 0] < links[:, 1]]
        links = links[(sketch[links[:, 0]] * sketch[links[:, 1]]).sum(1) > ALIKE]
        for one, other in links.tolist():
            a, b = sets[one], sets[other]
            if len(a) >= SHORT and len(a & b) >= COMMON * len(a | b):
                found.append((one, other))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _headers(uris: Sequence[str], bodies: Sequence[str]) -> Iterator[Fault]:
    """Texts that begin with lines like `From: a@b`: names and addresses in them tell the class, and nothing else does
    in other texts."""
    found = [uri for uri, body in zip(uris, bodies, strict=True) if _headed(body)]
    if len(found) >= max(10, HEADERS * len(uris)):
        reason = (
            f"{len(found) / len(uris):.0%} of the texts begin with header lines (From:, Subject: …): names and "
            "addresses give the class away; strip them, or expect less on texts without them"
        )
        yield Fault(kind="shortcut", severity="warning", reason=reason, items=tuple(found))


def _headed(body: str) -> bool:
    lines = body.lstrip().split("\n", 4)[:4]
    return sum(_HEADER.fullmatch(line.strip()) is not None for line in lines) >= 2


def _languages(uris: Sequence[str], words: Sequence[list[str]]) -> Iterator[Fault]:
    """Texts in another language than most."""
    guessed = [_language(told) for told in words]
    counts = Counter(name for name in guessed if name)
    if len(counts) < 2:
        return
    main, _ = counts.most_common(1)[0]
    for name, count in counts.most_common()[1:]:
        items = tuple(uri for uri, guess in zip(uris, guessed, strict=True) if guess == name)
        reason = f"{name}, while most texts are {main}: move them out, or add such texts to every class"
        severity = "warning" if count >= 0.01 * len(uris) else "info"
        yield Fault(kind="outlier", severity=severity, reason=reason, items=items)


def _language(told: list[str]) -> str:
    """The language whose common words make up most of a text; "" when that isn't clear."""
    if len(told) < 30:
        return ""
    head = told[:400]
    shares = sorted(
        ((sum(word in common for word in head), name) for name, common in _COMMON_WORDS.items()), reverse=True
    )
    (most, name), (second, _) = shares[:2]
    return name if most >= 0.08 * len(head) and most >= 1.5 * second else ""
