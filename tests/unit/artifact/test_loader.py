"""Batches: an order that is a function of (seed, epoch), moves that are one of (seed, epoch, item)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from inflame.artifact import augment, loader
from inflame.records import Preprocess

PLAIN = Preprocess(size=12, resize=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SAME = Preprocess(size=16, resize=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture
def pictures() -> loader.Pictures:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8))
    return loader.Pictures(pixels=pixels, labels=torch.arange(50), uris=tuple(map(str, range(50))))


def batches(pictures: loader.Pictures, size: int, seed: int = 0) -> loader.Batches:
    move = augment.chain(augment.flip, partial(augment.shift, by=2, mode="reflect"))
    return loader.Batches(pictures, SAME, batch_size=size, seed=seed, shuffle=True, transform=move)


def by_item(found: loader.Batches, epoch: int) -> dict[int, torch.Tensor]:
    return {int(label): x for xs, ys in found.epoch(epoch) for x, label in zip(xs, ys, strict=True)}


def test_an_epoch_repeats_itself_and_others_differ(pictures: loader.Pictures) -> None:
    orders = [batches(pictures, 10, seed).order(epoch).tolist() for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(50))
    assert len({tuple(order) for order in orders}) == 3


def test_a_start_in_the_middle_gives_the_rest(pictures: loader.Pictures) -> None:
    whole, rest = list(batches(pictures, 8).epoch(3)), list(batches(pictures, 8).epoch(3, start=2))
    assert len(rest) == len(whole) - 2
    for (x, y), (u, v) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_how_an_item_is_moved_does_not_depend_on_its_batch(pictures: loader.Pictures) -> None:
    small, large = by_item(batches(pictures, 5), 2), by_item(batches(pictures, 25), 2)
    assert small.keys() == large.keys()
    assert all(torch.equal(small[item], large[item]) for item in small)


def test_two_epochs_show_an_item_and_its_mirror_image(pictures: loader.Pictures) -> None:
    turned = loader.Batches(pictures, SAME, batch_size=50, shuffle=True, transform=augment.flip)
    first, second = by_item(turned, 0), by_item(turned, 1)
    assert all(torch.equal(first[item], second[item].flip(2)) for item in first)


def test_a_few_pictures_are_of_all_classes(pictures: loader.Pictures) -> None:
    some = loader.few(pictures, 7)
    assert some.labels.tolist() == [0, 7, 14, 21, 28, 35, 42]  # in a folder they stand class by class
    assert some.uris == tuple(map(str, some.labels.tolist()))
    assert torch.equal(some.pixels, pictures.pixels[some.labels])
    assert loader.few(pictures, 50) is pictures


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_shift_is_a_window_of_the_framed_picture(pictures: loader.Pictures, mode: str) -> None:
    dice = torch.rand(50, 8, generator=torch.Generator().manual_seed(1))
    moved = augment.shift(pictures.pixels, dice, by=3, mode=mode)
    top, left = (int(value) for value in (dice[7, 1:3] * 7).long())
    framed = np.pad(pictures.pixels[7].numpy(), ((3, 3), (3, 3), (0, 0)), mode=mode)  # type: ignore[call-overload]
    assert np.array_equal(moved[7].numpy(), framed[top : top + 16, left : left + 16])


def test_zoom_keeps_shape_kind_and_range(pictures: loader.Pictures) -> None:
    seen = augment.zoom(pictures.pixels, torch.rand(50, 8), size=12, smallest=0.5)
    assert seen.shape == (50, 12, 12, 3)
    assert seen.dtype == torch.uint8


@pytest.mark.parametrize("size", [12, 24, 48])
def test_windows_of_a_whole_batch_are_those_of_one_picture_after_the_other(size: int) -> None:
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (6, 40, 40, 3), generator=dice, dtype=torch.uint8)
    windows = torch.tensor(
        [(0, 0, 40, 40), (3, 1, 20, 39), (10, 2, 8, 8), (0, 3, 33, 21), (7, 0, 24, 24), (1, 5, 12, 35)]
    )
    found = augment.windowed(pixels, *windows.T, size)
    for row, (top, left, height, width) in enumerate(windows.tolist()):
        one = pixels[row, top : top + height, left : left + width].permute(2, 0, 1)[None].float()
        want = functional.interpolate(one, size=(size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        assert (found[row].int() - want.round().clamp(0, 255).int()).abs().max() <= 1


def test_normalise_is_the_formula(pictures: loader.Pictures) -> None:
    x = loader.normalise(pictures.pixels, PLAIN)
    wanted = (pictures.pixels.double() / 255 - torch.tensor(PLAIN.mean)) / torch.tensor(PLAIN.std)
    assert torch.allclose(x.double(), wanted.permute(0, 3, 1, 2), atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_held_out_pictures_come_in_order_and_whole(pictures: loader.Pictures) -> None:
    found = loader.Batches(pictures, PLAIN, batch_size=20)
    assert [len(y) for _, y in found.epoch(0)] == [20, 20, 10]
    assert torch.cat([y for _, y in found.epoch(0)]).tolist() == list(range(50))
    assert next(iter(found.epoch(0)))[0].shape == (20, 3, 12, 12)


@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_are_the_batch(pictures: loader.Pictures, shuffle: bool) -> None:
    move = augment.chain(augment.flip, partial(augment.shift, by=2)) if shuffle else None
    whole = loader.Batches(pictures, SAME, batch_size=8, shuffle=shuffle, transform=move)
    parts = [list(whole.share(rank, 3).epoch(1)) for rank in range(3)]
    for index, (x, y) in enumerate(whole.epoch(1)):
        assert whole.whole(index) == len(y)
        for rank, given in enumerate(parts):
            wanted = slice(rank, None, 3) if rank < len(y) else slice(0, 1)
            assert torch.equal(given[index][0], x[wanted])
            assert torch.equal(given[index][1], y[wanted])
