"""From a data set to batches: one uint8 tensor, augmented in whole batches.

The order of items is a function of (seed, epoch) and an item's augmentation of (seed, epoch, item), so nothing has
to be saved to go on exactly where a run stopped.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inflame import host
from inflame.artifact import ahead, cache, packed
from inflame.artifact import preprocess as decoder
from inflame.artifact.augment import Transform
from inflame.artifact.contents import Contents
from inflame.errors import DataError, SettingError, StorageError
from inflame.records import Dataset, Preprocess

Rows = TypeVar("Rows", Tensor, list[int])

CACHED = 1 << 19  # bytes of numbers that a core keeps at hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of one split. pixels: uint8 [N,H,W,C]; labels: int64 [N], indices into the data set's classes."""

    pixels: Tensor
    labels: Tensor
    uris: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load(
    dataset: Dataset, preprocess: Preprocess, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Pictures]:
    """Every split's pictures as `preprocess.resize` squares, decoded once and kept on disk by content.

    Class indices follow `dataset.classes`, so a split that lacks a class can't shift a label.
    progress: called with (done, all) while decoding. Raises PictureError for a file that was damaged since the
    data set was opened, DataError for texts.
    """
    require_pictures(dataset)
    pixels = _packed(dataset, preprocess) if packed.is_packed(dataset) else _decoded(dataset, preprocess, progress)
    uris = dataset.items["uri"].to_pylist()
    index = {name: number for number, name in enumerate(dataset.classes)}
    labels = np.array([index[name] for name in dataset.items["label"].to_pylist()], dtype=np.int64)
    splits = np.array(dataset.items["split"].to_pylist())
    found = {}
    for name in sorted(set(splits.tolist())):
        rows = np.flatnonzero(splits == name)
        found[name] = Pictures(
            pixels=torch.from_numpy(np.ascontiguousarray(pixels[rows])),
            labels=torch.from_numpy(labels[rows]),
            uris=tuple(uris[row] for row in rows),
        )
    return found


def few(pictures: Pictures, count: int) -> Pictures:
    """At most `count` of the pictures, evenly from the first to the last: of a folder they come class by class."""
    if count >= len(pictures):
        return pictures
    rows = torch.arange(count) * len(pictures) // count
    uris = tuple(pictures.uris[row] for row in rows.tolist())
    return Pictures(pixels=pictures.pixels[rows], labels=pictures.labels[rows], uris=uris)


def picked(parts: Sequence[Pictures], rows: NDArray[np.int64]) -> Pictures:
    """The pictures of these rows, counted through all parts one after the other; without joining the parts."""
    found, start = [], 0
    for part in parts:
        mine = torch.from_numpy(rows[(rows >= start) & (rows < start + len(part))] - start)
        uris = tuple(part.uris[row] for row in mine.tolist())
        found.append(Pictures(pixels=part.pixels[mine], labels=part.labels[mine], uris=uris))
        start += len(part)
    return Pictures(
        pixels=torch.cat([part.pixels for part in found]),
        labels=torch.cat([part.labels for part in found]),
        uris=tuple(uri for part in found for uri in part.uris),
    )


def some(pictures: Pictures, share: float, seed: int) -> Pictures:
    """A random part of the pictures, one at least; all of them for a share of 1."""
    if share >= 1:
        return pictures
    wanted = max(1, round(share * len(pictures)))
    rows = torch.randperm(len(pictures), generator=generator(seed, 0, 3))[:wanted]
    uris = tuple(pictures.uris[row] for row in rows.tolist())
    return Pictures(pixels=pictures.pixels[rows], labels=pictures.labels[rows], uris=uris)


def _packed(dataset: Dataset, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Rows of a packed array; resized one by one only when they don't have the wanted shape already."""
    array = packed.images(dataset)
    rows = np.array([int(uri.rpartition("#")[2]) for uri in dataset.items["uri"].to_pylist()])
    chosen: NDArray[np.uint8] = array[rows]
    if chosen.ndim == 3:
        chosen = chosen[..., None]
    if chosen.shape[1:] == (preprocess.resize, preprocess.resize, preprocess.channels):
        return chosen
    return np.stack(
        [decoder.canvas(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, preprocess) for picture in chosen]
    )


def _decoded(
    dataset: Dataset, preprocess: Preprocess, progress: Callable[[int, int], None] | None
) -> NDArray[np.uint8]:
    """Decoded squares, from the cache on disk when the same content was decoded the same way before."""
    hashes = dataset.items["sha256"].to_pylist()
    path = cache.place(hashes, preprocess)
    if path.exists():
        kept: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return kept
    uris = dataset.items["uri"].to_pylist()
    squares = np.empty((len(uris), preprocess.resize, preprocess.resize, preprocess.channels), dtype=np.uint8)

    source = Contents(dataset.root)

    def decode(row: int) -> None:
        squares[row] = decoder.canvas(source.read(uris[row]), preprocess)

    with ThreadPoolExecutor(host.cores()) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(uris))), 1):
            if progress:
                progress(done, len(uris))
    with suppress(StorageError):  # a full disk costs time at the next start, not this run
        cache.keep(squares, hashes, preprocess)
    return squares


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 [B,H,W,C] → float32 [B,C,H,W] in channels_last memory: `(x / 255 - mean) / std`."""
    count, height, width, channels = pixels.shape
    # A row of pixels at a time: with three numbers at a time the processor's wide registers stay empty.
    mean, std = (tuple(values[:channels]) for values in (preprocess.mean, preprocess.std))
    scale, shift = _row(mean, std, width, pixels.device)
    whole = pixels.reshape(count, height, width * channels)
    x = torch.empty(whole.shape, dtype=torch.float32, device=pixels.device)
    # And few pictures at a time on a CPU: what three passes go over stays in its cache.
    few = count if pixels.device.type != "cpu" else max(1, CACHED // max(1, height * width * channels * 4))
    for start in range(0, count, max(few, 1)):
        x[start : start + few].copy_(whole[start : start + few]).mul_(scale).add_(shift)
    return x.view(count, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _row(
    means: tuple[float, ...], deviations: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What a row of pixels is multiplied by, and what is added. Kept: a GPU would wait for its sending."""
    with torch.inference_mode(False):
        mean, std = torch.tensor(means, device=device), torch.tensor(deviations, device=device)
        return (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)


