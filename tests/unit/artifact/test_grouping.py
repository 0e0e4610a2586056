"""Structure that a random split would tear apart is told with the command that mends it; plain names are not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import pytest

from inflame.artifact import grouping, listing
from inflame.artifact.scanning import Scan
from inflame.errors import DataError
from inflame.records import Advice, Dataset, Fault


def dataset(uris: Sequence[str], **columns: Sequence[str]) -> Dataset:
    """A listed data set; the label is the first folder."""
    labels = [uri.partition("/")[0] for uri in uris]
    items = listing.table(uri=list(uris), **{"label": labels, **{name: list(value) for name, value in columns.items()}})
    return Dataset(
        name="birds", kind="image", classes=tuple(sorted(set(labels))), root="/birds", version="", items=items
    )


def advised(
    uris: Sequence[str], taken: Sequence[str] = (), faults: Sequence[Fault] = (), **columns: Sequence[str]
) -> list[Advice]:
    times = taken or [""] * len(uris)
    scans = [Scan(uri, taken=time, camera="Canon") for uri, time in zip(uris, times, strict=True)]
    return list(grouping.advise(dataset(uris, **columns), "my birds", scans, faults))


def named(pattern: str, count: int = 60, labels: Sequence[str] = ("crow", "robin")) -> list[str]:
    """File names by a pattern of {n} (0, 1, 2 …), {i} and {j} (n // 3 and n % 3)."""
    return [
        f"{labels[n % len(labels)]}/" + pattern.format(n=n, i=n // 6, j=n // 2 % 3, abc="abc"[n // 2 % 3])
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("pattern", "group"),
    [
        ("IMG_{i:04}_{abc}.jpg", "IMG_0001"),
        ("bird{i}_frame{j:03}.jpg", "bird1"),
        ("bird{i}frame{j:03}.jpg", "bird1"),
        ("{i:03}-{j}.png", "001"),
        ("patient{i}_slice_{j}_left.png", "patient1"),
        ("IMG_{i:04}_jpg.rf.{n:032x}.jpg", "IMG_0001"),
        ("clip {i} ({j}).webp", "clip 1"),
    ],
)
def test_series_in_names_are_told_with_a_pattern_that_finds_them(pattern: str, group: str) -> None:
    uris = named(pattern)
    (found,) = advised(uris)
    assert found.kind == "name"
    assert "10 series of 60 items" in found.reason
    inflame, split, data, by, regex = shlex.split(found.command)
    assert (inflame, split, data, by) == ("inflame", "split", "my birds", "--by")
    matches = [re.search(regex, uri) for uri in uris]
    assert {match[1] for match in matches if match} >= {group}
    assert len({match[1] for match in matches if match}) == 10


@pytest.mark.parametrize(
    "pattern",
    [
        "{n:04}.jpg",
        "{n}.jpg",
        "IMG_{n:04}.jpg",
        "IMG_{n:04}_large.jpg",
        "photo ({n}).jpg",
        "n01440764_{n}.jpg",
        "{n:07}3_ab{n:x}cd_m.jpg",
        "batch_{i}_{j}.jpg",
        "cat.{n}.jpg",
    ],
)
def test_plain_names_are_no_structure(pattern: str) -> None:
    assert advised(named(pattern)) == []


def test_checksums_as_names_are_no_structure() -> None:
    import hashlib

    assert advised([f"ab/{hashlib.md5(bytes([n])).hexdigest()}.jpg" for n in range(200)]) == []
    assert advised([f"ab/{hashlib.sha256(bytes([n])).hexdigest()[:9]}.jpg" for n in range(200)]) == []


def test_a_number_that_is_the_class_is_no_structure() -> None:
    assert advised([f"{n % 3}/{n % 3}_{n:04}.png" for n in range(90)]) == []


def test_folders_inside_classes() -> None:
    (found,) = advised([f"{'ab'[n % 2]}/nest{n // 6}/{n}.jpg" for n in range(60)])
    assert found.kind == "folder"
    assert found.command == "inflame split 'my birds' --by '(.+)/'"
    assert advised([f"{'ab'[n % 2]}/part{n // 6}/{n}.jpg" for n in range(60)]) == []


def test_a_group_column_needs_no_advice() -> None:
    uris = named("bird{i}_frame{j}.jpg")
    assert advised(uris, group=[str(n // 6) for n in range(60)]) == []


def test_splits_of_the_data_that_tear_groups_apart() -> None:
    uris = named("bird{i}_frame{j}.jpg")
    whole = advised(uris, split=["train" if n < 30 else "test" for n in range(60)])
    assert whole == []
    (torn,) = advised(uris, split=["train" if n % 4 else "test" for n in range(60)])
    assert torn.command.endswith("--resplit")


def test_a_time_column() -> None:
    (found,) = advised(named("{n}.jpg"), time=[f"2020-01-{1 + n // 2:02}" for n in range(60)])
    assert (found.kind, found.command) == ("time", "inflame split 'my birds' --by time")
    assert "from 2020-01-01 to 2020-01-30" in found.reason


def test_chains_of_near_copies() -> None:
    uris = named("{n}.jpg")
    chains = [Fault(kind="near_duplicate", severity="warning", reason="", items=tuple(uris[n : n + 5])) for n in (0, 9)]
    (found,) = advised(uris, faults=chains)
    assert (found.kind, found.command) == ("near_duplicate", "inflame split 'my birds'")
    assert "10 items make 2 chains" in found.reason
    assert advised(uris, faults=chains[:1]) == []


# --- bursts -----------------------------------------------------------------------------------------------------


def test_bursts_go_by_camera_and_seconds() -> None:
    taken = ["2021-05-03T10:20:30.25", "2021-05-03T10:20:33", "2021-05-03T10:20:37", "2021-05-03T10:20:43"]
    scans = [Scan(f"{n}.jpg", taken=time, camera="one") for n, time in enumerate(taken)]
    scans += [Scan("4.jpg", taken=taken[1], camera="two"), Scan("5.jpg"), Scan("6.jpg", taken="2021-02-31T10:00:00")]
    first = "one 2021-05-03T10:20:30.25"
    assert grouping.bursts(scans) == [first, first, first, "", "", "", ""]
    assert grouping.bursts(scans[::-1]) == grouping.bursts(scans)[::-1]
    assert grouping.bursts([]) == []


def test_a_clock_that_was_never_set_makes_no_burst() -> None:
    assert set(grouping.bursts([Scan(f"{n}.jpg", taken="2000-01-01T00:00:00") for n in range(200)])) == {""}


def test_bursts_are_told() -> None:
    taken = [f"2021-05-03T10:{n // 4:02}:{n % 4:02}" for n in range(60)]
    (found,) = advised(named("{n}.jpg"), taken)
    assert (found.kind, found.command) == ("burst", "inflame split 'my birds' --by burst")
    assert "60 of 60 photos were taken in 15 bursts" in found.reason
    assert advised(named("{n}.jpg"), [f"2021-05-03T{n // 60:02}:{n % 60:02}:00" for n in range(60)]) == []


def test_bursts_as_groups() -> None:
    uris = named("{n}.jpg", 4)
    scans = [Scan(uri, taken=f"2021-05-03T10:00:{n:02}", camera="one") for n, uri in enumerate(uris)]
    items = dataset(uris, group=["mine", "", "", ""]).items
    groups = grouping.by_burst(items, scans)["group"].to_pylist()
    assert groups == ["mine", *["one 2021-05-03T10:00:00"] * 3]
    with pytest.raises(DataError, match="No photo says when"):
        grouping.by_burst(items, [Scan(uri) for uri in uris])
