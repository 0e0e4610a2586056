"""The verbs about data: get, check, split. None of them writes into the user's data."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import plugins, store
from inflame.cli import places
from inflame.cli.show import as_json, table
from inflame.errors import SettingError, UserError
from inflame.records import SPLITS, Check, Dataset, Fault, dumps

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser

_FAULTS = 12  # so many are told; the page has all
_SKIP_BAD = "read the rest of a damaged shard, and say what is left out"
_SEVERAL = 2  # faults of one kind that are told one by one


# --- get -----------------------------------------------------------------------------------------


def get_words(parser: Parser) -> None:
    """The name of the set and where to put it."""
    parser.usage = "inflame get [NAME] [--to FOLDER]"
    parser.description = (
        "Fetch a named data set: from where it already is, from the folder INFLAME_MIRROR, or by the\n"
        "network. A broken download goes on with the same command; every file is checked by its hash.\n"
        "Without NAME: list the names."
    )
    parser.epilog = "examples:\n  inflame get\n  inflame get fashion-mnist"
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of the names that `inflame get` lists")
    parser.add_argument("--to", metavar="FOLDER", help="put it there (default: data/NAME in the home of inflame)")


def get(words: Namespace) -> int:
    """Fetches the set, and prints what it is, under which licence, where it lies and what to type next."""
    names = plugins.names("source")
    if words.name is None:
        print(as_json(names) if words.json else "\n".join(names))
        return 0
    plugins.load("source", words.name)  # a wrong name is told before anything heavy is loaded
    from inflame.artifact import getdata

    found = getdata(words.name, Path(words.to) if words.to else None)
    if words.json:
        print(as_json({**found.to_json(), "counts": _counts(found)}, indent=1))
        return 0
    _tell(found)
    print(f"\nnext   inflame train {words.name} --in 60s")
    return 0


def _tell(found: Dataset) -> None:
    """What a person wants to know of a data set before using it."""
    for name, value in (("licence", found.licence), ("source", found.source), ("folder", found.root)):
        if value:
            print(f"{name:<9}{value}")
    print(f"{'items':<9}{len(found):,} in {len(found.classes)} classes\n")
    counts = _counts(found)
    splits = _splits(counts)
    rows = [(label, *(counts[label].get(split, 0) for split in splits)) for label in found.classes]
    print(table(("class", *splits), rows))


def _counts(found: Dataset) -> dict[str, dict[str, int]]:
    """Items of each class in each split."""
    pairs = Counter(zip(found.items["label"].to_pylist(), found.items["split"].to_pylist(), strict=True))
    counts: dict[str, dict[str, int]] = {label: {} for label in found.classes}
    for (label, split), number in sorted(pairs.items()):
        counts.setdefault(label, {})[split] = number
    return counts


def _splits(counts: dict[str, dict[str, int]]) -> list[str]:
    """The splits in use: train, val and test first, others by name."""
    used = {split for row in counts.values() for split in row}
    return [*(split for split in SPLITS if split in used), *sorted(used - set(SPLITS))]


# --- check ---------------------------------------------------------------------------------------


def check_words(parser: Parser) -> None:
    """The data and where to put what was found."""
    parser.usage = "inflame check DATA [--out FOLDER] [--fix] [--weights FILE] [--skip-bad]"
    parser.description = (
        "Find the faults of a data set, one by one: unreadable files, junk, blank ones, copies and near\n"
        "copies (also across splits), the same under two labels, likely wrong labels, outliers, shortcuts\n"
        "that would let a model be right for the wrong reason, tiny and unequal classes, turned pictures,\n"
        "odd modes and sizes; of texts also header lines, encodings and other languages.\n"
        "Writes check.json and check.html. Nothing in DATA is ever changed: --fix writes a list of what\n"
        "to leave out from now on (copies but one, blank ones), kept in the home of inflame."
    )
    parser.epilog = (
        "examples:\n  inflame check photos/\n  inflame check photos.zip --out findings\n  inflame check letters/ --fix"
    )
    parser.add_argument("data", metavar="DATA", help="a folder of class folders, a zip, a CSV, or a name")
    parser.add_argument("--out", metavar="FOLDER", help="where the two files go (default: in the home of inflame)")
    parser.add_argument("--fix", action="store_true", help="leave out copies and blank items from now on")
    parser.add_argument("--weights", metavar="FILE", default="", help="judge labels by this pretrained network")
    parser.add_argument("--skip-bad", action="store_true", help=_SKIP_BAD)


def check(words: Namespace) -> int:
    """Prints the faults by kind, and where the page with all of them is."""
    data = places.data(words.data)
    folder = _out(words.out, data) if words.out else None
    from inflame.artifact import examining, sheet

    with progress("checking") as update:
        examined = examining.examine(data, progress=update, embed=embeds(words.weights), skip_bad=words.skip_bad)
    found = examined.check
    folder = folder or store.make_folder(store.home() / "checks" / found.dataset)
    store.write(folder / "check.json", dumps(found))
    store.write(folder / "check.html", sheet.sheet(found, _root(data)))
    fixed = _fix(examined.dataset, found) if words.fix else None
    if words.json:
        print(dumps(found), end="")
        return 0
    _summarise(found)
    if fixed is not None:
        print(f"\nfixed  {fixed[0]:,} items are left out from now on: {fixed[1]}; delete that file to undo")
    print(f"\nwrote  {folder / 'check.html'} and check.json; nothing in {words.data} was changed")
    if len(examined.dataset.split("train")):
        print(f"next   inflame train {shlex.quote(words.data)} --in 60s")
    else:
        out = shlex.quote(f"{examined.dataset.name}-split.csv")
        print(f"next   inflame split {shlex.quote(words.data)} --resplit --out {out}: nothing is there to train on")
    return 0


def embeds(weights: str) -> Any:
    """The pretrained networks at hand; none where training isn't installed: then simple features must do."""
    from inflame.model.engine import embedding

    return embedding.at_hand(str(places.file(weights)) if weights else "")


