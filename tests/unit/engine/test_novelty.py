"""What is unlike all that was learned is told, by its embedding or by its pixels; what is known seldom is."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inflame.artifact import seen
from inflame.model.engine import nearest
from inflame.model.engine.nearest import Nearest
from inflame.model.engine.novelty import Novelty, record

WIDTH, CLASSES = 24, 4
Floats = NDArray[np.floating[Any]]


def things(count: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Embeddings in clusters about a point that isn't 0, as those of nets are, and the clusters."""
    centres = 3 + 4 * np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return centres[labels] + rng.normal(size=(count, WIDTH)), labels


def photos(count: int, seed: int) -> Floats:
    """Statistics of smooth pictures in colours, some darker and some finer than others."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, 24)
    found = []
    for _ in range(count):
        waves = [
            np.outer(np.sin(rng.uniform(1, 9) * ramp + rng.uniform(0, 6)), np.cos(rng.uniform(1, 9) * ramp))
            for _ in "rgb"
        ]
        picture = rng.uniform(90, 160) + rng.uniform(20, 60) * np.stack(waves, axis=-1)
        found.append(seen.picture((picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8))[0])
    return np.array(found)


def pack(embedding: Floats) -> bytes:
    names = [str(number) for number in range(len(embedding))]
    return nearest.pack(embedding=embedding, labels=names, uris=names, shown=[b"x"] * len(names))


@pytest.fixture(scope="module")
def known() -> Novelty:
    near, (held, _) = Nearest(pack(things(80, 1)[0]), text=False), things(400, 2)
    found = record(near, held.mean(axis=0), held, photos(400, 3), np.arange(400))
    reference = {"embedding": {"mean": held.mean(axis=0).tolist()}, "novelty": found}
    return Novelty(json.loads(json.dumps(reference, allow_nan=False)), near)


def test_of_the_known_one_in_fifty_is_told_as_strange(known: Novelty) -> None:
    far = known(things(1000, 4)[0], photos(1000, 5))
    assert known.limit > 0
    assert abs(np.median(far)) < 0.2
    assert 0.002 < (far > known.limit).mean() < 0.05


@pytest.mark.parametrize(
    ("of", "how"),
    {
        "elsewhere": lambda x: x + 12 * np.random.default_rng(0).choice([-1, 1], WIDTH),
        "between": lambda x: 0.3 * x + 0.7 * things(400, 2)[0].mean(axis=0),  # the net isn't sure which of them it is
        "anywhere": lambda x: np.random.default_rng(0).normal(3, 4, x.shape),
    }.items(),
)
def test_an_embedding_where_nothing_is_known_is_strange(known: Novelty, of: str, how: Any) -> None:
    far = known(how(things(200, 6)[0]), photos(200, 7))
    assert (far > known.limit).mean() > 0.9, of


@pytest.mark.parametrize(
    ("of", "picture"),
    {
        "noise": lambda rng: rng.integers(0, 256, (24, 24, 3)),
        "one colour": lambda rng: np.broadcast_to(rng.integers(0, 256, 3), (24, 24, 3)),
        "a drawing": lambda rng: np.repeat(255 * (np.abs(np.indices((24, 24)) - 12).sum(axis=0) < 5)[..., None], 3, 2),
    }.items(),
)
def test_what_no_picture_was_like_is_strange_whatever_the_net_makes_of_it(
    known: Novelty, of: str, picture: Any
) -> None:
    rng = np.random.default_rng(0)
    like = np.array([seen.picture(picture(rng).astype(np.uint8))[0] for _ in range(40)])
    embedding = things(40, 8)[0]
    assert (known(embedding, like) > known.limit).all(), of
    assert (known(embedding, like[:, :0]) > known.limit).mean() < 0.2, "without the picture its embedding decides"


def test_a_bundle_made_before_tells_by_the_distance_from_the_nearest() -> None:
    shown, (held, _) = things(80, 1)[0], things(200, 2)
    with np.load(io.BytesIO(pack(shown))) as file:
        old = {name: file[name] for name in file if name != "length"}
    content = io.BytesIO()
    np.savez(content, **old)
    near = Nearest(content.getvalue(), text=False)
    quantiles = np.quantile(near.distance(held), np.linspace(0, 1, 101)).tolist()
    before = Novelty({"distance": quantiles}, near)
    assert before.limit == pytest.approx(1.2 * quantiles[99])
    np.testing.assert_array_equal(before(held, photos(200, 3)), near.distance(held))
    oldest = Novelty({}, near)
    assert oldest.limit == pytest.approx(1.2 * np.quantile(near.spread(), 0.99), rel=1e-5)
    assert Novelty({}, Nearest(content.getvalue(), text=True)).limit == 0
    assert (Novelty({}, None).limit, Novelty({}, None)(held, held).max()) == (0, 0)


def test_of_few_items_the_limit_is_beyond_the_last_and_of_fewer_there_is_none() -> None:
    near, (held, _) = Nearest(pack(things(80, 1)[0]), text=False), things(12, 2)
    middle, like = held.mean(axis=0), photos(12, 3)
    found = record(near, middle, held, like, np.arange(12))
    assert "inputs" not in found
    reference = {"embedding": {"mean": middle.tolist()}, "novelty": found}
    assert Novelty(reference, near)(held, like).max() * 1.2 == pytest.approx(found["limit"])
    assert record(near, middle, held[:4], like[:4], np.arange(4)) == {}


def test_where_all_pictures_are_grey_a_faint_colour_is_not_strange() -> None:
    near, (held, _) = Nearest(pack(things(80, 1)[0]), text=False), things(200, 2)
    middle, like = held.mean(axis=0), photos(200, 3)
    like[:, seen.PICTURES.index("colour")] = 0
    grey = Novelty(
        {"embedding": {"mean": middle.tolist()}, "novelty": record(near, middle, held, like, np.arange(200))}, near
    )
    faint, full = like.copy(), like.copy()
    faint[:, seen.PICTURES.index("colour")], full[:, seen.PICTURES.index("colour")] = 0.001, 0.3
    assert (grey(held, faint) > grey.limit).mean() < 0.1
    assert (grey(held, full) > grey.limit).mean() > 0.9
