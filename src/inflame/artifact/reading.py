"""Reading photos that don't fit into memory, from files, shards or buckets: decoded once, then read from a mapped file.

    Sample  → collate → Batch

The first epoch decodes and fills the cache on the way; later ones only cut, mirror and normalise. Where there is no
room for a cache every epoch decodes. The order is a function of (seed, epoch) and an item's augmentation of (seed,
epoch, item), so a run goes on exactly at any batch, with any number of threads.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inflame import host, store
from inflame.artifact import ahead, augment, contents, preprocess, quick
from inflame.artifact.loader import centre, generator, normalise, part, require_pictures, require_size
from inflame.errors import InflameError
from inflame.records import Dataset, Preprocess

Pixels = NDArray[np.uint8]

AHEAD = 4  # batches that are made while one is trained on
SHARE = 0.5  # of the free disk that a cache may take, where no size is given
MIXED = 4  # shards whose items are mixed with each other when they are read as a stream
_FLUSH = 512  # decoded pictures after which what is in the cache is noted


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One item on its way into a batch. pixels: uint8 [resize, resize, C]; label: index into the classes; dice: its
    random numbers of this epoch, float32 [8]."""

    pixels: Pixels
    label: int
    uri: str
    dice: NDArray[np.float32]


Batch = tuple[Tensor, Tensor]  # float32 [B,C,size,size] normalised, int64 [B]
Collate = Callable[[Sequence[Sample]], Batch]


def collate(samples: Sequence[Sample], plan: Preprocess, transform: augment.Transform | None = None) -> Batch:
    """The samples as one batch: stacked, augmented together (or cut to the centre), normalised."""
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    dice = torch.from_numpy(np.stack([sample.dice for sample in samples]))
    pixels = centre(pixels, plan.size) if transform is None else transform(pixels, dice)
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return normalise(pixels, plan), labels


