"""Who the owner is: whoever has the token, or for some hours the cookie that was given for it; and an end to guessing.

The cookie is when it ends, sealed with a key that comes of the token. Who steals it has no token, and another token
ends it; every replica of a site knows the cookies of the others.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from typing import final

from inflame.web.problems import Problem
from inflame.web.settings import Settings

audit = logging.getLogger("inflame.audit")  # what was done, or tried, as the owner

COOKIE = "inflame_token"
AGE = 43_200  # seconds that a cookie is good for
FREE = 4  # wrong tokens of one client that cost it nothing
FIRST, LONGEST = 30.0, 3600.0  # seconds: the next one's wait, which doubles, and its end; so long a rest is forgiven
_CLIENTS = 10_000
_COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: whoever steals a cookie can't try many tokens against it


@final
class Door:
    """The entrance of one site. Belongs to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._guesses = Guesses()

    def opens(self, client: str, given: str) -> bool:
        """Whether that is the token; a wrong one is noted. Raises Problem for a client that guessed too often, who
        isn't heard, whatever it says."""
        if not self._settings.token:
            return False
        who = network(client)
        if wait := self._guesses.wait(who):
            raise Problem("busy", "Too many wrong tokens came from you.", "Wait.", wait=wait, reason="locked")
        if self._settings.opens(given):
            return True
        wait = self._guesses.wrong(who)
        outcome = f"locked out for {wait:.0f} s" if wait else "forbidden"
        audit.warning("audit", extra={"who": client, "act": "sign in", "outcome": outcome})
        return False

    def cookie(self, now: float | None = None) -> str:
        """What stands for the token in a browser, for some hours."""
        until = str(int(time.time() if now is None else now) + AGE)
        return f"{until}.{self._seal(until)}"

    def knows(self, cookie: str, now: float | None = None) -> bool:
        """Whether it was given here, and hasn't ended."""
        until, _, seal = cookie.partition(".")
        if not self._settings.token or len(until) > 12 or not (until.isascii() and until.isdigit()):
            return False
        good = hmac.compare_digest(seal.encode(errors="surrogatepass"), self._seal(until).encode())
        return good and (time.time() if now is None else now) < int(until)

    def _seal(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()

    @functools.cached_property
    def _key(self) -> bytes:
        return hashlib.scrypt(self._settings.token.encode(errors="surrogatepass"), salt=b"inflame.web.door", **_COST)


@final
class Guesses:
    """Wrong tokens by client. One that was long silent is forgotten, and so is the one silent longest of too many."""

    def __init__(self) -> None:
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
        wait = min(LONGEST, FIRST * 2.0 ** min(count - FREE - 1, 20)) if count > FREE else 0.0
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
