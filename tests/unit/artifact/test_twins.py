"""Near duplicates: saved again, resized or mirrored pictures are found, and different ones, however alike, are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inflame.artifact import packed, thumbs, twins


def scene(seed: int, side: int = 96) -> Image.Image:
    """A colourful picture of smooth patches, unlike any other seed's."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def found(images: list[Image.Image], **more: bool) -> set[tuple[int, int]]:
    small = np.stack([thumbs.make(image) for image in images])
    sizes = np.array([image.size for image in images])
    return {tuple(pair) for pair in twins.pairs(thumbs.grey(small), sizes, **more).tolist()}


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: again(image, 40),
    "half": lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
    "very small": lambda image: image.resize((20, 20), Image.Resampling.LANCZOS),
    "double": lambda image: image.resize((192, 192), Image.Resampling.BICUBIC),
    "squeezed": lambda image: image.resize((96, 60)),
    "lighter": lambda image: image.point(lambda value: min(255, value + 12)),
    "less contrast": lambda image: image.point(lambda value: 60 + value // 2),
    "grey": lambda image: image.convert("L"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str) -> None:
    scenes = [scene(seed) for seed in range(40)]
    assert found([*scenes, CHANGES[change](scenes[7])]) == {(7, 40)}


def test_mirror_images_only_when_asked() -> None:
    scenes = [scene(seed) for seed in range(20)]
    turned = CHANGES["mirrored"](scenes[3])
    assert found([*scenes, turned], mirrored=False) == set()


def test_many_copies_of_one_picture() -> None:
    """Ten copies are each other's surroundings, and found all the same."""
    scenes = [scene(seed) for seed in range(30)]
    copies = [again(scenes[0], quality) for quality in range(50, 90, 4)]
    links = found([*scenes, *copies])
    clusters = twins.clusters(np.array(sorted(links)), 40)
    assert clusters[[0, *range(30, 40)]].tolist() == [0] * 11
    assert len(set(clusters.tolist())) == 30


def test_the_same_bytes_are_a_chain_not_a_square() -> None:
    same = np.repeat(np.asarray(thumbs.make(scene(1)))[None], 500, axis=0)
    links = twins.pairs(thumbs.grey(same))
    assert links.tolist() == [[0, row] for row in range(1, 500)]


def test_blank_pictures_are_nobodys_twins() -> None:
    flat = [Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in (0, 1, 255, 255)]
    assert found([*flat, *[scene(seed) for seed in range(10)]]) == set()


def test_what_is_alike_all_over_needs_more_than_likeness() -> None:
    """The ones among the digits: alike as they are, hardly any is taken for another's copy."""
    pixels, labels, _ = packed.digits(None)  # type: ignore[arg-type]
    ones = [Image.fromarray(pixels[row]).resize((28, 28)) for row, label in enumerate(labels) if label == "1"]
    assert len(ones) > 150
    assert len(found(ones, mirrored=False)) <= 2


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_very_few_pictures(count: int) -> None:
    small = thumbs.empty(count)
    for seed in range(count):
        small[seed] = thumbs.make(scene(seed))
    assert twins.pairs(thumbs.grey(small)).shape == (0, 2)


def test_two_copies_alone() -> None:
    assert found([scene(1), again(scene(1), 60)]) == {(0, 1)}


def test_many_alike_are_no_trouble() -> None:
    """Three thousand nearly equal pictures: fast, and bounded in memory."""
    random = np.random.default_rng(0)
    one = np.asarray(thumbs.grey(thumbs.make(scene(5))[None])[0], dtype=np.int16)
    many = (one + random.integers(-1, 2, (3000, 32, 32))).clip(0, 255).astype(np.uint8)
    links = twins.pairs(many)
    assert len(links) >= 2999
    assert len(set(twins.clusters(links, 3000).tolist())) == 1


def test_rows_are_sorted_and_first_is_less() -> None:
    scenes = [scene(seed) for seed in range(12)]
    links = np.array(sorted(found([*scenes, again(scenes[9], 50), again(scenes[2], 50)])))
    assert (links[:, 0] < links[:, 1]).all()
    assert links.tolist() == [[2, 13], [9, 12]]


def test_clusters_follow_chains() -> None:
    links = np.array([[4, 5], [3, 4], [0, 1], [1, 3], [7, 8]])
    assert twins.clusters(links, 10).tolist() == [0, 0, 2, 0, 0, 0, 6, 7, 7, 9]
    assert twins.clusters(twins.NONE, 3).tolist() == [0, 1, 2]


def test_digits_have_their_twins_and_no_others() -> None:
    pixels, _, _ = packed.digits(None)  # type: ignore[arg-type]
    images = [Image.fromarray(picture).resize((28, 28), Image.Resampling.BICUBIC) for picture in pixels[:600]]
    planted = {number: again(images[number], 60) for number in range(0, 600, 20)}
    links = found([*images, *planted.values()], mirrored=False)
    real = {(number, 600 + place) for place, number in enumerate(planted)}
    assert len(links & real) >= 0.95 * len(real)
    assert len(links - real) <= 2


def test_thumbs_of_arrays_are_those_of_pictures() -> None:
    for shape in ((28, 28), (50, 40, 3), (32, 32, 3), (8, 8)):
        array = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
        mine = thumbs.of_arrays(array).astype(int)
        theirs = np.stack([thumbs.make(Image.fromarray(picture)) for picture in array]).astype(int)
        assert np.abs(mine - theirs).mean() < 1.0
