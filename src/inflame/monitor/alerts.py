"""Telling someone: by webhook (Slack takes the JSON as it is), or by mail. Once when a level rises, once when that
is over, and not in between."""

from __future__ import annotations

import json
import smtplib
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from inflame import store
from inflame.errors import NetworkError, UserError
from inflame.monitor.drift import CHANGED, QUIET, RISK
from inflame.monitor.log import Log

PATIENCE = 10.0  # seconds that a receiver may take
_RANK = {QUIET: 0, CHANGED: 1, RISK: 2}


def due(before: str, now: str, least: str = RISK) -> bool:
    """Whether a level is news: it has risen to `least` or beyond, or all of that is over."""
    was, is_now, bar = _RANK[before], _RANK[now], _RANK[least]
    return (is_now >= bar and is_now > was) or (was >= bar > is_now)


def tell(log: Log, model: str, level: str, facts: Mapping[str, Any], places: list[str], least: str = RISK) -> list[str]:
    """Tells every place what is new, and notes for each that it was told; returns the places that were.

    facts: {"model", "items", "accuracy", "advice", "findings"}. A place that can't be reached is told the next time,
    and raises NetworkError after the others had their turn.
    """
    told: list[str] = []
    failed: list[tuple[str, Exception]] = []
    for place in places:
        key = f"told:{model}:{store.shown(place)}"
        if not due(log.noted(key, QUIET), level, least):
            continue
        try:
            _send(place, message(level, facts), {"level": level, **facts})
        except (OSError, smtplib.SMTPException) as error:
            failed.append((place, error))
            continue
        log.note(key, level)
        told.append(place)
    if failed:
        place, cause = failed[0]
        raise NetworkError(
            f"The alarm could not be sent: {getattr(cause, 'reason', cause)}",
            where=store.shown(place),
            remedy="Check the address; the next check tries again.",
        ) from cause
    return told


def message(level: str, facts: Mapping[str, Any]) -> str:
    """The text of an alarm, or of its end."""
    if level == QUIET:
        return f"inflame: {facts['model']} is quiet again. {facts['items']:,} items looked at."
    what = f" What changed: {', '.join(facts['findings'])}." if facts["findings"] else ""
    return f"inflame: {level} for {facts['model']}. Accuracy {facts['accuracy']}.{what} {facts['advice']}"


def _send(place: str, text: str, facts: Mapping[str, Any]) -> None:
    parts = urlsplit(place)
    if parts.scheme in ("http", "https"):
        body = json.dumps({"text": text, **facts}, ensure_ascii=False).encode()
        request = urllib.request.Request(place, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return
    if parts.scheme in ("smtp", "smtps") and parts.hostname and "@" in parts.path:
        _mail(parts, text)
        return
    raise UserError(
        f"{store.shown(place)} is no place that an alarm can go to.",
        where=store.shown(place),
        remedy="https://hooks.slack.com/…, or smtp://user:password@host:587/me@example.org",
    )


def _mail(parts: Any, text: str) -> None:
    """To the address in the path, over TLS where the server offers it; a password never goes without."""
    mail = EmailMessage()
    mail["To"] = unquote(parts.path.strip("/"))
    mail["From"] = unquote(parts.username or "") if "@" in unquote(parts.username or "") else mail["To"]
    mail["Subject"] = text.partition(".")[0]
    mail.set_content(text)
    kind = smtplib.SMTP_SSL if parts.scheme == "smtps" else smtplib.SMTP
    with kind(parts.hostname, parts.port or 0, timeout=PATIENCE) as server:
        server.ehlo()
        if parts.scheme == "smtp" and server.has_extn("starttls"):
            server.starttls()
            server.ehlo()
        elif parts.scheme == "smtp" and parts.password:
            raise OSError("the server offers no TLS, and a password is not sent without")
        if parts.password:
            server.login(unquote(parts.username or ""), unquote(parts.password))
        server.send_message(mail)
