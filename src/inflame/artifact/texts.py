"""Texts as numbers: bytes to text, text to words, words to counts of words and word pairs.

Words have a place in a vocabulary; pairs of neighbouring words are hashed into a fixed number of buckets (Weinberger
et al., 2009, feature hashing). Weights (idf, length) belong to the net, so that what is exported is whole.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inflame.artifact import wordpiece
from inflame.records import Dataset, TextPreprocess

if TYPE_CHECKING:
    from torch import Tensor

_WORD = re.compile(r"\w\w+")  # two letters or digits at least
_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # no spaces
)
_MARKS = "\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963\u0966-\u0dff"  # accents and vowels that \w leaves out
_RARE = re.compile(f"[{_DENSE}{_MARKS}]")
_RARE_WORD = re.compile(rf"[{_DENSE}]|(?:[^\W{_DENSE}]|[{_MARKS}]){{2,}}")
_BOMS = (  # UTF-32's begins like UTF-16's, so it comes first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b"))  # in no text, whatever its encoding of 8 bits
_LEGIBLE = 0.02  # a larger share of control characters than this is no text
_PEEK = 4096
_MIX = np.int64(0x9E3779B1)  # 2³² divided by the golden ratio: neighbouring words land far apart

Ints = NDArray[np.int64]


def decode(data: bytes) -> tuple[str, str]:
    r"""(text with `\n` line ends, name of the encoding): what a byte order mark says, else UTF-8, else Windows-1252
    (Latin-1 where that has no letter); UTF-16 without a mark shows by its zeros. Never raises."""
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _lines(data.decode(name, errors="replace")), name
    wide = _wide(data)
    if wide:
        return _lines(data.decode(wide, errors="replace")), wide
    for name in ("utf-8", "cp1252"):
        try:
            return _lines(data.decode(name)), name
        except UnicodeDecodeError:
            continue
    return _lines(data.decode("latin-1")), "latin-1"


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _wide(data: bytes) -> str:
    """The UTF-16 that bytes without a mark seem to be: every second one is zero, the others hardly ever; or ""."""
    head = data[:_PEEK]
    if b"\0" not in head or len(data) % 2 or len(data) < 8:
        return ""
    even, odd, half = head[::2].count(0), head[1::2].count(0), len(head) / 2
    if odd > 0.4 * half and even < 0.02 * half:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * half and odd < 0.02 * half else ""


def no_text(data: bytes) -> bool:
    """Whether bytes are something else than a text (a picture, an archive, chance): control characters among them."""
    head = data[:_PEEK]
    if any(data.startswith(mark) for mark, _ in _BOMS) or _wide(data):
        return False
    return len(head) - len(head.translate(None, _CONTROL)) > _LEGIBLE * len(head)


def words(text: str) -> list[str]:
    """The words of a text, in order, in small letters: runs of two letters or digits and more. Of a script that puts
    no spaces between words (Chinese, Japanese, Thai, …) each sign is a word."""
    if text.isascii():
        return _WORD.findall(text.lower())
    small = unicodedata.normalize("NFKC", text).lower()
    return (_RARE_WORD if _RARE.search(small) else _WORD).findall(small)


def spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Where the `words` of a text are: (the text, [(start, end), …]). Where small letters and plain forms of signs are
    more or fewer than the signs of the text, it is the text of those that is given, and meant."""
    small = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()
    pattern = _RARE_WORD if not text.isascii() and _RARE.search(small) else _WORD
    return text if len(small) == len(text) else small, [found.span() for found in pattern.finditer(small)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often each word and pair is in each of N texts. Row n has `ids[starts[n]:starts[n + 1]]` (int64, ascending,
    each once; of pieces: in the order of the text) with their `counts` (float32); `unknown` [N] is the share of words
    that the vocabulary lacks."""

    starts: Ints
    ids: Ints
    counts: NDArray[np.float32]
    unknown: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, first: int, last: int) -> Counts:
        """The rows from `first` up to `last`."""
        starts = self.starts[first : last + 1]
        inside = slice(starts[0], starts[-1])
        return Counts(
            starts=starts - starts[0],
            ids=self.ids[inside],
            counts=self.counts[inside],
            unknown=self.unknown[first:last],
        )

    def take(self, rows: Ints) -> Counts:
        """The rows of these numbers, in this order."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        inside = np.arange(starts[-1]) + np.repeat(self.starts[:-1][rows] - starts[:-1], lengths)
        return Counts(starts=starts, ids=self.ids[inside], counts=self.counts[inside], unknown=self.unknown[rows])

    def padded(self) -> dict[str, NDArray[np.generic]]:
        """What the net takes: `ids` int64 [N,L] and `counts` float32 [N,L], L that of the longest row (at least 1);
        what is left of a row has id 0 and count 0."""
        lengths = np.diff(self.starts)
        width = max(1, int(lengths.max(initial=0)))
        ids = np.zeros((len(self), width), dtype=np.int64)
        counts = np.zeros((len(self), width), dtype=np.float32)
        row = np.repeat(np.arange(len(self)), lengths)
        column = np.arange(len(self.ids)) - np.repeat(self.starts[:-1], lengths)
        ids[row, column], counts[row, column] = self.ids, self.counts
        return {"ids": ids, "counts": counts}


def learn(texts: Iterable[list[str]], *, least: int = 1, most: int = 300_000, pairs: int = 2**18) -> TextPreprocess:
    """The vocabulary of tokenised texts: words that are in `least` texts or more, the `most` frequent of them; and
    how many buckets `pairs` of words go to."""
    seen: Counter[str] = Counter()
    for tokens in texts:
        seen.update(set(tokens))
    kept = [(count, word) for word, count in seen.items() if count >= least]
    kept.sort(key=lambda pair: (-pair[0], pair[1]))
    return TextPreprocess(words=tuple(sorted(word for _, word in kept[:most])), pairs=pairs)


class Vectoriser:
    """Counts words and pairs by a vocabulary, or looks up pieces; safe to share between threads."""

    def __init__(self, preprocess: TextPreprocess) -> None:
        self.preprocess = preprocess
        self._place = {word: place for place, word in enumerate(preprocess.words)}

    def read(self, text: str) -> list[str]:
        """The tokens of a text: its words, or its pieces."""
        plan = self.preprocess
        if not plan.pieces:
            return words(text)
        return wordpiece.pieces(text, self._place, small=plan.pieces == "small", longest=plan.longest)

    def __call__(self, texts: Sequence[list[str]]) -> Counts:
        """The counts of tokenised texts."""
        known, longest = self._place, self.preprocess.longest
        parts = [self._row(np.array([known.get(word, -1) for word in text[:longest]], np.int64)) for text in texts]
        lengths = [len(ids) for ids, _, _ in parts]
        empty = (np.empty(0, np.int64), np.empty(0, np.float32), np.float32(0))
        ids, counts, _ = zip(*(parts or [empty]), strict=True)
        return Counts(
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            ids=np.concatenate(ids),
            counts=np.concatenate(counts),
            unknown=np.array([unknown for _, _, unknown in parts], dtype=np.float32),
        )

    def _row(self, places: Ints) -> tuple[Ints, NDArray[np.float32], np.float32]:
        if self.preprocess.pieces:
            lost = np.mean(places == self._place[wordpiece.UNKNOWN]) if len(places) else 1.0
            return places, np.ones(len(places), np.float32), np.float32(lost)
        ids, counts = np.unique(self._entries(places)[0], return_counts=True)
        lost = np.float32(1 - (places >= 0).mean()) if len(places) else np.float32(1)
        return ids, counts.astype(np.float32), lost

    def entries(self, tokens: Sequence[str]) -> tuple[Ints, Ints, Ints]:
        """All that is counted of a tokenised text, pairs after words: ids [M], the place of the first word of each in
        `tokens` [M], and how many words it has [M], 1 or 2."""
        return self._entries(
            np.array([self._place.get(word, -1) for word in tokens[: self.preprocess.longest]], np.int64)
        )

    def _entries(self, places: Ints) -> tuple[Ints, Ints, Ints]:
        vocabulary, buckets = len(self.preprocess.words), self.preprocess.pairs
        known = places >= 0
        ids, at = [places[known]], [np.flatnonzero(known)]
        if buckets and len(places) > 1:
            at.append(np.flatnonzero(known[:-1] & known[1:]))
            first, second = places[at[1]], places[at[1] + 1]
            ids.append(((first * 1_000_003 + second) * _MIX >> 16) % buckets + vocabulary)
        return np.concatenate(ids), np.concatenate(at), np.repeat([1, 2][: len(at)], [len(part) for part in at])


def tokenised(
    dataset: Dataset,
    read: Callable[[str], list[str]] = words,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """The words of every item (or what `read` makes of it), in the order of the items. `progress` is told (done,
    all)."""
    from inflame.artifact.contents import Contents

    source, uris = Contents(dataset.root), dataset.items["uri"].to_pylist()
    found = []
    for done, uri in enumerate(uris, 1):
        found.append(read(decode(source.read(uri))[0]))
        if progress is not None:
            progress(done, len(uris))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts of one split as counts. labels: int64 [N], indices into the data set's classes."""

    counts: Counts
    labels: Tensor
    uris: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)
