"""Who the owner is: whoever has the token, or is one of the people who may be it; and an end to guessing.

A browser gets a cookie for some hours: when it ends, who it is, and a seal, with a key that comes of the token, of the
person's hash or of the secret that is shared with the provider. Who steals it has none of these, and another of them
ends it; every replica of a site knows the cookies of the others.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import ipaddress
import logging
import time
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from typing import final

from inflame.web.oidc import OpenID
from inflame.web.people import People
from inflame.web.problems import Problem
from inflame.web.settings import Settings

audit = logging.getLogger("inflame.audit")  # what was done, or tried, as the owner

COOKIE = "inflame_token"
AGE = 43_200  # seconds that a cookie is good for
SEEN = 90 * 86_400  # and for so long a person's browser is known again by it, when it signs in
FREE = 4  # wrong words of one client that cost it nothing
STRAY = 20  # and of all clients for one name
FIRST, LONGEST = 30.0, 3600.0  # seconds: the next one's wait, which doubles, and its end; so long a rest is forgiven
_WAITING = 16  # clients whose password is tried, or waits to be
_CLIENTS = 10_000
_COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: whoever steals a cookie can't try many tokens against it


@final
@dataclass(frozen=True, slots=True)
class Owner:
    """Who is let in. `way`: "machine", "token", "password" or "openid"; `name`: of the last two."""

    way: str
    name: str = ""


TOKEN = Owner("token")


@final
class Door:
    """The entrance of one site. Belongs to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._people = People(settings.people) if settings.people is not None else None
        self.openid = OpenID(settings.oidc) if settings.oidc is not None else None
        self._guesses, self._names = Guesses(), Guesses(STRAY)
        self._turn, self._tried = asyncio.Semaphore(1), dict[str, asyncio.Task[Owner | None]]()

    @property
    def ways(self) -> tuple[str, ...]:
        """How one can sign in, as the ways of an Owner; the token also where nothing else is there."""
        asked = {"token": self._settings.token, "password": self._people, "openid": self.openid}
        return tuple(way for way, wanted in asked.items() if wanted) or ("token",)

    # --- signing in ----------------------------------------------------------------------------------

    def opens(self, client: str, given: str) -> bool:
        """Whether that is the token; a wrong one is noted. Raises Problem for a client that guessed too often, who
        isn't heard, whatever it says."""
        if not self._settings.token:
            return False
        self.hear(client)
        if self._settings.opens(given):
            return True
        self.wrong(client)
        return False

    def hear(self, client: str) -> None:
        """Raises Problem for a client that guessed too often."""
        _heard([(self._guesses, network(client))])

    def wrong(self, client: str) -> None:
        """Notes that a client was wrong."""
        _refused(client, [(self._guesses, network(client))])

    async def lets_in(self, client: str, name: str, password: str, cookie: str = "") -> Owner | None:
        """The person, where there is one of that name and password; what is wrong is noted. Raises Problem as `opens`
        does, and where too many sign in at once.

        Many clients that guess one name aren't heard for it either, but for a browser that has been let in as that
        person before: its cookie, good or ended, says so, and its guesses are counted by themselves. So nobody can
        shut out a person for good.
        """
        if self._people is None:
            return None
        name = unicodedata.normalize("NFC", name)
        hashed, there = self._people.asked(name)
        if self.knows(cookie, grace=SEEN - AGE) == Owner("password", name):
            counts = [(self._guesses, f"{name} {cookie}")]
        else:
            about = hashlib.sha256(name.encode(errors="surrogatepass") + (hashed.key if there else b"")).hexdigest()
            counts = [(self._guesses, network(client)), (self._names, about)]  # a new password begins anew
        _heard(counts)
        who = counts[0][1]
        if who in self._tried or len(self._tried) >= _WAITING:
            raise Problem("busy", "Too many sign in at once.", "Wait a moment.", wait=2.0)

        async def tried() -> Owner | None:
            async with self._turn:
                _heard(counts)  # others may have guessed meanwhile
                if await asyncio.to_thread(hashed.fits, password) and there:
                    return Owner("password", name)
            _refused(client, counts, name if there else "")  # what isn't a name may be a password in the wrong field
            return None

        task = self._tried[who] = asyncio.create_task(tried())
        task.add_done_callback(functools.partial(self._done, who))
        return await asyncio.shield(task)  # who leaves has guessed nevertheless, and makes no room for the next one

    def _done(self, who: str, task: asyncio.Task[Owner | None]) -> None:
        del self._tried[who]
        if not task.cancelled():
            task.exception()  # nobody may be there any more to be told

    # --- cookies -------------------------------------------------------------------------------------

    def cookie(self, owner: Owner = TOKEN, now: float | None = None) -> str:
        """What stands for the owner in a browser, for some hours."""
        body = str(int(time.time() if now is None else now) + AGE)
        if owner.name:
            body += f".{owner.way}.{base64.urlsafe_b64encode(owner.name.encode()).decode().rstrip('=')}"
        return f"{body}.{_seal(self._key(owner), body)}"

    def knows(self, cookie: str, now: float | None = None, *, grace: int = 0) -> Owner | None:
        """Whom it was given to here, if it hasn't ended so many seconds ago."""
        body, _, seal = cookie.rpartition(".")
        until, _, who = body.partition(".")
        if len(until) > 12 or not (until.isascii() and until.isdigit()):
            return None
        owner = _of(who)
        key = self._key(owner) if owner is not None else b""
        if not key or not hmac.compare_digest(seal.encode(errors="surrogatepass"), _seal(key, body).encode()):
            return None
        return owner if (time.time() if now is None else now) < int(until) + grace else None

    def _key(self, owner: Owner) -> bytes:
        """What seals the cookies of that owner; empty for whoever may not be it."""
        if owner.way == "token":
            return self._token if self._settings.token else b""
        if owner.way == "password" and self._people is not None:
            return self._people.key(owner.name)
        return self.openid.key if owner.way == "openid" and self.openid is not None else b""

    @functools.cached_property
    def _token(self) -> bytes:
        return hashlib.scrypt(self._settings.token.encode(errors="surrogatepass"), salt=b"inflame.web.door", **_COST)