def _fix(dataset: Dataset, found: Check) -> tuple[int, Path]:
    """Notes which items to leave out: of copies all but the first, and blank ones. How many, and where."""
    from inflame.artifact import overlay

    out: dict[str, str] = {}
    for fault in found.faults:
        if fault.kind in ("duplicate", "near_duplicate"):
            out |= dict.fromkeys(fault.items[1:], f"{fault.kind} of {fault.items[0]}")
        elif fault.kind in ("blank", "unreadable"):
            out |= dict.fromkeys(fault.items, fault.kind)
    known = overlay.load(dataset.root)
    made = overlay.Overlay(excluded={**known.excluded, **out}, moved=known.moved)
    return len(out), overlay.save(dataset.root, made)


def _summarise(found: Check) -> None:
    print(f"{found.dataset}: {found.items:,} items in {found.classes} classes, {found.seconds:.1f} s")
    _tell_faults(found)
    for advice in found.advice:
        print("\n".join(_wrapped(f"{'advice':<8} {advice.kind:<14} {'':>6}  ", advice.reason)))
        print(f"{'':<33}{advice.command}")


def _tell_faults(found: Check) -> None:
    if not found.faults:
        print("no faults found")
        return
    order = {"error": 0, "warning": 1, "info": 2}
    faults = sorted(_gathered(found.faults), key=lambda fault: order.get(fault.severity, 3))
    print("\n".join(_said(fault) for fault in faults[:_FAULTS]))
    if len(faults) > _FAULTS:
        print(f"and {len(faults) - _FAULTS:,} more faults")


def _gathered(faults: Sequence[Fault]) -> list[Fault]:
    """Many faults of one kind as one, so that a summary stays short."""
    kinds: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        kinds.setdefault((fault.kind, fault.severity), []).append(fault)
    few = []
    for (kind, severity), same in kinds.items():
        if len(same) <= _SEVERAL:
            few += same
        else:
            items = tuple(item for fault in same for item in fault.items)
            reason = f"{len(same):,} times; the first: {same[0].reason}"
            few.append(Fault(kind=kind, severity=severity, reason=reason, items=items))
    return few


def _said(fault: Fault) -> str:
    """The fault in as many lines as the terminal needs: what, how many, why, and the first item."""
    head = f"{fault.severity:<8} {fault.kind:<14} {len(fault.items):>6,}  "
    more = f" and {len(fault.items) - 1:,} more" if len(fault.items) > 1 else ""
    items = [" " * len(head) + f"{fault.items[0]}{more}"] if fault.items else []
    return "\n".join([*_wrapped(head, fault.reason), *items])


def _wrapped(head: str, text: str) -> list[str]:
    """The text behind the head, in lines that fit the terminal."""
    width = min(110, shutil.get_terminal_size().columns) - 1
    lines = textwrap.wrap(text, max(30, width - len(head))) or [""]
    return [head + lines[0], *(" " * len(head) + line for line in lines[1:])]


def _out(name: str, data: Path | str) -> Path:
    folder = Path(name).expanduser().resolve()
    if isinstance(data, Path) and folder.is_relative_to(data):
        raise UserError(
            f"{folder} lies in the data, which is never written to.", where=str(folder), remedy="--out another_folder"
        )
    return store.make_folder(folder)


# --- split ---------------------------------------------------------------------------------------


