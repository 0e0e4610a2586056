"""One threaded pass over the items of a data set: what each turned out to be, its checksum, its thumb.

Nothing here writes, and nothing a file holds can stop the pass: pipes and huge files are not read, huge pictures are
refused by their header, and memory is shared out between the threads.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inflame import host
from inflame.artifact import contents, exif, listing, pillow, preprocess, thumbs
from inflame.errors import DataError, NetworkError
from inflame.records import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inflame.artifact.preprocess import Pixels

_LOOK = Preprocess(size=64, resize=64)  # a complete decode that keeps as little as a thumb needs


@dataclass(frozen=True, slots=True)
class Scan:
    """What one item turned out to be. `kind` is "" for a good one, else "unreadable" or "junk", and `reason` says
    what is wrong and what to do.

    Width and height are those of the upright picture; `orientation` is EXIF's, 1 to 8; `mode` is Pillow's, with
    `+alpha` for a transparent palette or colour; `bytes` is the size of the file. `taken` is the time on the camera's
    clock (ISO, with fractions of a second where they are known), `camera` its name. Of a text, `width` is the number
    of characters, `height` of lines, `mode` the encoding, and `format` is "TEXT".
    """

    uri: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    orientation: int = 1
    bytes: int = 0
    kind: str = ""
    reason: str = ""
    taken: str = ""
    camera: str = ""


def scan(
    root: Path | str,
    uris: Sequence[str],
    *,
    kind: str = "image",
    canvas: Preprocess | None = None,
    sink: Callable[[int, Pixels], None] | None = None,
    small: Pixels | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scan]:
    """One `Scan` per uri, in order, from reading each item once: hash, header and a complete decode.

    With `canvas`, `sink(i, uint8 [resize, resize, channels])` is called for every good picture, from the worker
    threads and for different i at the same time. `small` (uint8 [N, thumbs.BYTES]) is filled with the thumbs of good
    pictures. `progress(done, all)` is called by one thread at a time. What they raise ends the pass; a bad file never
    does. Rows of packed arrays (`images.npy#12`) and of shards are scanned likewise.
    """
    found: list[Scan | None] = [None] * len(uris)
    look = _Look(root=root, plan=canvas or _LOOK, text=kind == "text", arrays=_arrays(root, uris))
    waiting = iter(range(len(uris)))
    lock, stop, done = threading.Lock(), threading.Event(), 0

    def at(index: int) -> None:
        nonlocal done
        seen = look.at(uris[index])
        found[index] = seen.scan
        if small is not None and seen.thumb is not None:
            small[index] = seen.thumb
        if canvas is not None and sink is not None and seen.square is not None:
            sink(index, seen.square)
        with lock:
            done += 1
            if progress is not None:
                progress(done, len(uris))

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    index = next(waiting, None)
                if index is None:
                    return
                at(index)
        except BaseException:
            stop.set()
            raise

    threads = max(1, min(workers or host.cores(), len(uris)))
    with pillow.quiet(), ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        try:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        finally:  # after an error or Ctrl-C the others stop when they are through with the file at hand
            stop.set()
    return [result for result in found if result is not None]


# --- one item -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    scan: Scan
    square: Pixels | None = None
    thumb: Pixels | None = None


@dataclass(slots=True, kw_only=True)
class _Look:
    """How items are looked at; `arrays` are the packed arrays that uris name rows of, mapped."""

    root: Path | str
    plan: Preprocess
    text: bool
    arrays: dict[str, Pixels]
    shards: contents.Contents = field(init=False)

    def __post_init__(self) -> None:
        self.shards = contents.Contents(self.root)

    def at(self, uri: str) -> _Seen:
        name, _, row = uri.rpartition("#")
        if name in self.arrays:
            return _row(uri, self.arrays[name][int(row)], self.plan)
        data = b""
        try:
            data, where = self._bytes(uri)
            return _text(uri, data) if self.text else _picture(uri, data, where, self.plan)
        except preprocess.PictureError as error:
            bad = "junk" if error.kind == "junk" else "unreadable"
            return _Seen(Scan(uri, _hash(data) if data else "", bytes=len(data), kind=bad, reason=error.reason))

    def _bytes(self, uri: str) -> tuple[bytes, str]:
        """The bytes of an item and where they are. Raises PictureError, and nothing else."""
        remote = "://" in str(self.root)
        path = listing.locate(self.root, uri)
        if not remote and (not contents.divided(uri)[0] or path.is_file()):
            return preprocess.read(path)
        try:
            return self.shards.read(uri), f"{self.root}/{uri}"
        except DataError as error:
            raise preprocess.PictureError(error.message.rstrip("."), kind="unreachable", remedy=error.remedy) from error
        except NetworkError:
            raise  # the place is at fault, not the item
        except Exception as error:  # readers of strangers' shards can raise nearly anything, like decoders
            what = f"its record can't be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            raise preprocess.PictureError(what, kind="unreachable", remedy="get the shard again") from error


def _picture(uri: str, data: bytes, where: str, plan: Preprocess) -> _Seen:
    """Header, thumb and square from one complete decode. Raises PictureError."""
    with preprocess._border(data, where):
        image = preprocess._opened(data, plan.max_pixels)
        if image.format == "PNG":  # asking for its EXIF decodes it, and swallows what that raises
            with pillow.room(image.width * image.height):
                image.load()
        head = preprocess._header(image)
        taken, camera = exif.shot(image)
        if image.format in {"JPEG", "MPO"}:  # only now: a draft changes the size that the header tells
            wanted = int(preprocess._DRAFT * plan.resize)
            image.draft(None, (wanted, wanted))
        upright = preprocess._finished(image, plan.max_pixels)
        square, thumb = preprocess._square(upright, plan), thumbs.make(upright)
    good = Scan(
        uri,
        _hash(data),
        head.width,
        head.height,
        head.mode,
        head.format,
        head.orientation,
        len(data),
        taken=taken,
        camera=camera,
    )
    return _Seen(good, square, thumb)


def _text(uri: str, data: bytes) -> _Seen:
    """A text by its encoding and length. Anything with bytes that no text has is unreadable."""
    from inflame.artifact import magic, texts

    if data and b"\0" in data[:4096] and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        found = magic.sniff(data)
        what = f"not a text but a {found.format} picture" if found.plugin else "not a text but binary data"
        reason = f"{what}: move it out of the data"
        return _Seen(Scan(uri, _hash(data), bytes=len(data), kind="unreadable", reason=reason))
    text, encoding = texts.decode(data)
    lines = len(text.splitlines())
    return _Seen(Scan(uri, _hash(data), len(text), lines, encoding, "TEXT", bytes=len(data)))


def _row(uri: str, row: Pixels, plan: Preprocess) -> _Seen:
    row = np.ascontiguousarray(row)
    sha256 = hashlib.sha256(row.tobytes()).hexdigest()
    try:
        square = preprocess.canvas(row, plan)
    except preprocess.PictureError as error:
        return _Seen(Scan(uri, sha256, bytes=row.nbytes, kind="unreadable", reason=error.reason))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[row.shape[2] if row.ndim == 3 else 1]
    seen = Scan(uri, sha256, row.shape[1], row.shape[0], mode, "NPY", bytes=row.nbytes)
    return _Seen(
        seen, square, thumbs.of_arrays(row[None] if row.ndim == 2 or row.shape[2] > 1 else row[None, ..., 0])[0]
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _arrays(root: Path | str, uris: Iterable[str]) -> dict[str, Pixels]:
    """The packed arrays that uris name rows of, mapped, not read."""
    arrays = {}
    for name in {uri.rpartition("#")[0] for uri in uris if ".npy#" in uri}:
        try:
            arrays[name] = np.load(Path(root) / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            message = f"{Path(root) / name} is no array that can be read: {error}"
            raise DataError(
                message, where=str(Path(root) / name), remedy="Delete its folder and get it again."
            ) from error
    return arrays
