"""Asking a provider's JSON API: patiently when it is throttled, broken or far away, and refused in one voice."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

from inflame import plugins, remote
from inflame.errors import NetworkError, RunError, UserError

_AGAIN = (429, 500, 502, 503, 504)
_LONGEST = 20.0  # seconds between two tries
_TIMEOUT = (10, 30)  # seconds: to be connected, to be answered


class Absent(Exception):
    """There is no such thing at the provider."""


class Taken(Exception):
    """Something of that name is there already."""


class Unsure(Exception):
    """The answer got lost: nobody knows whether it was done."""


class Rest:
    """A provider. `token(fresh)` is what to show it, empty for nothing. `remedies`: ways out by the kind of refusal:
    `login`, `rights`, `quota` and `wrong`. `absent`: how it says that something isn't there, besides 404.
    `auth`: name and password, where there is no token."""

    def __init__(
        self,
        who: str,
        extra: str,
        token: Callable[[bool], str],
        remedies: dict[str, str],
        *,
        absent: str = "",
        auth: tuple[str, str] | None = None,
    ) -> None:
        self.who, self._token, self._remedies, self._absent = who, token, remedies, absent
        self._requests = plugins.need("requests", extra, f"The place {who}")
        self._session = self._requests.Session()
        self._auth = auth

    def login(self) -> None:
        """Gets what it would show. UserError where there are no credentials."""
        self._token(False)

    def get(self, url: str, **query: str) -> Any:
        """What is there. Nothing: Absent."""
        return self.ask("GET", url, None, query)

    def ask(
        self, method: str, url: str, body: Any = None, query: dict[str, str] | None = None, *, once: bool = False
    ) -> Any:
        """The answer as JSON, tried several times. `once`: a request that must not be made twice raises Unsure when it
        is not known whether it was.

        Raises Absent and Taken; UserError for what its sender can mend, NetworkError for what time may.
        """
        turn, fresh, said = 0, False, ""
        while turn < remote.TRIES:
            turn += 1
            try:
                answer = self._session.request(
                    method, url, json=body, params=query, timeout=_TIMEOUT, auth=self._auth or self._shown(fresh)
                )
            except self._requests.exceptions.RequestException as error:
                if once and not isinstance(error, self._requests.exceptions.ConnectTimeout):
                    raise Unsure from error
                said = _cause(error)
            else:
                if answer.status_code < 300:
                    return answer.json() if answer.content else {}
                said = _said(answer)
                if answer.status_code == 401 and not fresh:
                    fresh = True
                    continue
                if answer.status_code not in _AGAIN or _for_good(said):
                    raise self._refusal(answer.status_code, said, f"{method} {url.partition('?')[0]}")
                if once and answer.status_code != 429:
                    raise Unsure
            if turn < remote.TRIES:
                _rest(turn)
        raise NetworkError(
            f"{self.who} could not be asked in {turn} tries: {said}",
            where=url.partition("?")[0],
            remedy="Check the network and the settings of the place, then give the same command again.",
        )

    def _shown(self, fresh: bool) -> Callable[[Any], Any]:
        """Puts the token into a request. As a header it would give way to what a .netrc says of the host."""
        token = self._token(fresh)

        def put(asked: Any) -> Any:
            if token:
                asked.headers["Authorization"] = f"Bearer {token}"
            return asked

        return put

    def _refusal(self, status: int, said: str, where: str) -> Exception:
        if status == 404 or (self._absent and re.search(self._absent, said)):
            return Absent(said)
        if status in (409, 412):
            return Taken(said)
        if status == 401:
            what, remedy = "doesn't know you, or your token has expired", self._remedies["login"]
        elif status == 403:
            what, remedy = "refuses you this right", self._remedies["rights"]
        elif _for_good(said):
            what, remedy = "has no such machine left for you: your quota doesn't allow it", self._remedies["quota"]
        elif status < 500:
            what, remedy = "can't do this", self._remedies["wrong"]
        else:
            return RunError(f"{self.who} failed: {said}", where=where, remedy="Give the same command again.")
        return UserError(f"{self.who} {what}: {said}", where=where, remedy=remedy)


def _for_good(said: str) -> bool:
    """Providers answer alike when too much is asked and when too much is wanted; waiting helps against the first."""
    return re.search(r"quota|limit .*exceeded", said, re.IGNORECASE) is not None and "per minute" not in said


def _cause(error: Exception) -> str:
    """What has happened to a connection, without all that it passed through: `[Errno 111] Connection refused`."""
    reason = getattr(error.args[0], "reason", error) if error.args else error
    return str(reason).rpartition(": ")[2]


def _said(answer: Any) -> str:
    """What an error says: its message, however it is wrapped."""
    try:
        value = answer.json()
        error = value.get("error", value.get("meta", value))
        text = error.get("message", error.get("result_msg", "")) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        text = answer.text
    return f"{answer.status_code} {str(text or answer.reason)[:500]}"


def _rest(turn: int) -> None:
    """Longer each time; not as long for all who were turned away together."""
    time.sleep(min(_LONGEST, remote.PAUSE * 2 ** (turn - 1)) * (0.5 + os.urandom(1)[0] / 255))
