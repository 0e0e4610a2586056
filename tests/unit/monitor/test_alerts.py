"""Alarms arrive once, at a real webhook and a real SMTP server of this machine."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inflame.errors import NetworkError, UserError
from inflame.monitor import alerts
from inflame.monitor.checking import Checked
from inflame.monitor.drift import CHANGED, QUIET, RISK
from inflame.monitor.log import Log
from inflame.monitor.rules import Rules

RINGS = {"risk": RISK}
FACTS = {
    "model": "owls",
    "level": RISK,
    "items": 200,
    "accuracy": "about 0.7",
    "advice": "Label 100 of them.",
    "findings": ["more noise"],
}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path / "log.db"))


@pytest.fixture
def post() -> Iterator[tuple[int, list[str]]]:
    """A server that speaks enough SMTP for one letter, without TLS."""
    letters: list[str] = []

    class Office(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            inside, lines = False, []
            for line in self.rfile:
                if inside and line == b".\r\n":
                    inside = False
                    letters.append(b"".join(lines).decode())
                    self.wfile.write(b"250 ok\r\n")
                elif inside:
                    lines.append(line)
                elif line.upper().startswith(b"DATA"):
                    inside = True
                    self.wfile.write(b"354 go\r\n")
                elif line.upper().startswith(b"QUIT"):
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 ok\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Office) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], letters
        server.shutdown()
        thread.join()


def found(
    level: str, *, accuracy: float = 0.9, reliable: bool = True, unknown: float = 0.0, slow: float = 0.1
) -> Checked:
    """A check whose last window is so."""
    guess = {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "reliable": reliable}
    return Checked(
        level=level,
        new=200,
        foreign=0,
        windows=({"level": level, "accuracy": guess, "unknown": unknown, "slow": slow},),
    )


def test_once_when_it_rises_and_once_when_it_is_over(log: Log, webhook: tuple[str, list[dict]]) -> None:
    url, heard = webhook
    for level in (QUIET, CHANGED, RISK, RISK, CHANGED, QUIET, RISK):
        alerts.tell(log, "m1", alerts.rings(Rules(), found(level)), {**FACTS, "level": level}, [url])
    assert [(one["level"], list(one["rings"]), one["over"]) for one in heard] == [
        (RISK, ["risk"], []), (CHANGED, [], ["risk"]), (RISK, ["risk"], []),
    ]  # fmt: skip
    assert "accuracy at risk for owls" in heard[0]["text"]
    assert "more noise" in heard[0]["text"]
    assert heard[1]["text"] == "inflame: over for owls: accuracy at risk."
    alerts.tell(log, "m2", RINGS, FACTS, [url])  # another model is another matter
    assert len(heard) == 4


def test_each_rule_rings_beyond_its_bound_and_only_then() -> None:
    rules = Rules(risk=False, changed=True, accuracy=0.8, unknown=0.2, latency=1.0, silence=3600.0)
    quiet = alerts.rings(rules, found(QUIET), last=time.time() - 60)
    assert quiet == dict.fromkeys(("changed", "accuracy", "unknown", "latency", "silence"), "")
    loud = alerts.rings(rules, found(RISK, accuracy=0.71, unknown=0.25, slow=2.5), last=time.time() - 7300)
    assert loud == {
        "changed": "input changed",
        "accuracy": "estimated accuracy 0.710, below 0.8",
        "unknown": "25.0% not known to the model, more than 20.0%",
        "latency": "5 of 100 answers take 2.5 s or longer, more than 1 s",
        "silence": "no answer for 2.03 h",
    }
    unsure = alerts.rings(rules, found(RISK, accuracy=0.1, reliable=False))
    assert "accuracy" not in unsure, "nothing is known, so nothing begins and nothing is over"
    nothing = alerts.rings(rules, Checked(level=QUIET, new=0, foreign=0), last=time.time() - 7300)
    assert list(nothing) == ["silence"]


def test_rules_begin_and_end_each_for_itself(log: Log, webhook: tuple[str, list[dict]]) -> None:
    url, heard = webhook
    steps = [{"risk": RISK}, {"unknown": "many not known"}, {"risk": "", "unknown": "many not known"}, {"unknown": ""}]
    for said in steps:
        alerts.tell(log, "m", said, FACTS, [url])
    assert [(list(one["rings"]), one["over"]) for one in heard] == [
        (["risk"], []), (["unknown"], []), ([], ["risk"]), ([], ["unknown"]),
    ]  # fmt: skip


def test_what_was_told_before_there_were_rules_is_not_told_again(log: Log, webhook: tuple[str, list[dict]]) -> None:
    url, heard = webhook
    log.note(f"told:m:{url}", RISK)
    alerts.tell(log, "m", RINGS, FACTS, [url])
    assert heard == []


def test_what_can_t_be_reached_is_told_the_next_time(log: Log, webhook: tuple[str, list[dict]]) -> None:
    url, heard = webhook
    with pytest.raises(NetworkError, match="could not be sent"):
        alerts.tell(log, "m", RINGS, FACTS, ["http://127.0.0.1:9/away", url])
    assert len(heard) == 1
    with pytest.raises(NetworkError):
        alerts.tell(log, "m", RINGS, FACTS, ["http://127.0.0.1:9/away", url])
    assert len(heard) == 1


def test_the_path_of_a_webhook_is_a_secret(log: Log, webhook: tuple[str, list[dict]]) -> None:
    secret = f"{webhook[0]}/services/T0/B0/s3cr3t"
    assert alerts.tell(log, "m", RINGS, FACTS, [secret]) == [secret]
    assert alerts.named(secret) == "http://127.0.0.1/…"
    with pytest.raises(NetworkError) as refused:
        alerts.tell(log, "m", RINGS, FACTS, ["http://127.0.0.1:9/services/s3cr3t"])
    assert "s3cr3t" not in str(refused.value) + refused.value.where


def test_by_mail(log: Log, post: tuple[int, list[str]]) -> None:
    port, letters = post
    assert alerts.tell(log, "m", RINGS, FACTS, [f"smtp://127.0.0.1:{port}/me@example.org"])
    [letter] = letters
    assert "To: me@example.org" in letter
    assert "Label 100 of them" in letter
    with pytest.raises(NetworkError, match="no TLS"):
        alerts.tell(log, "m2", RINGS, FACTS, [f"smtp://ann:hush@127.0.0.1:{port}/me@example.org"])
    assert len(letters) == 1


def test_no_place(log: Log) -> None:
    with pytest.raises(UserError, match="no place"):
        alerts.tell(log, "m", RINGS, FACTS, ["carrier-pigeon://me"])