def split_words(parser: Parser) -> None:
    """The data, the fractions, the seed, and the file to write."""
    parser.usage = "inflame split DATA [--splits NAME=FRACTION …] [--by WAY] [--folds K] [--out FILE]"
    parser.description = (
        "Say which split each item is in: a function of its content and the seed, so that growing the set\n"
        "moves nothing. Copies, near copies and groups (a column group) stay on one side, else a score is\n"
        "flattered. Nothing is copied or moved: the split is an index."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame split photos/\n"
        "  inflame split photos/ --splits train=0.8 val=0.2 --seed 1 --out index.csv\n"
        "  inflame split photos/ --by 'bird(\\d+)_'      pictures of one bird stay on one side\n"
        "  inflame split photos/ --by burst            photos taken within seconds stay on one side\n"
        "  inflame split letters.csv --by time         learn from the old, test on the new\n"
        "  inflame split photos/ --folds 5 --out folds.parquet"
    )
    parser.add_argument("data", nargs="?", metavar="DATA", help="a folder of class folders, a zip, a CSV, or a name")
    parser.add_argument("--splits", nargs="+", metavar="NAME=FRACTION", help="default: train=0.7 val=0.15 test=0.15")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)")
    parser.add_argument(
        "--by",
        default="content",
        metavar="WAY",
        help="content (default), time, burst (photos of one camera within seconds), random, or a regular expression",
    )
    parser.add_argument("--folds", type=int, metavar="K", help="number the items 0 … K-1 for cross-validation as well")
    parser.add_argument("--resplit", action="store_true", help="divide anew what brings its own splits")
    parser.add_argument("--skip-bad", action="store_true", help=_SKIP_BAD)
    parser.add_argument("--out", metavar="FILE", help="write path,label,split,sha256 as .csv or .parquet")


def split(words: Namespace) -> int:
    """Prints how many items of each class are in each split, or with --json the items themselves."""
    fractions, rest = _fractions(words.splits or [])
    names = [*([words.data] if words.data else []), *rest]
    if len(names) != 1:
        raise UserError(f"inflame split takes one data set, not {len(names)}.", remedy="inflame split photos/")
    data = places.data(names[0])
    _writable(words.out)
    from inflame.artifact import open as open_data

    with progress("reading") as update:
        found = open_data(
            data,
            seed=words.seed,
            splits=fractions,
            progress=update,
            skip_bad=words.skip_bad,
            by=words.by,
            anew=words.resplit,
        )
    folds = _folds(found, words.folds, words.seed) if words.folds else None
    if words.out:
        _write_index(Path(words.out), found, folds)
    if words.json:
        print(as_json(_members(found)))
        return 0
    _tell(found)
    bad = [fault for fault in found.faults if words.skip_bad and fault.kind == "unreadable"]
    print("".join(f"{_said(fault)}\n" for fault in _gathered(bad)), end="")
    for fault in found.faults:
        if fault.kind in ("split", "split_leak") and fault.severity != "error":
            print(f"{'note' if fault.severity == 'info' else 'warning'}   {fault.reason}")
    if folds is not None:
        print(f"folds  {', '.join(f'{folds.count(number):,}' for number in range(words.folds))} items")
    if words.out:
        print(f"\nwrote  {words.out}")
        print(f"next   inflame train {shlex.quote(words.out)} --in 60s")
    return 0


def _folds(found: Dataset, count: int, seed: int) -> list[int]:
    from inflame.artifact import split as dividing

    numbers: list[int] = dividing.folds(found.items, count, seed).tolist()
    return numbers


def _fractions(pairs: Sequence[str]) -> tuple[dict[str, float] | None, list[str]]:
    """`train=0.8 val=0.2` as numbers, and the words that are no such pair (the data, given last)."""
    found: dict[str, float] = {}
    rest = [pair for pair in pairs if "=" not in pair]
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            continue
        try:
            found[name] = float(text)
        except ValueError:
            raise SettingError(
                f'The fraction of {name} is not a number: "{text}".', where=pair, remedy="--splits train=0.8 val=0.2"
            ) from None
    return found or None, rest


def _members(found: Dataset) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {split: [] for split in _splits(_counts(found))}
    for uri, split in zip(found.items["uri"].to_pylist(), found.items["split"].to_pylist(), strict=True):
        members[split].append(uri)
    return members


def _writable(name: str | None) -> None:
    if name and Path(name).suffix not in (".csv", ".parquet"):
        raise UserError(f"An index is a .csv or a .parquet file, not {name}.", remedy="--out index.csv")


def _write_index(path: Path, found: Dataset, folds: list[int] | None) -> None:
    """A table that is a data set itself: `inflame train index.csv` finds the files beside it."""
    import pyarrow as pa

    here = os.path.relpath(found.root, path.expanduser().absolute().parent)
    paths = [os.path.normpath(f"{here}/{uri}") for uri in found.items["uri"].to_pylist()]
    index = pa.table({"path": paths, **{name: found.items[name] for name in ("label", "split", "sha256")}})
    if folds is not None:
        index = index.append_column("fold", pa.array(folds))
    with store.atomic(path) as temporary:
        if path.suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(index, temporary)
        else:
            from pyarrow import parquet

            parquet.write_table(index, temporary)


# --- common --------------------------------------------------------------------------------------


def _root(data: Path | str) -> Path:
    return data if isinstance(data, Path) else store.home() / "data" / data


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], Any] | None]:
    """A bar on stderr where somebody sees it: a function of items done and items in all."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit="", leave=False, dynamic_ncols=True) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
