"""Some training items in the bundle, to show beside an answer what it is like: `nearest.npz`.

At most a few hundred, as many of each class as there are, each with its embedding (float16, length 1, and how long it
was), its uri and a small picture of it or the beginning of its text. About 4 kB an item; no pickles.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 200  # items: what costs a second to compute with the slowest nets that a minute can train
SIDE = 72  # pixels of a small picture
SNIPPET = 200  # characters of a text
CANARIES = 4  # items whose answers are recorded in the bundle

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A training item near to what was asked. `distance`: 1 - cosine of the embeddings, 0 for the same. `thumb`: a
    small picture as JPEG or PNG; `snippet`: the beginning of a text."""

    uri: str
    label: str
    distance: float
    thumb: bytes = b""
    snippet: str = ""

    @property
    def content(self) -> bytes:
        """What can be asked about it; empty where nothing of it is shown."""
        return self.thumb or self.snippet.encode()

    def to_json(self) -> dict[str, Any]:
        """Without the picture."""
        return {"uri": self.uri, "label": self.label, "distance": self.distance}


def choose(labels: NDArray[np.integer[Any]], most: int = MOST) -> NDArray[np.int64]:
    """The rows of at most `most` items: as many of each class as the rarest allow, by chance but always the same."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.zeros(len(labels), np.int64)  # the how-manieth of its class an item is
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:most])


def pack(*, embedding: Floats, labels: Sequence[str], uris: Sequence[str], shown: Sequence[bytes]) -> bytes:
    """The content of nearest.npz. embedding [M,D]; shown: what `thumb` or `snippet` make of each item."""
    file = io.BytesIO()
    np.savez(
        file,
        embedding=_unit(embedding).astype(np.float16),
        length=np.linalg.norm(np.asarray(embedding, np.float32), axis=1),
        labels=np.array(labels, dtype=np.str_),
        uris=np.array([uri.encode(errors="surrogateescape") for uri in uris], dtype=np.bytes_),
        shown=np.frombuffer(b"".join(shown), np.uint8),
        ends=np.cumsum([len(one) for one in shown], dtype=np.int64),
    )
    return file.getvalue()


def thumb(pixels: NDArray[np.uint8]) -> bytes:
    """A prepared picture [S,S,C] as a small file: JPEG, or PNG where it is tiny already."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
    content = io.BytesIO()
    if max(image.size) < SIDE:
        image.save(content, "PNG")
    else:
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0).save(content, "JPEG", quality=75)
    return content.getvalue()


def snippet(text: str) -> bytes:
    """The beginning of a text, in UTF-8."""
    return " ".join(text[: 4 * SNIPPET].split())[:SNIPPET].encode(errors="replace")


@final
class Nearest:
    """The items of a nearest.npz. `text`: whether they are texts."""

    def __init__(self, content: bytes, *, text: bool) -> None:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            self._vectors = file["embedding"].astype(np.float32)
            self._length = file["length"] if "length" in file else np.ones(len(self._vectors), np.float32)
            self._labels, self._uris = file["labels"].tolist(), file["uris"].tolist()
            self._shown, self._ends = file["shown"].tobytes(), [0, *file["ends"].tolist()]
        self.text = text

    def spread(self) -> NDArray[np.float32]:
        """How far each item is from the nearest of the others: [M], what is usual. Empty for less than two."""
        if len(self._vectors) < 2:
            return np.zeros(0, np.float32)
        alike = self._vectors @ self._vectors.T
        np.fill_diagonal(alike, -1)
        return np.asarray(np.maximum(1 - alike.max(axis=1), 0), np.float32)

    def distance(self, embeddings: Floats) -> NDArray[np.float32]:
        """How far each of the embeddings [N,D] is from its nearest item: [N]."""
        alike = _unit(embeddings) @ self._vectors.T
        return np.asarray(np.maximum(1 - alike.max(axis=1), 0), np.float32)

    def directions(self, centre: Floats) -> NDArray[np.float32]:
        """Where the items lie, seen from the centre [D]: [M,D], each of length 1."""
        return _unit(self._vectors * self._length[:, None] - np.asarray(centre, np.float32))

    def __call__(self, embedding: Floats, count: int) -> tuple[Near, ...]:
        """The `count` items nearest to embedding [D], the nearest first."""
        distance = 1 - self._vectors @ _unit(embedding[None])[0]
        return tuple(self._near(int(row), float(distance[row])) for row in np.argsort(distance, kind="stable")[:count])

    def some(self, count: int) -> tuple[Near, ...]:
        """Up to `count` of the items, from all over them."""
        rows = np.linspace(0, len(self._labels) - 1, min(count, len(self._labels))).astype(int)
        return tuple(self._near(int(row), 0.0) for row in rows)

    def various(self, count: int) -> list[Near]:
        """Up to `count` of the items, of different classes as far as there are."""
        by_class: dict[str, list[Near]] = {}
        for item in self.some(len(self._labels)):
            by_class.setdefault(item.label, []).append(item)
        rounds = [found[turn] for turn in range(count) for found in by_class.values() if turn < len(found)]
        return rounds[:count]

    def canaries(self) -> list[bytes]:
        """What a model is asked to see that it answers as it did when its bundle was made."""
        return [item.content for item in self.various(CANARIES) if item.content.strip()]

    def _near(self, row: int, distance: float) -> Near:
        shown = self._shown[self._ends[row] : self._ends[row + 1]]
        how: dict[str, Any] = {"snippet": shown.decode()} if self.text else {"thumb": shown}
        uri = self._uris[row].decode(errors="surrogateescape")
        return Near(uri=uri, label=self._labels[row], distance=max(0.0, distance), **how)


def _unit(vectors: Floats) -> NDArray[np.float32]:
    found = np.asarray(vectors, np.float32)
    length: NDArray[np.float32] = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12).astype(np.float32)
    return found / length
