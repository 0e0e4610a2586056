"""Whatever two states are: every item is accounted for once, and the way back undoes the way there."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from inflame.artifact import changes, listing

Rows = list[tuple[str, str, str, str]]

rows = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.sampled_from("xyz"),
        st.sampled_from(["", "train", "test"]),
        st.sampled_from("12345"),
    ),
    max_size=12,
    unique_by=lambda row: row[0],
)


def _table(found: Rows) -> pa.Table:
    names = ("uri", "label", "split", "sha256")
    return listing.table(**{name: [row[place] for row in found] for place, name in enumerate(names)})


@given(rows, rows)
@settings(max_examples=200, deadline=None)
def test_every_item_is_accounted_for(old: Rows, new: Rows) -> None:
    found = changes.between(_table(old), _table(new))
    assert found.same == len(set(old) & set(new))
    assert len(old) - len(found.removed) == len(new) - len(found.added)
    assert set(found.removed) <= {row[0] for row in old}
    assert set(found.added) <= {row[0] for row in new}
    assert not {row[3] for row in old if row[0] in found.removed} & {row[3] for row in new if row[0] in found.added}
    assert found.nothing == (set(old) == set(new))


@given(rows, rows)
@settings(max_examples=100, deadline=None)
def test_the_way_back(old: Rows, new: Rows) -> None:
    old, new = ([*{row[3]: row for row in rows}.values()] for rows in (old, new))  # copies can be told in several ways
    there, back = changes.between(_table(old), _table(new)), changes.between(_table(new), _table(old))
    assert (len(there.added), len(there.removed), there.same) == (len(back.removed), len(back.added), back.same)
