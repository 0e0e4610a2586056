"""Structure that a random split would tear apart: bursts of photos, series in file names, folders, times, near copies.

What belongs together and is torn apart flatters a score: the model has seen the other half. `advise` says what there
is, with the command that keeps it together. It is careful rather than complete: numbered files are no structure.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import pyarrow as pa

from inflame.artifact.scanning import Scan
from inflame.errors import DataError
from inflame.records import Advice, Dataset, Fault

GAP = 5.0  # seconds between two photos of a camera that belong to one burst

_STUCK = 100  # photos of one camera with the very same time: its clock was never set
_FEWEST = 6  # items in groups, below which nothing is said
_BURST, _SERIES, _CHAINED = 0.05, 0.2, 0.05  # share of the items in groups from which it is said
_UNITS = 3  # groups of a class on average: fewer are kinds of things, not series of one
_CHAIN = 3  # near copies that make a chain
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[\W_]+")
_PARCELS = frozenset("batch part chunk shard fold split set train test val class label v ver version".split())


def advise(dataset: Dataset, data: str, scans: Sequence[Scan], faults: Sequence[Fault]) -> Iterator[Advice]:
    """What to know before dividing the items. dataset: the listed one, `scans` of its items, in order; data: what the
    user calls it; faults: those of its check (near copies are taken from them)."""
    items = _Items(
        uris=dataset.items["uri"].to_pylist(),
        labels=dataset.items["label"].to_pylist(),
        splits=dataset.items["split"].to_pylist(),
    )
    grouped = [name for name in dataset.items["group"].to_pylist() if name]
    times = [time for time in dataset.items["time"].to_pylist() if time]
    found = [_of_times(items, times), _of_copies(items, faults)]
    if len(grouped) <= len(items.uris) / 2 and not any("#" in uri for uri in items.uris):  # "#": not a file's own name
        found = [_of_bursts(items, bursts(scans)), _of_names(items) or _of_folders(items), *found]
    for one in filter(None, found):
        words = ["inflame", "split", data, *one.words, *(["--resplit"] if items.torn(one.names) else [])]
        yield Advice(kind=one.kind, reason=one.reason, command=shlex.join(words))


def bursts(scans: Sequence[Scan]) -> list[str]:
    """The burst of each photo, by its camera and the time of its first photo: photos of one camera with no more than
    `GAP` seconds from one to the next. "" for a photo that is alone or doesn't say when it was taken."""
    names = [""] * len(scans)
    shots: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for row, scan in enumerate(scans):
        moment = None if scan.kind else _moment(scan.taken)
        if moment is not None:
            shots[scan.camera].append((moment, scan.taken, row))
    for camera, taken in shots.items():
        stuck = {time for time, count in Counter(time for _, time, _ in taken).items() if count > _STUCK}
        series: list[tuple[float, str, int]] = []
        for shot in [*sorted(shot for shot in taken if shot[1] not in stuck), (float("inf"), "", -1)]:
            if series and shot[0] - series[-1][0] > GAP:
                for _, _, row in series if len(series) > 1 else ():
                    names[row] = f"{camera} {series[0][1]}".strip()
                series = []
            series.append(shot)
    return names


def by_burst(items: pa.Table, scans: Sequence[Scan]) -> pa.Table:
    """The items with their `group` column filled by bursts, where the data doesn't name a group itself; scans are of
    these items or more. Raises DataError when no photo says when it was taken."""
    names = dict(zip((scan.uri for scan in scans), bursts(scans), strict=True))
    if not any(_moment(scan.taken) is not None for scan in scans):
        raise DataError(
            "No photo says when it was taken (EXIF), so there are no bursts.",
            where="by",
            remedy="Leave out --by burst, or give a column group, a column time, or a pattern of file names.",
        )
    pairs = zip(items["group"].to_pylist(), items["uri"].to_pylist(), strict=True)
    groups = pa.array([group or names.get(uri, "") for group, uri in pairs], pa.string())
    return items.set_column(items.schema.get_field_index("group"), "group", groups)


# --- each kind of structure ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items:
    """What is known of the items by listing them."""

    uris: list[str]
    labels: list[str]
    splits: list[str]

    def torn(self, names: Sequence[str]) -> bool:
        """Whether the splits that the data brings tear a group apart."""
        sides: dict[str, set[str]] = defaultdict(set)
        for name, split in zip(names, self.splits, strict=True):
            if name and split:
                sides[name].add(split)
        return any(len(found) > 1 for found in sides.values())

    def matters(self, names: Sequence[str]) -> bool:
        """Whether these groups would be, or are, torn apart: the data brings no splits, or such that do."""
        return not any(self.splits) or self.torn(names)


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    reason: str
    words: tuple[str, ...]  # of the command, beside the data
    names: Sequence[str]  # the group of each item


def _of_bursts(items: _Items, names: list[str]) -> _Found | None:
    sizes = Counter(filter(None, names))
    inside = sum(sizes.values())
    if inside < max(_FEWEST, _BURST * len(names)) or len(sizes) < 2 or not items.matters(names):
        return None
    reason = (
        f"{inside:,} of {len(names):,} photos were taken in {len(sizes):,} bursts, at most {GAP:.0f} s apart: nearly "
        "the same photo would be on both sides of a random split"
    )
    return _Found("burst", reason, ("--by", "burst"), names)


