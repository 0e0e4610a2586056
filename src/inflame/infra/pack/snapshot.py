"""The code as it is now, committed or not, as a git tree: its name is its content.

What git would take is taken: changed and new files are in, ignored and deleted ones out. Neither the repository nor its
index is touched: objects and a copy of the index are in the cache of inflame's home. A folder that is in no repository
is treated alike. A file `.inflameignore` in the top folder, in the words of `.gitignore`, leaves more out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from inflame import store
from inflame.errors import DataError, MissingExtra
from inflame.infra.pack import secrets
from inflame.infra.pack.entry import Entry

LIMIT = 10 * 2**20  # bytes of a file, and of all data together, beyond which they are no code
SHOWN = 10  # of the biggest files
LONGEST_DIFF = 200_000  # characters
IGNORE = ".inflameignore"
INSIDE = ".inflame"  # the folder of an archive that is ours; a folder of that name is left out

# What nobody means to send, where no .gitignore says so.
_LITTER = (
    *(".venv/", "venv/", "__pycache__/", "*.py[co]", ".ipynb_checkpoints/", ".mypy_cache/", ".ruff_cache/"),
    *(".pytest_cache/", "node_modules/", ".DS_Store", f"{INSIDE}/"),
)
_DATA = frozenset(
    "jpg jpeg png gif bmp tif tiff webp heic npy npz parquet arrow feather tfrecord tfrecords h5 hdf5 pt pth ckpt onnx "
    "safetensors keras csv tsv jsonl zip tar gz tgz bz2 xz zst 7z rar wav mp3 flac mp4 avi mov pkl pickle joblib db "
    "sqlite".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The code of the folder `root`; `model` is the model folder in it. `commit` (empty: none) and `diff` say how it
    differs from what is committed. `notes`: what was left out that somebody may miss."""

    root: Path
    model: str
    tree: str
    entries: tuple[Entry, ...] = field(repr=False)
    commit: str = ""
    branch: str = ""
    diff: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def biggest(self, count: int = SHOWN) -> list[Entry]:
        """The biggest files, the biggest first."""
        return sorted(self.entries, key=lambda entry: (-entry.size, entry.path))[:count]

    def contents(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """The bytes of files, as they were when the snapshot was taken."""
        return _blobs(_Git(self.root), list(entries))


def take(model: Path, *, limit: int = LIMIT) -> Snapshot:
    """The code around the model folder: the repository that it is in, or else the folder itself.

    Secrets, data and files above `limit` bytes: DataError that names them and says how to leave them out.
    """
    model = model.resolve()
    root = _top(model)
    git = _Git(root)
    with git.index():
        listed, notes = _listed(git)
        if root != model and f"{model.relative_to(root).as_posix()}/app.py" not in listed:
            return take_folder(model, limit=limit)  # git ignores it
        return _taken(git, model, listed, notes, limit)


def take_folder(folder: Path, *, limit: int = LIMIT) -> Snapshot:
    """The code of one folder, whatever repository it may be in."""
    git = _Git(folder, alone=True)
    with git.index():
        listed, notes = _listed(git)
        return _taken(git, folder, listed, notes, limit)


def _taken(git: _Git, model: Path, listed: dict[str, os.stat_result], notes: list[str], limit: int) -> Snapshot:
    _demand_small(listed, limit)
    secrets.demand_none_by_name(listed)
    tree = _write(git, listed)
    entries = _entries(git, tree, listed)
    secrets.demand_none_inside(entries, lambda wanted: _blobs(git, wanted))
    return Snapshot(
        root=git.root,
        model=model.relative_to(git.root).as_posix(),
        tree=tree,
        entries=tuple(entries),
        notes=tuple(notes),
        **_compared(git, tree),
    )


# --- git -----------------------------------------------------------------------------------------


class _Git:
    """git in the folder `root`, with an index and an object store of ours; what the repository has is read only.
    `alone`: the folder is a repository of its own, whatever it is in."""

    def __init__(self, root: Path, *, alone: bool = False) -> None:
        if shutil.which("git") is None:
            raise MissingExtra("Taking the code along needs git, which isn't installed.", remedy="apt-get install git")
        self.root = root
        cache = store.make_folder(store.home() / "cache" / "code")
        found = None if alone else _say(["git", "-C", str(root), "rev-parse", "--absolute-git-dir"])
        self.inside = found is not None
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        self.folder = Path(found.strip()) if found else cache / f"{name}.git"
        self.kept = cache / f"{name}.index"  # git knows by it which files have not changed
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
            "GIT_DIR": str(self.folder),
            "GIT_WORK_TREE": str(root),
            "GIT_OBJECT_DIRECTORY": str(store.make_folder(cache / "objects")),
            **({"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self._objects())} if self.inside else {}),
            "GIT_OPTIONAL_LOCKS": "0",
            "LC_ALL": "C",
        }
        if not self.inside and not (self.folder / "HEAD").is_file():
            self.run("init", "--quiet")

    @contextlib.contextmanager
    def index(self) -> Iterator[None]:
        """Inside, `run` works on an index of this process alone; afterwards it is kept for the next time."""
        with tempfile.TemporaryDirectory(dir=self.kept.parent, prefix=".tmp-index-") as folder:
            mine = Path(folder) / "index"
            for old in (self.kept, self.folder / "index") if self.inside else (self.kept,):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(old, mine)
                    break
            self.environment["GIT_INDEX_FILE"] = str(mine)
            yield
            with contextlib.suppress(FileNotFoundError):
                os.replace(mine, self.kept)
        del self.environment["GIT_INDEX_FILE"]

    def run(self, *words: str, given: bytes = b"") -> bytes:
        """What git prints."""
        how = ["git", "-c", "core.looseCompression=0", "-c", "core.autocrlf=false"]
        how += ["-c", "core.safecrlf=false", "-c", "filter.lfs.clean=cat", "-c", "filter.lfs.process="]
        done = subprocess.run(
            [*how, *words], cwd=self.root, env=self.environment, input=given, capture_output=True, check=False
        )
        if done.returncode:
            raise DataError(
                f"git {words[0]} failed: {done.stderr.decode(errors='replace').strip()}",
                where=str(self.root),
                remedy="Mend the repository (git status says more), or name a model folder outside it.",
            )
        return done.stdout

    def _objects(self) -> Path:
        """Where the repository has its objects; those of a work tree are in the main one."""
        common = self.folder / "commondir"
        home = (self.folder / common.read_text().strip()).resolve() if common.is_file() else self.folder
        return home / "objects"


def _say(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


def _top(model: Path) -> Path:
    """The top folder of the repository that the model is in; the model itself where there is none."""
    if shutil.which("git") is None:
        raise MissingExtra("Taking the code along needs git, which isn't installed.", remedy="apt-get install git")
    found = _say(["git", "-C", str(model), "rev-parse", "--show-toplevel"])
    return Path(found.rstrip("\n")).resolve() if found and found.strip() else model


def _listed(git: _Git) -> tuple[dict[str, os.stat_result], list[str]]:
    """The files that belong to the code, by their paths, in order, and notes about what doesn't."""
    more = ["--exclude-from", str(git.root / IGNORE)] if (git.root / IGNORE).is_file() else []
    litter = [] if git.inside else [f"--exclude={pattern}" for pattern in _LITTER]
    names = git.run("ls-files", "-z", "--cached", "--others", "--exclude-standard", *more, *litter).split(b"\0")
    out = set(git.run("ls-files", "-z", "--cached", "--ignored", *more).split(b"\0")) if more else set()
    found, notes = {}, []
    for name in sorted({name for name in names if name} - out):
        path = os.fsdecode(name)
        if path.startswith(f"{INSIDE}/"):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # deleted, and not yet told to git
            info = os.lstat(git.root / path)
            if stat.S_ISDIR(info.st_mode):
                notes.append(f"{path} is a repository of its own, and stays here")
            elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
                found[path] = info
    return found, notes


def _write(git: _Git, listed: dict[str, os.stat_result]) -> str:
    """The tree of exactly these files; those that have not changed since the last time aren't read."""
    kept = {os.fsdecode(name) for name in git.run("ls-files", "-z").split(b"\0") if name}
    gone = b"".join(os.fsencode(path) + b"\0" for path in sorted(kept - set(listed)))
    if gone:
        git.run("update-index", "-z", "--force-remove", "--stdin", given=gone)
    names = b"".join(os.fsencode(path) + b"\0" for path in listed)
    git.run("update-index", "-z", "--add", "--remove", "--stdin", given=names)
    return git.run("write-tree").decode().strip()


def _entries(git: _Git, tree: str, listed: dict[str, os.stat_result]) -> list[Entry]:
    found = []
    for line in git.run("ls-tree", "-r", "-z", tree).split(b"\0"):
        about, _, name = line.partition(b"\t")
        if about:
            mode, _, blob = about.decode().split()
            path = os.fsdecode(name)
            found.append(Entry(path=path, mode=mode, blob=blob, size=listed[path].st_size))
    return found


def _blobs(git: _Git, entries: list[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """The content of each, by one process of git's."""
    if not entries:
        return
    asked = "".join(f"{entry.blob}\n" for entry in entries).encode()
    with tempfile.TemporaryFile() as file:  # a pipe that nobody empties would stop at 64 KB
        file.write(asked)
        file.seek(0)
        command = ["git", "cat-file", "--batch", "--buffer"]
        with subprocess.Popen(
            command, cwd=git.root, env=git.environment, stdin=file, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for entry in entries:
                size = int(process.stdout.readline().split()[2])
                yield entry, process.stdout.read(size)
                process.stdout.read(1)


def _compared(git: _Git, tree: str) -> dict[str, str]:
    """The commit that the tree began from, its branch, and the difference."""
    if not git.inside:
        return {}
    head = _say(["git", "-C", str(git.root), "rev-parse", "--verify", "-q", "HEAD"])
    if head is None:
        return {}
    branch = _say(["git", "-C", str(git.root), "rev-parse", "--abbrev-ref", "HEAD"]) or ""
    diff = git.run("diff-tree", "-p", "--no-color", "--no-ext-diff", head.strip(), tree).decode(errors="replace")
    return {"commit": head.strip(), "branch": branch.strip(), "diff": diff[:LONGEST_DIFF]}


# --- what is no code -----------------------------------------------------------------------------


def _demand_small(listed: dict[str, os.stat_result], limit: int) -> None:
    large = sorted(((info.st_size, path) for path, info in listed.items() if info.st_size > limit), reverse=True)
    if large:
        raise DataError(
            f"{len(large)} files are larger than {_size(limit)}, and no code: "
            + ", ".join(f"{path} ({_size(size)})" for size, path in large[:SHOWN]),
            where=large[0][1],
            remedy=_leave_out(path for _, path in large),
        )
    data = {path: info.st_size for path, info in listed.items() if path.rpartition(".")[2].lower() in _DATA}
    if sum(data.values()) > limit:
        folders: dict[str, int] = {}
        for path, size in data.items():
            folders[os.path.dirname(path) or path] = folders.get(os.path.dirname(path) or path, 0) + size  # noqa: PTH120
        worst = sorted(folders, key=lambda name: -folders[name])[:SHOWN]
        raise DataError(
            f"{len(data)} files are data ({_size(sum(data.values()))} in all), and no code: "
            + ", ".join(f"{name} ({_size(folders[name])})" for name in worst),
            where=worst[0],
            remedy=_leave_out(worst) + " Data go to a bucket, and are named by io.training_input=s3://…",
        )


def _leave_out(names: Iterable[str]) -> str:
    shown = list(names)[:SHOWN]
    return f"Leave them out, a line each in .gitignore or, where git has them, in {IGNORE}: {', '.join(shown)}."


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.1f} KB"
