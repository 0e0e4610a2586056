"""What a website is told when it starts: where it listens, whom it trusts, and how much it takes on."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from inflame import host
from inflame.errors import UserError

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
    token: str = field(default="", repr=False)  # opens what only the owner may see; needed beyond this machine
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

    def __post_init__(self) -> None:
        if not self.local and not self.token:
            raise UserError(
                f"{self.host} can be reached by others, and no token guards what only you may see.",
                where=f"--host {self.host}",
                remedy="Set INFLAME_WEB_TOKEN to 16 letters or more, or leave --host out: 127.0.0.1.",
            )
        if self.token and len(self.token) < SHORTEST:
            raise UserError(
                f"The token has {len(self.token)} letters: it can be guessed.",
                where="INFLAME_WEB_TOKEN",
                remedy="export INFLAME_WEB_TOKEN=$(openssl rand -hex 16)",
            )
        if not 0 <= self.port <= 65_535:
            raise UserError(f"{self.port} is no port.", where=f"--port {self.port}", remedy="--port 8000")

    def opens(self, given: str) -> bool:
        """Whether that is the token."""
        return bool(self.token) and hmac.compare_digest(given.encode(), self.token.encode())

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the site."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"
