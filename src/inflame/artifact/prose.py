"""Faults of texts: empty ones, headers that give the class away, other languages, nearly the same text twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import twins
from inflame.records import Fault

SHORT = 5  # words under which a text says too little
HEADERS = 0.2  # share of texts that begin with header lines from which it is told
ALIKE, COMMON = 0.9, 0.8  # cosine of sketches, share of words in common: nearly the same text

_SKETCH = 1024
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


def sketches(words: Sequence[list[str]]) -> Floats:
    """TF-IDF weights of words, hashed with signs into 1,024 numbers of length 1 each (Weinberger et al., 2009):
    float32 [N,1024]. Likeness is kept up to about 0.03."""
    seen: Counter[str] = Counter()
    for told in words:
        seen.update(set(told))
    names = list(seen)
    place = {name: number for number, name in enumerate(names)}
    idf = np.log((1 + len(words)) / (1 + np.array([seen[name] for name in names], dtype=np.float64))) + 1
    random = np.random.default_rng(0)
    bucket, sign = random.integers(0, _SKETCH, len(names)), random.choice((-1.0, 1.0), len(names))
    found = np.zeros((len(words), _SKETCH), dtype=np.float32)
    for row, told in enumerate(words):
        counts = Counter(told)
        ids = np.fromiter((place[name] for name in counts), dtype=np.int64, count=len(counts))
        weight = (1 + np.log(np.fromiter(counts.values(), dtype=np.float64, count=len(counts)))) * idf[ids]
        np.add.at(found[row], bucket[ids], (weight * sign[ids]).astype(np.float32))
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return found


def pairs(words: Sequence[list[str]], sketch: Floats) -> twins.Ints:
    """Texts that share nearly all words: rows int64 [M,2], first < second."""
    found = []
    sets = [frozenset(told) for told in words]
    for start in range(0, len(sketch), _BLOCK):
        near = sketch[start : start + _BLOCK] @ sketch[start:].T
        for one, other in np.argwhere(near > ALIKE):
            if one < other and sets[start + one]:
                a, b = sets[start + one], sets[start + other]
                if len(a & b) >= COMMON * len(a | b) and len(a) >= SHORT:
                    found.append((start + one, start + other))
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