def _of_names(items: _Items) -> _Found | None:
    """A number in the names that several files share, with something behind it that tells them apart."""
    stems = [PurePosixPath(uri).stem for uri in items.uris]
    tokens = [_TOKEN.findall(stem) for stem in stems]
    heads: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)  # shape → (row, tokens of the head)
    for row, words in enumerate(tokens):
        for place, word in enumerate(words):
            if word.isdigit():
                heads[_shape(words[: place + 1])].append((row, place + 1))
    for shape in sorted(heads, key=len):  # the coarsest first: it leaks least
        members = heads[shape]
        if len(members) < max(_FEWEST, _SERIES * len(stems)) or not _divides(tokens, members):
            continue
        names = [""] * len(stems)
        for row, length in members:
            names[row] = "".join(tokens[row][:length])
        pattern = _pattern([tokens[row][:length] for row, length in members], items.uris, names)
        if pattern and _is_series(items, names) and items.matters(names):
            groups = len(set(names) - {""})
            example = next(row for row, length in members if len(tokens[row]) > length)
            reason = (
                f"file names such as {PurePosixPath(items.uris[example]).name} name {groups:,} series of "
                f"{len(members):,} items: files of one series would be on both sides of a random split"
            )
            return _Found("name", reason, ("--by", pattern), names)
    return None


def _of_folders(items: _Items) -> _Found | None:
    """Folders inside the class folders. Where the data brings splits, folders are these."""
    names = [uri.rpartition("/")[0] for uri in items.uris]
    if any(items.splits) or not _is_series(items, names):
        return None
    if any(_TOKEN.findall(PurePosixPath(name).name.casefold() or "-")[0] in _PARCELS for name in names):
        return None
    reason = (
        f"the items lie in {len(set(names)):,} folders inside the classes, such as {names[0]}: what lies in one folder "
        "often belongs together, and would be on both sides of a random split"
    )
    return _Found("folder", reason, ("--by", "(.+)/"), names)


def _of_times(items: _Items, times: list[str]) -> _Found | None:
    if len(times) < len(items.uris) or len(set(times)) < _UNITS or any(items.splits):
        return None
    reason = (
        f"every item has a time, from {min(times)} to {max(times)}: a model that is to judge what comes later is "
        "flattered by a random split; test it on the latest"
    )
    return _Found("time", reason, ("--by", "time"), [""] * len(items.uris))


def _of_copies(items: _Items, faults: Sequence[Fault]) -> _Found | None:
    """Chains of near copies. What divides by content keeps them together already."""
    chains = [fault.items for fault in faults if fault.kind == "near_duplicate" and len(fault.items) >= _CHAIN]
    inside = sum(len(chain) for chain in chains)
    if inside < max(_FEWEST, _CHAINED * len(items.uris)):
        return None
    chain = {uri: str(number) for number, uris in enumerate(chains) for uri in uris}
    names = [chain.get(uri, "") for uri in items.uris]
    if not items.matters(names):
        return None
    reason = (
        f"{inside:,} items make {len(chains):,} chains of near copies, as pictures of a film do: each chain is kept on "
        "one side by dividing by content (the default), not by a random split; where names tell the films apart, give "
        "--by a pattern of them"
    )
    return _Found("near_duplicate", reason, (), names)


# --- names ------------------------------------------------------------------------------------------------------


def _shape(words: Sequence[str]) -> tuple[str, ...]:
    return tuple("9" if word.isdigit() else "a" if word[0].isalpha() else word for word in words)


def _divides(tokens: Sequence[Sequence[str]], members: Sequence[tuple[int, int]]) -> bool:
    """Whether what follows the heads is something else: a separator, or one word for all. Digits and letters that take
    turns are a checksum. The number must not say which parcel of a download the file came in."""
    behind = {tokens[row][length] for row, length in members if len(tokens[row]) > length}
    words = {word for word in behind if word[0].isalpha()}
    before = {tokens[row][place].casefold() for row, length in members for place in range(length - 1)}
    letters = {word for word in before if word[0].isalpha()}
    return bool(behind) and len(words) <= 1 and not letters & _PARCELS


def _is_series(items: _Items, names: Sequence[str]) -> bool:
    """Whether a good part of the items share their group with others of their class, and classes have several."""
    sizes = Counter((label, name) for label, name in zip(items.labels, names, strict=True) if name)
    inside = sum(count for count in sizes.values() if count > 1)
    return inside >= max(_FEWEST, _SERIES * len(names)) and len(sizes) >= _UNITS * len(set(items.labels))


def _pattern(heads: Sequence[Sequence[str]], uris: Sequence[str], names: Sequence[str]) -> str:
    """The regular expression that finds each head in its uri, as plain as it can be; "" where none does."""
    parts = []
    for column in zip(*heads, strict=True):
        same = len(set(column)) == 1 and not column[0].isdigit()
        parts.append(re.escape(column[0]) if same else r"\d+" if column[0].isdigit() else r"[^\W\d_]+")
    head = "".join(parts)
    for pattern in (f"({head})", f"(?:^|/)({head})"):
        compiled = re.compile(pattern)
        found = [compiled.search(uri) for uri in uris]
        if all(not name or (match is not None and match[1] == name) for match, name in zip(found, names, strict=True)):
            return pattern
    return ""


def _moment(taken: str) -> float | None:
    """Seconds on the camera's clock; None for a time that can't be."""
    try:
        return (datetime.fromisoformat(taken) - datetime(1970, 1, 1)).total_seconds()
    except (ValueError, TypeError):
        return None