class Stream:
    """A loader over one split of any size: `epoch(epoch, start)` yields batches from batch `start` on.

    cache_gb: the most that decoded pictures may take on disk (0: none; None: half of what is free). Unreadable items
    since the data set was opened: PictureError; texts: DataError. `say` is told when there is no room for a cache.
    """

    def __init__(  # noqa: PLR0913 - each is a question that only the caller can answer
        self,
        dataset: Dataset,
        plan: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        transform: augment.Transform | None = None,
        collate_with: Collate | None = None,
        cache_gb: float | None = None,
        threads: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_size(batch_size)
        require_pictures(dataset)
        host.keep_memory()
        self.plan, self.seed, self.shuffle = plan, seed, shuffle
        self.threads = threads or host.cores()
        self.collate: Collate = collate_with or (lambda samples: collate(samples, plan, transform))
        self._uris = dataset.items["uri"].to_pylist()
        self.batch_size = min(batch_size, max(len(self._uris), 1))  # one batch at least
        self._to: torch.device | None = None  # where batches are sent to
        self._part = (0, 1)  # of each batch: every second number-th item from the first on
        index = {name: number for number, name in enumerate(dataset.classes)}
        self._labels = [index[label] for label in dataset.items["label"].to_pylist()]
        self._source = contents.Contents(dataset.root)
        self._quick = transform is not None and plan.channels == 3  # what is augmented need not be exact
        self._cache = _Cache.made(dataset, plan, cache_gb, say, quick=self._quick)
        files = [contents.divided(uri)[0] for uri in self._uris]
        self._shards = np.unique(files, return_inverse=True)[1] if any(files) else None
        self.streamed = self._shards is not None and self._cache is None  # not to be changed while it is trained on

    @property
    def room(self) -> None:
        """Bytes that all pictures take: they aren't held anywhere."""

    def on(self, device: torch.device, *, held: bool) -> Self:
        """A loader of the same batches, each sent to `device` ahead of its turn."""
        other = copy.copy(self)
        other._to = device
        return other

    def sized(self, batch_size: int) -> Self:
        """A loader of the same items in batches of another size."""
        other = copy.copy(self)
        other.batch_size = min(batch_size, max(len(self._uris), 1))
        return other

    def share(self, rank: int, world: int) -> Self:
        """A loader that makes of each batch every `world`-th item from `rank` on; where there is none, the first."""
        other = copy.copy(self)
        other._part = (rank, world)
        return other

    def whole(self, batch: int) -> int:
        """The items of batch number `batch`, all shares together."""
        return min(self.batch_size, len(self._uris) - batch * self.batch_size)

    def __len__(self) -> int:
        items = len(self._uris)
        return items // self.batch_size if self.shuffle else -(-items // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The items of `epoch`, in order. Where they are `streamed` (without a cache) the items of a few shards are
        mixed with each other, shard after shard in a new order, so that each shard is read once."""
        if not self.shuffle:
            return torch.arange(len(self._uris))
        if not self.streamed:
            return torch.randperm(len(self._uris), generator=generator(self.seed, epoch, 0))
        return self._streamed(epoch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, … of `epoch`, made ahead by threads."""
        made = self._made(epoch, start)
        return made if self._to is None else ahead.sent(made, self._to)  # type: ignore[return-value]

    def _made(self, epoch: int, start: int) -> Iterator[Batch]:
        if self._cache is not None and self._part[1] > 1:
            self._cache.look()
        order = self.order(epoch).tolist()
        dice = torch.rand(len(self._uris), 8, generator=generator(self.seed, epoch, 1)).numpy()
        first = torch.rand(len(self._uris), generator=generator(self.seed, 0, 4)).numpy()
        dice[:, 0] = first if epoch % 2 == 0 else 1 - first  # mirrored in one epoch, not in the next (Jordan, 2024)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="read", initializer=_alone) as pool:
            try:
                for batch in range(start, len(self)):
                    rows = part(order[batch * self.batch_size : (batch + 1) * self.batch_size], *self._part)
                    waiting.append(pool.submit(self._batch, rows, dice))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
                if self._cache is not None:
                    self._cache.note()

    def _batch(self, rows: list[int], dice: NDArray[np.float32]) -> Batch:
        return self.collate(
            [Sample(pixels=self._pixels(r), label=self._labels[r], uri=self._uris[r], dice=dice[r]) for r in rows]
        )

    def _pixels(self, row: int) -> Pixels:
        if self._cache is not None:
            kept = self._cache.get(row)
            if kept is not None:
                return kept
        data = self._source.read(self._uris[row])
        made = quick.canvas(data, self.plan.resize) if self._quick else None
        pixels = preprocess.canvas(data, self.plan) if made is None else made
        if self._cache is not None:
            self._cache.put(row, pixels)
        return pixels

    def _streamed(self, epoch: int) -> Tensor:
        assert self._shards is not None
        random = np.random.default_rng([self.seed, epoch])
        shards = random.permutation(int(self._shards.max()) + 1)
        parts = []
        for first in range(0, len(shards), MIXED):
            rows = np.flatnonzero(np.isin(self._shards, shards[first : first + MIXED]))
            parts.append(random.permutation(rows))
        return torch.from_numpy(np.concatenate(parts))


def _alone() -> None:
    """Lets this thread do its sums itself. Each thread of Python would else get as many helpers of OpenMP as there are
    cores: they take the cores from the training, and as soon as there are more of them than cores OpenMP puts all of
    them to sleep between any two steps, those of the training too."""
    torch.set_num_threads(1)


class _Cache:
    """Decoded squares in one mapped file, and a file that says which are there. Keyed by content: never stale.

    Several processes may fill it together: they write the same bytes, and say so afterwards.
    """

    def __init__(self, squares: Pixels, done: NDArray[np.uint8], notes: Path) -> None:
        self._squares, self._done, self._notes, self._fresh = squares, done, notes, 0

    @classmethod
    def made(
        cls, dataset: Dataset, plan: Preprocess, most: float | None, say: Callable[[str], None], *, quick: bool
    ) -> _Cache | None:
        """The cache of these pictures, or None where there is no room for it."""
        shape = (len(dataset), plan.resize, plan.resize, plan.channels)
        size = int(np.prod(shape, dtype=np.int64))
        if not size or most == 0:
            return None
        hashes = dataset.items["sha256"].to_pylist()
        how = json.dumps([plan.resize, plan.channels, plan.interpolation, quick])
        key = hashlib.sha256("\n".join([how, *hashes]).encode()).hexdigest()[:24]
        place = store.home() / "cache" / "squares" / f"{key}.u8"
        try:
            store.make_folder(place.parent)
            free = shutil.disk_usage(place.parent).free
            room = SHARE * free if most is None else most * 1e9
            if not place.exists() and size > min(room, free):
                say(f"no room for a cache of {size / 1e9:.1f} GB: photos are decoded anew in every epoch")
                return None
            with place.open("a+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk says so now, and not in the middle of a write
            notes = place.with_suffix(".done")
            made = cls(np.memmap(place, np.uint8, "r+", shape=shape), np.zeros(shape[0], np.uint8), notes)
            made.look()
            return made
        except (OSError, InflameError) as error:
            place.unlink(missing_ok=True)
            say(f"no cache of decoded photos ({error}): they are decoded anew in every epoch")
            return None

    def look(self) -> None:
        """Learns what is there by now, from this or another process."""
        with suppress(OSError, ValueError):
            kept = np.fromfile(self._notes, np.uint8)
            if len(kept) == len(self._done):
                self._done |= kept

    def get(self, row: int) -> Pixels | None:
        """The square, or None while it isn't there."""
        return self._squares[row] if self._done[row] else None

    def put(self, row: int, pixels: Pixels) -> None:
        """Keeps the square."""
        self._squares[row] = pixels
        self._done[row] = 1
        self._fresh += 1
        if self._fresh >= _FLUSH:
            self.note()

    def note(self) -> None:
        """Says on disk what is there, after it is there."""
        if not self._fresh:
            return
        self._fresh = 0
        done = self._done.copy()
        self._squares.flush()  # type: ignore[attr-defined]
        with suppress(OSError, InflameError):
            known = np.fromfile(self._notes, np.uint8) if self._notes.exists() else done
            store.write(self._notes, (done | known if len(known) == len(done) else done).tobytes())