@final
class Guesses:
    """Wrong words by client, or by name. One that was long silent is forgotten, and so is the one silent longest of too
    many. `free`: how many cost nothing."""

    def __init__(self, free: int = FREE) -> None:
        self._free = free
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when it is heard again

    def wait(self, client: str, now: float | None = None) -> float:
        """The seconds that it isn't heard; 0 when it is."""
        _, until = self._wrong.get(client, (0, 0.0))
        return max(0.0, until - (time.monotonic() if now is None else now))

    def wrong(self, client: str, now: float | None = None) -> float:
        """Notes one; the seconds that the client isn't heard from now on."""
        now = time.monotonic() if now is None else now
        count, until = self._wrong.pop(client, (0, now))
        count = 1 if now - until > LONGEST else count + 1
        wait = min(LONGEST, FIRST * 2.0 ** min(count - self._free - 1, 20)) if count > self._free else 0.0
        self._wrong[client] = (count, now + wait)
        while len(self._wrong) > _CLIENTS:
            self._wrong.popitem(last=False)
        return wait


def network(client: str) -> str:
    """Who a client is where requests are counted: with IPv6 its network, for one home has more addresses than can be
    counted."""
    try:
        return str(ipaddress.ip_network((client, 64), strict=False)) if ":" in client else client
    except ValueError:
        return client


def _heard(counts: list[tuple[Guesses, str]]) -> None:
    if wait := max(guesses.wait(who) for guesses, who in counts):
        raise Problem(
            "busy", "Too many wrong guesses came from you, or at that name.", "Wait.", wait=wait, reason="locked"
        )


def _refused(client: str, counts: list[tuple[Guesses, str]], name: str = "") -> None:
    wait = max(guesses.wrong(who) for guesses, who in counts)
    outcome = f"locked out for {wait:.0f} s" if wait else "forbidden"
    person = {"person": name} if name else {}
    audit.warning("audit", extra={"who": client, **person, "act": "sign in", "outcome": outcome})


def _seal(key: bytes, body: str) -> str:
    return hmac.digest(key, body.encode(errors="surrogatepass"), "sha256").hex()


def _of(who: str) -> Owner | None:
    """The owner that a cookie names."""
    way, _, name = who.partition(".")
    if not who:
        return TOKEN
    try:
        told = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except ValueError:
        return None
    return Owner(way, told) if way in ("password", "openid") and told else None
