"""Files from elsewhere: several places tried in order, continued where a cut left them, checked before they count.

A download is written to `NAME.part` and renamed when its checksum is right; killed at any moment, the same call
goes on. Places are http(s) addresses (standard library), local paths, or anything that `store` reads.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from inflame import __version__, store
from inflame.artifact import network
from inflame.errors import InflameError, NetworkError, StorageError

_BLOCK = 1 << 18
_LONG = 2.0  # seconds after which a person wants to know
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file that can be had elsewhere: the places that have it, best first, and how to know it is the right one.

    Without a checksum any answer of the announced length is taken.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to bear with a server; all in seconds but `tries`, which counts attempts that brought nothing new."""

    connect: float = 6.0  # until a server must have answered the knock
    silence: float = 20.0  # without a byte, before the connection is given up
    tries: int = 4
    pause: float = 0.5  # before the second attempt; doubles each time


PATIENT = Patience()


class _Refused(Exception):
    """This place can't give the file; the next one may."""


class _Missed(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    remote: Remote,
    target: Path,
    *,
    patience: Patience = PATIENT,
    bulk: bool = False,
    tried: Sequence[str] = (),
) -> Path:
    """The path of the file, fetched if it isn't there already in the right version.

    Progress goes to stderr when it takes longer than 2 s (a bar on a terminal, else one line at the end). A file in
    `bulk`, one of very many, shows none and isn't forced to the disk on its own. No place has it: NetworkError that
    names each place and its answer, after those in `tried`.
    """
    if target.is_file() and not _mismatch(target, remote):
        return target
    store.make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    troubles = list(tried)
    silent = {} if bulk else network.silent_hosts(remote.urls, patience.connect)
    for url in remote.urls:
        try:
            if urlsplit(url).netloc in silent:
                raise _Refused(silent[urlsplit(url).netloc])
            _take(url, part, remote, patience, bulk)
        except _Refused as refusal:
            troubles.append(f"{store.shown(url)}: {refusal}")
            continue
        _settle(part, target, durable=not bulk)
        return target
    raise unreachable(remote.name, troubles)


def unreachable(name: str, troubles: Sequence[str]) -> NetworkError:
    """The error for a data set or file that none of the places gave; `troubles` are lines `place: why`."""
    asked = "\n".join(troubles) if troubles else "no place is known for it"
    return NetworkError(
        f"{name} could not be fetched.",
        where=asked,
        remedy="Check the network (a proxy is taken from HTTPS_PROXY) and give the same command again: it goes on "
        "where it stopped. Without a network, set INFLAME_MIRROR to a folder or address that holds the data sets.",
    )


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The checksum of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def digest_text(text: str) -> str:
    """The SHA-256 of a text: a file name for what an address or a path stands for."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside the same block for `folder`. The kernel releases it at death."""
    place = store.make_folder(store.home() / "cache" / "locks") / digest_text(os.path.realpath(folder))[:32]
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two downloads at once would each do the work
        yield
        return
    with store.guard(place), place.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- one place -----------------------------------------------------------------------------------


def _take(url: str, part: Path, remote: Remote, patience: Patience, bulk: bool) -> None:
    """Fills `part` from one place, trying again while attempts bring something new, and checks it."""
    fruitless, most = 0, _size(part)
    if most and (remote.sha256 or remote.md5) and not _mismatch(part, remote):
        return  # it was killed between the last byte and the renaming
    while True:
        resumed = _size(part) > 0
        try:
            if network.is_web(url):
                _stream(url, part, remote, patience, bulk)
            else:
                _copy(url, part)
            wrong = _mismatch(part, remote)
            if not wrong:
                return
            _forget(part)
            if not resumed:
                raise _Refused(wrong)
            most = 0  # the beginning may have come from elsewhere: once more from zero
        except _Missed as miss:
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless >= patience.tries:
                raise _Refused(f"{miss} (tried {fruitless} times)") from miss
            time.sleep(max(patience.pause * 2**fruitless, miss.wait))


def _copy(url: str, part: Path) -> None:
    """The whole file from a path, or from what `store` reads."""
    try:
        with store.open_uri(url) as source, store.guard(part), part.open("wb") as file:
            for block in iter(lambda: source.read(_BLOCK), b""):
                file.write(block)
    except InflameError as error:
        if isinstance(error, StorageError) and error.where == os.fspath(part):
            raise  # the disk here is full, not the place there
        raise _Refused(error.message) from error
    except OSError as error:
        raise _Refused(network.plain(error)) from error


