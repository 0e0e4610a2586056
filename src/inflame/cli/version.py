"""The verb version: that of inflame, and those of your data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import __version__
from inflame.cli.show import as_json, table
from inflame.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.artifact.changes import Difference
    from inflame.artifact.version import Snapshot
    from inflame.cli.words import Parser
    from inflame.records import Dataset
    from inflame.runs import Run

_SHOWN = 3  # items told of each kind of difference
_DIGITS = 12


def version_words(parser: Parser) -> None:
    """What to do, with what, and where versions are kept."""
    parser.usage = "inflame version [DATA | list | diff | restore | verify | push | pull] [--note TEXT]"
    parser.description = (
        "Keep what a data set is now: each content once, in few large files, and a list of its items with\n"
        "labels and splits. A version is named by the hash that every run notes; a later version adds only\n"
        "what is new. Versions lie in the home of inflame, or with --to in a folder of yours: the .dvc file\n"
        "beside it belongs into your git. push and pull go through DVC. Your files are only read.\n"
        "Without a word: print the version of inflame."
    )
    parser.epilog = (
        "examples:\n"
        '  inflame version photos/ --note "as they came"\n'
        "  inflame version list                       all versions, and the runs that saw them\n"
        "  inflame version diff photos/               what has changed since the last version\n"
        "  inflame version diff 3f2a91 8c04d7         two versions, runs or data sets\n"
        "  inflame version restore 3f2a91 photos-then\n"
        "  inflame version push photos --remote s3://bucket/versions\n"
        "  inflame version pull photos --remote s3://bucket/versions\n"
        "  inflame version photos/ --to versions/photos && git add versions/photos.dvc"
    )
    parser.add_argument("what", nargs="*", metavar="WORD", help="DATA, or one of the verbs above and its words")
    parser.add_argument("--note", metavar="TEXT", default="", help="a line about this version")
    parser.add_argument("--to", metavar="FOLDER", default="", help="the folder of versions (default: in the home)")
    parser.add_argument("--remote", metavar="PLACE", default="", help="s3://…, gs://…, a folder, or a remote of DVC's")
    parser.add_argument("--skip-bad", action="store_true", help="leave out damaged parts of shards, and say so")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the splits, as in train (default: 0)")


def version(words: Namespace) -> int:
    """Prints the version of inflame, or does what is asked with those of data."""
    if not words.what:
        print(as_json({"version": __version__}) if words.json else f"inflame {__version__}")
        return 0
    act, rest = _ACTS.get(words.what[0]), words.what[1:]
    if act is None:
        return _take(words, words.what)
    few, many, usage = _TAKES[words.what[0]]
    if not few <= len(rest) <= many:
        raise UserError(
            f"inflame version {words.what[0]} takes {usage or 'no word'}.",
            remedy=f"inflame version {words.what[0]} {usage}".rstrip(),
        )
    return act(words, rest)


# --- the acts ----------------------------------------------------------------------------------------------------


def _take(words: Namespace, rest: Sequence[str]) -> int:
    if len(rest) > 1:
        guess = did_you_mean(rest[0], _ACTS)
        raise UserError(
            f"inflame version takes one data set, not {len(rest)} words.{guess}", remedy="inflame version --help"
        )
    from inflame.artifact import dvc_remote
    from inflame.artifact import version as versions
    from inflame.cli.data import progress

    dataset = _state(rest[0], words)[1]
    folder = _folder(words, dataset.name)
    with progress("packing") as update:
        made, new = versions.take(dataset, folder, note=words.note, progress=update)
    file = dvc_remote.track(folder)
    if words.json:
        print(as_json({**made.to_json(), "new": new, "folder": str(folder), "dvc": str(file)}, indent=1))
        return 0
    print(f"{'version' if new else 'already'}  {_title(made)}: {made.items:,} items in {made.classes} classes")
    if new:
        print(f"kept     {made.new_items:,} new contents, {made.new_bytes / 1e6:,.1f} MB, in {folder}")
    print(f"dvc      {file}")
    print(f"next     inflame version diff {shlex.quote(rest[0])}   (after a change: what it was)")
    return 0


def _list(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import version as versions

    folders = _folders(words)
    if rest:
        folders = [_known(words, rest[0])]
    found = [(folder, one) for folder in folders for one in versions.snapshots(folder)]
    saw = _runs_by_version()
    if words.json:
        rows = [{**one.to_json(), "folder": str(at), "runs": saw.get(one.version, [])} for at, one in found]
        print(as_json(rows, indent=1))
        return 0
    if not found:
        print("no versions yet\nnext   inflame version DATA")
        return 0
    print(
        table(
            ("version", "data", "items", "classes", "new MB", "when", "runs", "note"),
            [
                (
                    one.version[:_DIGITS],
                    one.name,
                    one.items,
                    one.classes,
                    round(one.new_bytes / 1e6, 1),
                    one.time[:16].replace("T", " "),
                    _few(saw.get(one.version, [])),
                    one.note,
                )
                for _, one in found
            ],
        )
    )
    print(f"\nnext   inflame version restore {found[0][1].version[:_DIGITS]} FOLDER")
    return 0


def _diff(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import changes
    from inflame.artifact import version as versions

    name, new = _state(rest[-1], words)
    if len(rest) > 1:
        before, old = _state(rest[0], words)
    else:
        folder, snapshot = versions.find(new.name, _folders(words))
        before, old = _title(snapshot), versions.load(folder, snapshot)
    found = changes.between(old.items, new.items, (before, name))
    if words.json:
        print(as_json({**found.to_json(), "versions": [old.version, new.version]}, indent=1))
        return 0
    print(f"{found.old} → {found.new}")
    _tell(found)
    wanted = (
        "" if old.version == new.version else f"\nnext   inflame version {shlex.quote(rest[-1])}   (keeps this state)"
    )
    print(f"same        {found.same:>7,}{wanted}")
    return 0


def _restore(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import version as versions
    from inflame.cli.data import progress

    folder, snapshot = versions.find(rest[0], _folders(words))
    with progress("restoring") as update:
        made = versions.restore(folder, snapshot, Path(rest[1]), progress=update)
    if words.json:
        print(as_json({**snapshot.to_json(), "data": str(made)}, indent=1))
        return 0
    print(f"restored {snapshot.items:,} items of {_title(snapshot)} to {rest[1]}")
    print(f"next     inflame train {shlex.quote(str(made))} --in 60s")
    return 0


def _verify(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import version as versions
    from inflame.cli.data import progress

    folder, snapshot = versions.find(rest[0], _folders(words))
    with progress("verifying") as update:
        versions.verify(folder, snapshot, progress=update)
    said = f"{_title(snapshot)}: every content of its {snapshot.items:,} items is there and has its hash"
    print(as_json({**snapshot.to_json(), "ok": True}, indent=1) if words.json else said)
    return 0


def _push(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import dvc_remote

    folder = _known(words, rest[0] if rest else "")
    return _sent(words, folder, "pushed", dvc_remote.push(folder, words.remote, shown=sys.stderr.isatty()))


def _pull(words: Namespace, rest: Sequence[str]) -> int:
    from inflame.artifact import dvc_remote

    folder = _known(words, rest[0] if rest else "", there=False)
    return _sent(words, folder, "pulled", dvc_remote.pull(folder, words.remote, shown=sys.stderr.isatty()))


def _sent(words: Namespace, folder: Path, done: str, place: str) -> int:
    from inflame import store
    from inflame.artifact import version as versions

    found = versions.snapshots(folder)
    if words.json:
        names = [one.version for one in found]
        print(as_json({done: names, "remote": store.shown(place), "folder": str(folder)}, indent=1))
        return 0
    print(f"{done}   {len(found)} versions of {folder.name}: {store.shown(place)}")
    again = f"inflame version pull {folder.name} --remote {store.shown(place)}   (on another machine)"
    bring = f"inflame version restore {found[0].version[:_DIGITS]} FOLDER" if found else "inflame version DATA"
    print(f"next     {again if done == 'pushed' else bring}")
    return 0


_ACTS: dict[str, Callable[[Namespace, Sequence[str]], int]] = {
    "list": _list,
    "diff": _diff,
    "restore": _restore,
    "verify": _verify,
    "push": _push,
    "pull": _pull,
}
_TAKES = {  # fewest and most words, and what they are
    "list": (0, 1, "[NAME]"),
    "diff": (1, 2, "A [B]"),
    "restore": (2, 2, "VERSION FOLDER"),
    "verify": (1, 1, "VERSION"),
    "push": (0, 1, "[NAME]"),
    "pull": (0, 1, "[NAME]"),
}


# --- what words mean ---------------------------------------------------------------------------------------------


def _state(word: str, words: Namespace) -> tuple[str, Dataset]:
    """A title and the data set of a word: a run (what it saw), data as it is now, or a version that is kept."""
    from inflame import plugins
    from inflame.artifact import manifest, opening
    from inflame.artifact import version as versions
    from inflame.cli import places
    from inflame.cli.data import progress

    run = _run(word)
    if run is not None:
        seen = manifest.load(run.path)
        return f"run {run.name} ({seen.version[:_DIGITS]})", seen
    here = Path(word).expanduser().exists() and not _is_versions(Path(word))
    if here or "://" in word or word in plugins.names("source"):
        with progress("reading") as update:
            found = opening.open(places.data(word), seed=words.seed, skip_bad=words.skip_bad, progress=update)
        return f"{word} now ({found.version[:_DIGITS]})", found
    folder, snapshot = versions.find(word, _folders(words))
    return _title(snapshot), versions.load(folder, snapshot)


def _run(word: str) -> Run | None:
    """The run of that name, or in that folder."""
    from inflame import runs
    from inflame.runs.index import folder_of_runs
    from inflame.runs.run import STATUS

    places = (Path(word).expanduser(), folder_of_runs() / word)
    return next((runs.find(place) for place in places if (place / STATUS).is_file()), None)


def _is_versions(path: Path) -> bool:
    return (path.expanduser() / "versions").is_dir() and (path.expanduser() / "packs").is_dir()


def _folder(words: Namespace, name: str) -> Path:
    """The folder of versions for a data set: as told, else in the home of inflame."""
    from inflame.artifact import version as versions

    return Path(words.to).expanduser().absolute() if words.to else versions.home_of(name)


def _folders(words: Namespace) -> list[Path]:
    from inflame.artifact import version as versions

    return [_folder(words, "")] if words.to else versions.folders()


def _known(words: Namespace, word: str, *, there: bool = True) -> Path:
    """The folder of versions that a word means: a path, a .dvc file, the name of a data set; "" the only one."""
    from inflame.artifact import version as versions

    path = Path(word.removesuffix(".dvc")).expanduser() if word else None
    found = _folders(words)
    if path is not None and not words.to:
        beside = path.with_name(f"{path.name}.dvc").is_file()
        found = [path.absolute() if beside or _is_versions(path) else versions.home_of(path.name)]
    names = [folder.name for folder in versions.folders()]
    if len(found) != 1:
        raise UserError(
            f"Which of {', '.join(names)}?" if names else "There are no versions yet.",
            remedy=f"inflame version {words.what[0]} {names[0]}" if names else "inflame version DATA",
        )
    if there and not _is_versions(found[0]):
        raise UserError(
            f'There are no versions of "{word or found[0]}".{did_you_mean(word, names)}',
            where=str(found[0]),
            remedy="See those there are: inflame version list" if names else "Make one first: inflame version DATA",
        )
    return found[0]


def _runs_by_version() -> dict[str, list[str]]:
    """The names of the runs that saw each version."""
    import json
    from contextlib import suppress

    from inflame import runs

    found: dict[str, list[str]] = {}
    for run in runs.list_runs():
        with suppress(OSError, ValueError, AttributeError):
            seen = json.loads((run.path / "dataset.json").read_text(encoding="utf-8")).get("version", "")
            found.setdefault(seen, []).append(run.name)
    return found


# --- telling -----------------------------------------------------------------------------------------------------


def _title(snapshot: Snapshot) -> str:
    return f"{snapshot.name} {snapshot.version[:_DIGITS]}"


def _tell(found: Difference) -> None:
    """Each kind of difference: how many, and the first of them."""
    arrow = "{} → {}".format
    kinds = {
        "added": found.added,
        "removed": found.removed,
        "changed": found.changed,
        "renamed": [arrow(*pair) for pair in found.renamed],
        "relabelled": [f"{uri}: {arrow(was or '(none)', now or '(none)')}" for uri, was, now in found.relabelled],
        "resplit": [f"{uri}: {arrow(was or '(none)', now or '(none)')}" for uri, was, now in found.resplit],
    }
    for kind, items in kinds.items():
        if items:
            more = f" and {len(items) - _SHOWN:,} more" if len(items) > _SHOWN else ""
            lines = [*items[: _SHOWN - 1], f"{items[_SHOWN - 1]}{more}"] if len(items) >= _SHOWN else items
            print(f"{kind:<12}{len(items):>7,}   " + ("\n" + " " * 22).join(lines))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
