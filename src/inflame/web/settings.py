"""What a website is told when it starts: where it listens, whom it trusts, and how much it takes on."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import host
from inflame.errors import UserError

if TYPE_CHECKING:
    from inflame.web.oidc import Provider

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
LONG = 0.004  # seconds for one answer: what takes longer gains nothing by batches on a processor, and is asked alone
SHORTEST = 16  # letters of a token: shorter ones can be guessed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times in seconds. `rate` is requests a second for each client that is not this machine, with bursts of `burst`.

    `hosts` are the names that this site answers to, besides those of the loopback: a request for another is refused,
    so that no stranger's page can reach a private server by a name of its own.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    hosts: tuple[str, ...] = ()
    token: str = field(default="", repr=False)  # opens what only the owner may see
    people: Path | None = None  # the file of those who may sign in as the owner by name and password
    oidc: Provider | None = None  # and who is trusted to name others; beyond this machine one of the three is needed
    log: str = ""  # the log of predictions: a file, a URL of PostgreSQL; "": where the monitor has it
    cards: Path | None = None  # a folder of cards of one's own, for the chat
    proxy: bool = False  # whether X-Forwarded-For is believed
    files: int = 32  # of one request
    bytes: int = 20 * 2**20  # of one file
    pixels: int = 50_000_000
    letters: int = 200_000  # of one text
    room: int = 256  # items that may wait
    soon: float = 0.75  # nobody waits longer for a turn where more is asked than can be answered, lastingly
    batch: int = 32  # at most; one of what takes long, see Served
    workers: int = field(default_factory=lambda: min(host.cores(), 32) + 1)  # batches at once; one is on its way
    runtime: str = ""  # a name of the seam `runtime`; "": the best by measurement
    deadline: float = 10.0
    read_time: float = 5.0  # for one picture or text to be decoded
    head_time: float = 10.0  # for the head of a request to arrive
    body_time: float = 10.0  # for each further piece of its body
    drain: float = 8.0  # for what was accepted, when the server stops
    rate: float = 10.0
    burst: int = 60
    reload: float = 2.0  # how often the folders of the models are looked at; 0: never
    share_days: int = 7
    keep_days: int = 90  # that something is kept to learn from, where whoever sent it agreed

    def __post_init__(self) -> None:
        if not self.guarded:
            self._refuse_others()
        if self.token and len(self.token) < SHORTEST:
            raise UserError(
                f"The token has {len(self.token)} letters: it can be guessed.",
                where="INFLAME_WEB_TOKEN",
                remedy="export INFLAME_WEB_TOKEN=$(openssl rand -hex 16)",
            )
        if self.keep_days < 1:
            raise UserError(
                "What is kept to learn from needs a day at least.",
                where=f"--keep-days {self.keep_days}",
                remedy="--keep-days 90",
            )
        if not 0 <= self.port <= 65_535:
            raise UserError(f"{self.port} is no port.", where=f"--port {self.port}", remedy="--port 8000")

    def _refuse_others(self) -> None:
        """Raises UserError where others can come: unguarded, whoever is at this machine is the owner."""
        names = [name for name in self.hosts if not loopback(name)]
        if not self.local:
            word, why = f"--host {self.host}", f"{self.host} can be reached by others"
        elif self.proxy:
            word, why = "--proxy", "Whoever comes through a proxy can be anybody"
        elif names:
            word, why = f"--name {names[0]}", f"By the name {names[0]} others come"
        else:
            return
        raise UserError(
            f"{why}, and nothing guards what only you may see.",
            where=word,
            remedy=f"Set INFLAME_WEB_TOKEN to {SHORTEST} letters or more, or name --people or INFLAME_OIDC_ISSUER "
            f"(docs/website.md), or leave {word.split()[0]} out.",
        )

    def opens(self, given: str) -> bool:
        """Whether that is the token. How long it takes says nothing of the token, nor of its length."""
        ours, theirs = (hashlib.sha256(word.encode(errors="surrogatepass")).digest() for word in (self.token, given))
        return hmac.compare_digest(ours, theirs) and bool(self.token)

    @property
    def guarded(self) -> bool:
        """Whether one has to sign in to be the owner."""
        return bool(self.token) or self.people is not None or self.oidc is not None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the site by itself; a proxy on it can let others in."""
        return loopback(self.host)


def loopback(address: str) -> bool:
    """Whether an address, or a name, is that of this machine and of no other."""
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"