def _stream(url: str, part: Path, remote: Remote, patience: Patience, bulk: bool) -> None:
    """One attempt over http(s): continues `part` when the server agrees, else starts over."""
    request, offset = _request(url, part, checked=bool(remote.sha256 or remote.md5))
    with _opened(request, part, patience.silence) as response:
        start, total = _place(response, offset)
        _remember(part, url, response)
        with store.guard(part), part.open("r+b" if start else "wb") as file, _meter(remote, url, total, bulk) as tell:
            if start:
                file.seek(start)
                file.truncate()
                tell(start)
            for block in _blocks(response):
                file.write(block)
                tell(len(block))
    if total is not None and _size(part) != total:
        if _size(part) > total:
            _forget(part)
        raise _Missed(f"the connection was cut at {_size(part):,} of {total:,} bytes")


def _request(url: str, part: Path, *, checked: bool) -> tuple[urllib.request.Request, int]:
    """The request, and the offset it asks to continue from: only when we can know that it is the same file."""
    headers = {"User-Agent": f"inflame/{__version__}", "Accept-Encoding": "identity"}
    offset, memory = _size(part), _memory(part)
    if offset:
        validator = memory.get("validator", "") if memory.get("url") == url else ""
        if validator or checked:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        else:
            offset = 0
    return urllib.request.Request(url, headers=headers), offset


@contextmanager
def _opened(request: urllib.request.Request, part: Path, timeout: float) -> Iterator[http.client.HTTPResponse]:
    """The server's answer; every way a network can fail becomes _Missed (try again) or _Refused (go elsewhere)."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(part)
            raise _Missed("the server has a shorter file than was begun") from error
        if error.code in _TEMPORARY:
            raise _Missed(f"HTTP {error.code} {error.reason}", wait=network.retry_after(error)) from error
        raise _Refused(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        if isinstance(reason, (ssl.SSLCertVerificationError, ConnectionRefusedError, socket.gaierror)):
            raise _Refused(network.plain(reason)) from error
        raise _Missed(network.plain(reason)) from error
    except TimeoutError as error:
        raise _Missed(f"no byte for {timeout:g} s") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _Missed(network.plain(error)) from error


def _place(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Where the server's bytes belong in the file, and the file's whole length when it is told."""
    length = response.headers.get("Content-Length", "")
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, int(length) if length.isdigit() else None
    found = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        raise _Refused("the server answered with another part of the file than was asked for")
    if found[2] != "*":
        return offset, int(found[2])
    return offset, offset + int(length) if length.isdigit() else None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    # read1 gives what is there: nothing that has arrived is lost when the connection dies.
    while block := response.read1(_BLOCK):
        yield block


# --- what is known about a beginning ---------------------------------------------------------------


def _remember(part: Path, url: str, response: http.client.HTTPResponse) -> None:
    tag = response.headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    with store.guard(part):
        _note(part).write_text(json.dumps({"url": url, "validator": validator}))


def _memory(part: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        memory = json.loads(_note(part).read_text())
        if isinstance(memory, dict):
            return {str(key): str(value) for key, value in memory.items()}
    return {}


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _settle(part: Path, target: Path, *, durable: bool) -> None:
    """Gives the finished download its name."""
    with store.guard(target):
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, target)
        _note(part).unlink(missing_ok=True)


def _mismatch(path: Path, remote: Remote) -> str:
    """What is wrong with the file, or nothing."""
    for algorithm, expected in (("sha256", remote.sha256), ("md5", remote.md5)):
        if expected:
            found = digest(path, algorithm)
            if found != expected.lower():
                page = " (a web page came instead)" if _looks_like_html(path) else ""
                return f"wrong content{page}: {algorithm} is {found[:12]}…, not {expected[:12]}…"
            return ""
    return ""


def _looks_like_html(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- telling ----------------------------------------------------------------------------------------


@contextmanager
def _meter(remote: Remote, url: str, total: int | None, bulk: bool) -> Iterator[Callable[[int], Any]]:
    """Counts bytes: a bar on a terminal after 2 s, one line at the end elsewhere, nothing when it was quick."""
    if bulk:
        yield lambda _: None
        return
    from tqdm import tqdm

    begun, host = time.monotonic(), urlsplit(url).hostname or ""
    bar = tqdm(total=total, desc=remote.name, unit="B", unit_scale=True, delay=_LONG, leave=False, disable=None)
    count = 0

    def tell(more: int) -> None:
        nonlocal count
        count += more
        bar.update(more)

    with bar:
        yield tell
    seconds = time.monotonic() - begun
    if seconds > _LONG:
        _say(sys.stderr, f"{remote.name}: {count / 1e6:.1f} MB from {host} in {seconds:.0f} s\n")


def _say(stream: IO[str], line: str) -> None:
    stream.write(line)
    stream.flush()