def centre(pixels: Tensor, size: int) -> Tensor:
    """The middle `size` x `size` of uint8 [B,H,W,C]: what `preprocess.pixels` gives for one picture."""
    top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return pixels[:, top : top + size, left : left + size]


class Batches:
    """A loader over one split: shuffled and augmented when `shuffle`, else in order and centre-cropped.

    `epoch(epoch, start)` yields (x float32 [B,C,size,size], y int64 [B]) from batch `start` on. device: where all
    pictures lie, and batches are made; see `on` for those that are too many for it.
    """

    def __init__(
        self,
        pictures: Pictures,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        transform: Transform | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        require_size(batch_size)
        self.pictures, self.preprocess, self.transform = pictures, preprocess, transform
        self.batch_size, self.seed, self.shuffle = min(batch_size, max(len(pictures), 1)), seed, shuffle
        self.pixels, self.labels = pictures.pixels.to(device), pictures.labels.to(device)
        self._to: torch.device | None = None  # where the pictures of a batch are sent to, if they lie elsewhere
        self._part = (0, 1)  # of each batch: every second number-th item from the first on

    @property
    def room(self) -> int:
        """Bytes that all pictures take."""
        return self.pixels.nbytes + self.labels.nbytes

    def on(self, device: torch.device, *, held: bool) -> Self:
        """A loader of the same batches, augmented on `device`: all pictures lie there if `held`, else those of a batch
        are sent ahead of it, a byte for each colour."""
        other = copy.copy(self)
        if held:
            other.pixels, other.labels = self.pixels.to(device), self.labels.to(device)
        other._to = None if held or self.pixels.device.type == device.type else device
        return other

    def sized(self, batch_size: int) -> Self:
        """A loader of the same pictures in batches of another size."""
        other = copy.copy(self)
        other.batch_size = min(batch_size, max(len(self.pictures), 1))
        return other

    def share(self, rank: int, world: int) -> Self:
        """A loader that makes of each batch every `world`-th item from `rank` on; where there is none, the first."""
        other = copy.copy(self)
        other._part = (rank, world)
        return other

    def whole(self, batch: int) -> int:
        """The items of batch number `batch`, all shares together."""
        return min(self.batch_size, len(self.pictures) - batch * self.batch_size)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.pictures), self.batch_size)
        return whole if self.shuffle else whole + (rest > 0)

    def order(self, epoch: int) -> Tensor:
        """The items of `epoch`, in order: a function of (seed, epoch) only."""
        if not self.shuffle:
            return torch.arange(len(self.pictures))
        return torch.randperm(len(self.pictures), generator=generator(self.seed, epoch, 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, … of `epoch`."""
        order = self.order(epoch).to(self.pixels.device)
        dice = self._dice(epoch).to(self.pixels.device) if self.transform else None

        def picked(batch: int) -> tuple[Tensor, ...]:
            rows = part(order[batch * self.batch_size : (batch + 1) * self.batch_size], *self._part)
            return self.pixels[rows], self.labels[rows], *(() if dice is None else (dice[rows],))

        given = map(picked, range(start, len(self)))
        for pixels, labels, *thrown in given if self._to is None else ahead.sent(given, self._to):
            seen = centre(pixels, self.preprocess.size) if self.transform is None else self.transform(pixels, *thrown)
            yield normalise(seen, self.preprocess), labels

    def _dice(self, epoch: int) -> Tensor:
        """Uniform numbers [N,8] for `epoch`. The first, which mirrors, alternates: an item that was mirrored in one
        epoch isn't in the next, so two epochs show both (Jordan, 2024, arXiv:2404.00498)."""
        dice = torch.rand(len(self.pictures), 8, generator=generator(self.seed, epoch, 1))
        first = torch.rand(len(self.pictures), generator=generator(self.seed, 0, 4))
        dice[:, 0] = first if epoch % 2 == 0 else 1 - first
        return dice


def require_pictures(dataset: Dataset) -> None:
    """DataError for a data set of something else."""
    if dataset.kind != "image":
        raise DataError(f"{dataset.name} holds texts, not pictures.", where=dataset.root, remedy="inflame train DATA")


def require_size(batch_size: int) -> None:
    """SettingError for a size that only a recipe which looks for one understands."""
    if batch_size < 1:
        raise SettingError(
            "This recipe doesn't find a batch size by trying.",
            where="hyperparam.batch_size",
            remedy="hyperparam.batch_size=128",
        )


def part(rows: Rows, rank: int, world: int) -> Rows:
    """Every `world`-th row from `rank` on; the first where that is none: every process takes part in every step."""
    return rows[rank::world] if rank < len(rows) else rows[:1]


def generator(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A generator whose state is a hash of its arguments, so that neighbouring seeds share nothing."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
