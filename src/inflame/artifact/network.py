"""What the network says, in plain words, and whether there is one."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit


def is_web(url: str) -> bool:
    """Whether the address is one of http or https."""
    return urlsplit(url).scheme in ("http", "https")


def silent_hosts(urls: Sequence[str], seconds: float) -> dict[str, str]:
    """Hosts that can't be reached, and why; all are asked at once, so no network is known after `seconds`.

    Looking a name up can't be given a time limit, so each host is asked in a thread of its own. Behind a proxy
    nothing is asked: names may be known there only.
    """
    parts = {urlsplit(url).netloc: urlsplit(url) for url in urls if is_web(url)}
    proxies = urllib.request.getproxies()
    asked = {
        netloc: (part.hostname or "", part.port or (443 if part.scheme == "https" else 80))
        for netloc, part in parts.items()
        if part.scheme not in proxies or urllib.request.proxy_bypass(part.hostname or "")
    }
    answers: dict[str, str] = {}

    def knock(netloc: str, address: tuple[str, int]) -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            answers[netloc] = ""
        except OSError as error:
            answers[netloc] = plain(error)

    threads = [threading.Thread(target=knock, args=entry, daemon=True) for entry in asked.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    heard = {netloc: answers.get(netloc, f"no answer within {seconds:g} s") for netloc in asked}
    return {netloc: trouble for netloc, trouble in heard.items() if trouble}


def retry_after(error: urllib.error.HTTPError) -> float:
    """The seconds that a server asks to wait, 30 at most."""
    wait = error.headers.get("Retry-After", "") if error.headers else ""
    return min(float(wait), 30.0) if wait.isdigit() else 0.0


def plain(error: object) -> str:
    """What went wrong, in words for people."""
    if isinstance(error, socket.gaierror):
        return "the name can't be looked up (no network?)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
