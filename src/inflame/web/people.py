"""The people who may sign in to a website by name and password: a file of lines, written by `inflame people`.

A line is a name and what scrypt makes of the password, with its salt and its cost:
`anna:$scrypt$ln=15,r=8,p=3$SALT$HASH`. The file is looked at anew as soon as it changes.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, final

from inflame import store
from inflame.errors import InflameError, UserError

log = logging.getLogger("inflame.web")

SHORTEST, LONGEST = 12, 1000  # letters of a password
_NAME = re.compile(r"[\w@+.-]{1,64}")
_LINE = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([\w+/]{11,86})\$([\w+/]{43})", re.ASCII)
_ROOM = 2**28  # bytes that one hash may take while it is made
_LEAST = 2**24  # and takes at least: what takes less is tried too quickly by who has stolen the file


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """What is kept of a password. `n`, `r` and `p` are the cost: with these 32 MB, and about a quarter of a second."""

    n: int = 2**15
    r: int = 8
    p: int = 3
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str) -> Self:
        """That of a new password. Raises UserError for one that can be guessed."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise UserError(
                f"The password has {len(password)} letters.", remedy=f"Take one with {SHORTEST} to {LONGEST}."
            )
        blank = cls(salt=secrets.token_bytes(16), key=b"")
        return cls(salt=blank.salt, key=blank._made(password))

    @classmethod
    def read(cls, text: str) -> Self:
        """What `str` of one gives. Raises ValueError."""
        found = _LINE.fullmatch(text)
        if found is None:
            raise ValueError("it is no hash of scrypt")
        log2, r, p = (int(word) for word in found.groups()[:3])
        if not (p and _LEAST <= 128 * r << log2 <= _ROOM and p * r << log2 <= 2**23):
            raise ValueError("its cost is too small, or too large")
        salt, key = (base64.b64decode(word + "=" * (-len(word) % 4)) for word in found.groups()[3:])
        return cls(n=2**log2, r=r, p=p, salt=salt, key=key)

    def __str__(self) -> str:
        salt, key = (base64.b64encode(part).decode().rstrip("=") for part in (self.salt, self.key))
        return f"$scrypt$ln={self.n.bit_length() - 1},r={self.r},p={self.p}${salt}${key}"

    def fits(self, password: str) -> bool:
        """Whether it is that password; how long that takes says nothing."""
        return hmac.compare_digest(self._made(password[: LONGEST + 1]), self.key)

    def _made(self, password: str) -> bytes:
        """One password can be typed as several rows of letters, which look the same: they are made one."""
        typed = unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
        room = _ROOM + 2**20
        return hashlib.scrypt(typed, salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=room, dklen=32)


_NOBODY = Hash(salt=b"inflame.web.people", key=bytes(32))


@final
class People:
    """Those of a file, as it is now. What can't be read lets nobody in, and the log says why."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._people: dict[str, Hash] = {}

    def all(self) -> dict[str, Hash]:
        """By name."""
        stamp = None
        with suppress(OSError):
            about = self._path.stat()
            stamp = (about.st_ino, about.st_mtime_ns, about.st_size)
        if stamp is None or stamp != self._stamp:
            self._stamp = stamp
            try:
                self._people = read(self._path)
            except InflameError as error:
                self._people = {}
                log.error("people", extra={"why": error.message})
        return self._people

    def key(self, name: str) -> bytes:
        """What seals the cookies of that person: another with another password. Empty for nobody."""
        found = self.all().get(name)
        return hmac.digest(found.key, b"inflame.web.people", "sha256") if found is not None else b""

    def asked(self, name: str) -> tuple[Hash, bool]:
        """What a password for that name is tried against, and whether there is such a person. A name that isn't there
        costs as much as one of those that are."""
        people = self.all()
        if name in people:
            return people[name], True
        others = list(people.values()) or [_NOBODY]
        number = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest())
        return others[number % len(others)], False


def read(path: Path) -> dict[str, Hash]:
    """Name → hash. Raises UserError for a file that isn't one of people."""
    found: dict[str, Hash] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"The people can't be read: {error.strerror}.", where=str(path), remedy="inflame people add NAME"
        ) from error
    for number, line in enumerate(lines, 1):
        name, _, text = line.partition(":")
        try:
            if not _NAME.fullmatch(name) or name in found:
                raise ValueError("it begins with no name, or with one that was there before")
            found[name] = Hash.read(text)
        except ValueError as error:
            raise UserError(
                f"Line {number} of the people is none: {error}.",
                where=str(path),
                remedy="Take it out, and add who it was: inflame people add NAME",
            ) from None
    return found


@contextmanager
def changed(path: Path) -> Iterator[dict[str, Hash]]:
    """Those of the file, to be changed, and written when the block ends well: for its owner's eyes only, and whole or
    not at all. Who changes it at the same time waits."""
    folder = store.make_folder(Path(os.path.realpath(path)).parent)
    with store.guard(path):
        lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        people = read(path) if path.exists() else {}
        yield people
        with store.atomic(path, mode=0o600) as temporary:
            temporary.write_text("".join(f"{name}:{people[name]}\n" for name in sorted(people)), encoding="utf-8")
    finally:
        os.close(lock)


def named(name: str) -> str:
    """The name. Raises UserError for what can't be one."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f'"{name}" is no name to sign in by.', remedy="Take up to 64 letters, digits and _ @ + . - of them."
        )
    return unicodedata.normalize("NFC", name)
