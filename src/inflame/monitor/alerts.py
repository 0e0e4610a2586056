"""Telling someone: by webhook (Slack takes the JSON as it is), or by mail. Once when a rule begins to ring, once when
that is over, and not in between."""

from __future__ import annotations

import hashlib
import json
import smtplib
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from inflame import store
from inflame.errors import NetworkError, UserError
from inflame.monitor.checking import Checked
from inflame.monitor.drift import CHANGED, QUIET, RISK
from inflame.monitor.log import Log
from inflame.monitor.rules import Rules

PATIENCE = 10.0  # seconds that a receiver may take


def rings(rules: Rules, found: Checked, last: float | None = None) -> dict[str, str]:
    """What each rule says, "" where it is quiet; those of which nothing new is known are left out. last: when the model
    last answered, in Unix time."""
    said = _of_window(rules, found.windows[-1]) if found.windows else {}
    if rules.silence is not None and last is not None:
        silent = time.time() - last
        said["silence"] = f"no answer for {_span(silent)}" if silent > rules.silence else ""
    return said


def _of_window(rules: Rules, line: Mapping[str, Any]) -> dict[str, str]:
    """What the rules about a window say of one (see `checking.line`)."""
    said: dict[str, str] = {}
    guess = line["accuracy"]
    if rules.risk:
        said["risk"] = RISK if line["level"] == RISK else ""
    if rules.changed:
        said["changed"] = CHANGED if line["level"] != QUIET else ""
    if rules.accuracy is not None and guess and guess["reliable"]:
        text = f"estimated accuracy {guess['accuracy']:.3f}, below {rules.accuracy:g}"
        said["accuracy"] = text if guess["accuracy"] < rules.accuracy else ""
    if rules.unknown is not None:
        text = f"{line['unknown']:.1%} not known to the model, more than {rules.unknown:.1%}"
        said["unknown"] = text if line["unknown"] > rules.unknown else ""
    if rules.latency is not None:
        text = f"5 of 100 answers take {_span(line['slow'])} or longer, more than {_span(rules.latency)}"
        said["latency"] = text if line["slow"] > rules.latency else ""
    return said


def tell(log: Log, model: str, said: Mapping[str, str], facts: Mapping[str, Any], places: list[str]) -> list[str]:
    """Tells every place what began to ring or is over, and notes for each that it was told; returns the places that
    were.

    said: as of `rings`. facts: {"model", "level", "items", "accuracy", "advice", "findings"}. A place that can't be
    reached is told the next time, and raises NetworkError after the others had their turn.
    """
    told: list[str] = []
    failed: list[tuple[str, Exception]] = []
    for place in places:
        key = f"told:{model}:{hashlib.sha256(place.encode()).hexdigest()[:16]}"
        before = _before(log.noted(key, log.noted(f"told:{model}:{store.shown(place)}", [])))  # as it was noted once
        new = {rule: text for rule, text in said.items() if text and rule not in before}
        over = [rule for rule in before if said.get(rule) == ""]
        if not new and not over:
            continue
        try:
            _send(place, message(new, over, facts), {"rings": new, "over": over, **facts})
        except (OSError, smtplib.SMTPException) as error:
            failed.append((place, error))
            continue
        log.note(key, sorted({*before, *new} - set(over)))
        told.append(place)
    if failed:
        place, cause = failed[0]
        raise NetworkError(
            f"The alarm could not be sent: {getattr(cause, 'reason', cause)}",
            where=named(place),
            remedy="Check the address; the next check tries again.",
        ) from cause
    return told


def named(place: str) -> str:
    """The place without its secrets: no password, and of a webhook the host alone, for its path is the key to it."""
    parts = urlsplit(place)
    webhook = parts.scheme in ("http", "https") and parts.hostname
    return f"{parts.scheme}://{parts.hostname}/…" if webhook else store.shown(place)


def message(new: Mapping[str, str], over: list[str], facts: Mapping[str, Any]) -> str:
    """The text of an alarm, or of its end."""
    parts = [f"inflame: {'; '.join(new.values())} for {facts['model']}."] if new else []
    if over:
        names = {"risk": RISK, "changed": CHANGED}
        parts.append(f"inflame: over for {facts['model']}: {', '.join(names.get(rule, rule) for rule in over)}.")
    if new and facts["accuracy"]:
        parts.append(f"Accuracy {facts['accuracy']}.")
    if new and facts["findings"]:
        parts.append(f"What changed: {', '.join(facts['findings'])}.")
    return " ".join([*parts, facts["advice"]] if new and facts["advice"] else parts)


def _before(noted: Any) -> list[str]:
    """The rules that a place was told of. Before there were rules, the level was noted."""
    return list(noted) if isinstance(noted, list) else ["risk"] * (noted == RISK)


def _span(seconds: float) -> str:
    """A length of time, as people say it."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


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
        f"{named(place)} is no place that an alarm can go to.",
        where=named(place),
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
