"""Logs that are closed when their test ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes every log that a test opens."""
    from inflame.monitor import log

    opened, connect = [], log.connect

    def remembered(uri: str, patience: float) -> object:
        opened.append(connect(uri, patience))
        return opened[-1]

    monkeypatch.setattr(log, "connect", remembered)
    yield
    for database in opened:
        database.close()
