"""The website of a run beside this process: `inflame serve`, on a port of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self, final
from urllib.parse import urlsplit

from markupsafe import Markup

from inflame.errors import RunError

MOMENT = 0.05  # seconds between two looks whether it is there
PATIENCE = 15.0  # seconds for what was accepted to be answered


@final
class Site:
    """A website that answers until `stop()`, until its `with` is left, or until this process ends."""

    def __init__(self, run: Path, port: int) -> None:
        words = [sys.executable, "-m", "inflame", "serve", str(run), "--port", str(port), "--json"]
        self._child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        try:
            self.address: str = json.loads(line)["address"]
        except (ValueError, KeyError):
            self.stop()
            raise _failed(line) from None
        while self._child.poll() is None and not _answers(self.address):
            time.sleep(MOMENT)

    def stop(self) -> None:
        """Ends it; what was accepted is still answered."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __del__(self) -> None:
        if getattr(self, "_child", None) is not None:
            self.stop()

    def __repr__(self) -> str:
        return f"{self.address} ({'open' if self._child.poll() is None else 'stopped'})"

    def _repr_html_(self) -> str:
        return Markup('<a href="{0}" target="_blank">{0}</a>').format(self.address)


def _answers(address: str) -> bool:
    """Whether somebody listens there."""
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname or "", place.port or 80), timeout=1).close()
    except OSError:
        return False
    return True


def _failed(line: str) -> RunError:
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        said = {}
    message = str(said.get("error") or "The website could not be started.")
    return RunError(message, remedy=str(said.get("remedy") or "inflame serve says why"))
