"""What holds for every set: pure, together, complete, and nothing moves when the set grows."""

from __future__ import annotations

import hashlib

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from inflame.artifact import listing
from inflame.artifact.split import assign

Row = tuple[int, str, str]  # content, label, group

NAMES = st.sampled_from([("train", "val"), ("train", "val", "test"), ("a", "b", "c", "d")])
SEEDS = st.integers(0, 1_000)


@st.composite
def fractions(draw: st.DrawFn) -> dict[str, float]:
    names = draw(NAMES)
    return {name: draw(st.floats(0.02, 0.24)) for name in names}


@st.composite
def rows(draw: st.DrawFn, most: int = 80, grouped: bool = True) -> list[Row]:
    """Contents with labels; a content is always in the same group, as one photo is of one camera burst."""
    contents = draw(st.lists(st.integers(0, 500), max_size=most))
    return [(c, f"c{c % 4}", f"g{c // 3}" if grouped and c % 2 else "") for c in contents]


def table(found: list[Row]) -> pa.Table:
    return listing.table(
        uri=[f"{number}-{row[0]}" for number, row in enumerate(found)],
        label=[row[1] for row in found],
        sha256=[hashlib.sha256(str(row[0]).encode()).hexdigest() for row in found],
        group=[row[2] for row in found],
    )


def sides(items: pa.Table) -> list[str]:
    return items["split"].to_pylist()


def keys_of_class(found: list[Row]) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for content, label, group in found:
        keys.setdefault(label, set()).add(group or str(content))
    return keys


def naturally(found: list[Row], parts: dict[str, float], seed: int) -> list[str]:
    """The split of each item on its own: what its content says, without a repair (the items get a class of their own
    in one huge crowd that fills every split)."""
    crowd: list[Row] = [(10_000 + n, "crowd", "") for n in range(400)]
    return sides(assign(table([(c, "crowd", g) for c, _, g in found] + crowd), parts, seed))[: len(found)]


@settings(max_examples=100, deadline=None)
@given(rows(), fractions(), SEEDS)
def test_content_and_group_are_on_one_side(found: list[Row], parts: dict[str, float], seed: int) -> None:
    by_content: dict[int, str] = {}
    by_group: dict[str, str] = {}
    for (content, _, group), side in zip(found, sides(assign(table(found), parts, seed)), strict=True):
        assert side in parts
        assert by_content.setdefault(content, side) == side
        if group:
            assert by_group.setdefault(group, side) == side


@settings(max_examples=100, deadline=None)
@given(rows(grouped=False), fractions(), SEEDS)
def test_every_class_is_in_every_split(found: list[Row], parts: dict[str, float], seed: int) -> None:
    done = sides(assign(table(found), parts, seed))
    for label, keys in keys_of_class(found).items():
        where = {side for (_, mine, _), side in zip(found, done, strict=True) if mine == label}
        assert next(iter(parts)) in where
        if len(keys) >= len(parts):
            assert where == set(parts)


@settings(max_examples=100, deadline=None)
@given(rows(), rows(), fractions(), SEEDS)
def test_with_the_previous_table_nothing_moves(
    old: list[Row], more: list[Row], parts: dict[str, float], seed: int
) -> None:
    before = assign(table(old), parts, seed)
    after = assign(table(old + more), parts, seed, previous=before)
    assert sides(after)[: len(old)] == sides(before)


@settings(max_examples=100, deadline=None)
@given(rows(), rows(), fractions(), SEEDS)
def test_without_it_nothing_moves_but_what_was_lent(
    old: list[Row], more: list[Row], parts: dict[str, float], seed: int
) -> None:
    """An item whose split was its own keeps it, unless its class still has to lend one; a class that fills its
    splits by itself never sees a move, however small it is."""
    before, after = sides(assign(table(old), parts, seed)), sides(assign(table(old + more), parts, seed))
    own = naturally(old, parts, seed)
    all_own = naturally(old + more, parts, seed)
    lent = {label for (_, label, _), b, n in zip(old, before, own, strict=True) if b != n}
    lending = {label for (_, label, _), a, n in zip(old + more, after, all_own, strict=True) if a != n}
    for row, was, now in zip(old, before, after, strict=False):
        if row[1] not in lent | lending:
            assert was == now
    assert own == all_own[: len(old)]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 10_000), min_size=20, max_size=60), st.sets(st.integers(0, 10_000), max_size=60), SEEDS)
def test_classes_of_twenty_that_fill_their_splits_never_move(old: set[int], more: set[int], seed: int) -> None:
    parts = {"train": 0.6, "val": 0.2, "test": 0.2}
    first: list[Row] = [(c, "c", "") for c in sorted(old)]
    then: list[Row] = first + [(c, "c", "") for c in sorted(more - old)]
    if set(naturally(first, parts, seed)) == set(parts):
        assert sides(assign(table(then), parts, seed))[: len(first)] == sides(assign(table(first), parts, seed))


@settings(max_examples=50, deadline=None)
@given(rows(), fractions(), SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(
    found: list[Row], parts: dict[str, float], seed: int, random: object
) -> None:
    order = list(range(len(found)))
    random.shuffle(order)  # type: ignore[attr-defined]
    items = table(found)
    done = sides(assign(items.take(pa.array(order, pa.int64())), parts, seed))
    straight = sides(assign(items, parts, seed))
    assert done == [straight[index] for index in order]
