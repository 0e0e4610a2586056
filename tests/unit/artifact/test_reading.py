"""Reading photos: the same pixels with and without a cache, exact resume, ranks, full disks."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from inflame import artifact
from inflame.artifact import augment, finding, loader, preprocess, quick, reading, shard
from inflame.records import Dataset, Preprocess

PLAN = Preprocess(size=32, resize=40)
SEEN = partial(augment.zoom, size=32, smallest=0.5)


@pytest.fixture
def train(photos: Path) -> Dataset:
    return artifact.open(photos).split("train")


def stream(train: Dataset, **how: object) -> reading.Stream:
    return reading.Stream(train, PLAN, batch_size=4, **{"shuffle": True, "transform": SEEN, **how})  # type: ignore[arg-type]


def same(one: list[reading.Batch], other: list[reading.Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_a_cache_changes_no_pixel(train: Dataset) -> None:
    without = [list(stream(train, cache_gb=0).epoch(epoch)) for epoch in range(2)]
    first = stream(train)
    assert same(list(first.epoch(0)), without[0])
    assert same(list(first.epoch(1)), without[1])  # from the cache
    assert same(list(stream(train).epoch(1)), without[1])  # of another object, from disk
    assert not same(without[0], without[1])


def test_evaluation_sees_what_is_served(train: Dataset) -> None:
    batches = list(stream(train, shuffle=False, transform=None).epoch(0))
    x = torch.cat([x for x, _ in batches])
    uris = train.items["uri"].to_pylist()
    served = np.stack([preprocess.pixels(Path(train.root) / uri, PLAN) for uri in uris])
    assert torch.equal(x, loader.normalise(torch.from_numpy(served), PLAN))


@pytest.mark.parametrize("threads", [1, 3])
def test_it_goes_on_at_any_batch_with_any_number_of_threads(train: Dataset, threads: int) -> None:
    whole = list(stream(train, threads=2).epoch(3))
    for start in (0, 1, len(whole) - 1):
        assert same(list(stream(train, threads=threads).epoch(3, start)), whole[start:])


def test_fewer_items_than_a_batch_are_one_batch(train: Dataset) -> None:
    few = reading.Stream(train, PLAN, batch_size=1000, shuffle=True, transform=SEEN)
    assert len(few) == 1
    assert [len(y) for _, y in few.epoch(0)] == [len(train)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_shares_are_the_batch_and_nothing_twice(train: Dataset, shuffle: bool) -> None:
    whole = stream(train, shuffle=shuffle)
    parts = [whole.share(rank, 3) for rank in range(3)]
    for epoch in range(2):  # decoded, and from the cache that all of them fill
        given = [list(part.epoch(epoch)) for part in parts]
        for index, (x, y) in enumerate(whole.epoch(epoch)):
            assert whole.whole(index) == len(y)
            for rank, mine in enumerate(given):
                wanted = slice(rank, None, 3) if rank < len(y) else slice(0, 1)
                assert same([mine[index]], [(x[wanted], y[wanted])])


def test_what_another_process_decoded_is_not_decoded_again(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = stream(train).share(0, 2), stream(train).share(1, 2)
    for part in (mine, other):
        list(part.epoch(0))
    monkeypatch.setattr(preprocess, "canvas", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(quick, "canvas", lambda *_: pytest.fail("decoded"))
    seen = set(mine.order(0)[: len(mine) * mine.batch_size].tolist())
    if seen == set(range(len(train))):  # whole batches: each item was somewhere
        list(mine.epoch(1))
    assert mine._cache is not None
    mine._cache.look()
    assert set(np.flatnonzero(mine._cache._done).tolist()) == seen


def test_another_size_is_the_same_pictures_in_the_same_order(train: Dataset) -> None:
    one, other = stream(train, transform=None), stream(train, transform=None).sized(3)
    flat = [torch.cat([y for _, y in loader.epoch(1)]) for loader in (one, other)]
    size = min(map(len, flat))
    assert torch.equal(flat[0][:size], flat[1][:size])
    assert next(iter(other.epoch(1)))[0].shape[0] == 3
    assert next(iter(one.epoch(1)))[0].shape[0] == 4


def test_a_full_disk_is_said_and_training_goes_on(train: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told: list[str] = []
    found = list(stream(train, say=told.append).epoch(0))
    assert same(found, list(stream(train, cache_gb=0).epoch(0)))
    assert "No space left" in told[0]


def test_a_cache_keeps_to_its_size(train: Dataset) -> None:
    told: list[str] = []
    assert list(stream(train, cache_gb=1e-6, say=told.append).epoch(0))
    assert "no room" in told[0]


def test_threads_that_read_leave_the_cores_to_the_training(train: Dataset) -> None:
    before, seen = torch.get_num_threads(), []

    def made(samples: list[reading.Sample]) -> reading.Batch:
        seen.append(torch.get_num_threads())
        return reading.collate(samples, PLAN, SEEN)

    torch.set_num_threads(2)
    try:
        list(stream(train, collate_with=made, threads=2).epoch(0))
        assert seen
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_collate_can_be_replaced(train: Dataset) -> None:
    def mine(samples: object) -> reading.Batch:
        labels = torch.tensor([sample.label for sample in samples])  # type: ignore[attr-defined]
        return torch.zeros(len(labels), 1), labels

    for x, y in stream(train, collate_with=mine).epoch(0):
        assert x.shape == (len(y), 1)


@pytest.mark.parametrize("cache_gb", [0, None])
def test_shards_are_read_too_each_item_once(photos: Path, tmp_path: Path, cache_gb: float | None) -> None:
    shard.shard(finding.listed(photos), tmp_path / "out", shard.Recipe(size=40, shard_mb=0.02), workers=1)
    found = artifact.open(tmp_path / "out").split("train")
    given = stream(found, cache_gb=cache_gb, transform=None)
    order = given.order(0).tolist()
    assert sorted(order) == list(range(len(found)))
    assert order != given.order(1).tolist()
    assert same(list(given.epoch(1, 2)), list(given.epoch(1))[2:])


def test_an_order_shard_after_shard_can_be_kept_where_there_is_a_cache_now(photos: Path, tmp_path: Path) -> None:
    shard.shard(finding.listed(photos), tmp_path / "out", shard.Recipe(size=40, shard_mb=0.02), workers=1)
    dataset = artifact.open(tmp_path / "out")
    before, now = (stream(dataset, cache_gb=size) for size in (0, None))
    assert (before.streamed, now.streamed) == (True, False)
    assert not torch.equal(before.order(1), now.order(1))
    now.streamed = True
    assert torch.equal(before.order(1), now.order(1))
    assert torch.equal(before.sized(5).order(1), now.sized(5).share(0, 2).order(1))


def test_a_changed_picture_is_never_taken_from_the_cache(photos: Path) -> None:
    before = artifact.open(photos).split("train")
    list(stream(before).epoch(0))
    uri = before.items["uri"].to_pylist()[0]
    path = Path(before.root) / uri
    other = next(p for p in sorted(photos.rglob("*.jpg")) if p != path)
    path.write_bytes(other.read_bytes()[:-2] + b"\x00\xff\xd9")
    os.utime(path, (1, 1))
    after = artifact.open(photos)
    assert before.items["sha256"].to_pylist()[0] not in after.items["sha256"].to_pylist()


def test_quick_squares_are_nearly_the_exact_ones(photos: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[:6]:
        made = quick.canvas(path.read_bytes(), 40)
        assert made is not None
        exact = preprocess.canvas(path.read_bytes(), PLAN)
        assert np.abs(made.astype(float) - exact).mean() < 12
    assert quick.canvas(path.read_bytes()[:-50], 40) is None
    assert quick.canvas(b"junk", 40) is None


# --- augmentation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colour", "cutout", "trivial", "flip"])
def test_augmentations_are_functions_of_their_dice(name: str) -> None:
    pixels = torch.randint(0, 255, (24, 20, 20, 3), dtype=torch.uint8)
    dice = torch.rand(24, 8)
    change = getattr(augment, name)
    once = change(pixels.clone(), dice)
    assert once.shape == pixels.shape
    assert once.dtype == torch.uint8
    assert torch.equal(once, change(pixels.clone(), dice))
    assert not torch.equal(once, pixels)
    one = change(pixels[3:4].clone(), dice[3:4])
    assert torch.equal(one[0], once[3])  # of an item's own dice, whatever it is beside


def test_zoom_on_a_cpu_is_nearly_that_of_torch() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(6, 3, 5, 5), size=64, mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
    dice = torch.rand(6, 8)
    mine = augment.zoom(pixels, dice, size=48, smallest=0.5).float()
    height = (0.5 + 0.5 * dice[:, 3]).sqrt()
    assert mine.shape == (6, 48, 48, 3)
    assert (mine.mean((1, 2, 3)) - pixels.float().mean((1, 2, 3))).abs().max() < 60
    whole = augment.zoom(pixels, torch.zeros(6, 8) + torch.tensor([0, 0, 0, 1.0, 0.5, 0, 0, 0]), size=48, smallest=0.5)
    there = torch.nn.functional.interpolate(pixels.permute(0, 3, 1, 2).float(), size=48, mode="bilinear")
    assert (whole.permute(0, 3, 1, 2).float() - there).abs().mean() < 1
    assert height.shape == (6,)


@pytest.mark.parametrize("cut", [False, True])
def test_mixing_gives_shares_that_sum_to_one(cut: bool) -> None:
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8) % 3
    mixed, target = augment.mix(x, y, classes=3, alpha=1.0, seed=1, step=5, cut=cut)
    assert mixed.shape == x.shape
    assert torch.allclose(target.sum(1), torch.ones(8))
    again, _ = augment.mix(x, y, classes=3, alpha=1.0, seed=1, step=5, cut=cut)
    assert torch.equal(mixed, again)
    other, _ = augment.mix(x, y, classes=3, alpha=1.0, seed=1, step=6, cut=cut)
    assert not torch.equal(mixed, other)
