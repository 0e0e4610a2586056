"""A real server in a thread, with limits that a test can reach."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from inflame.web import server
from inflame.web.served import Served
from inflame.web.settings import Settings
from inflame.web.trials import Plan


@pytest.fixture(scope="session")
def begun(fruit_bundle: Path) -> Iterator[Callable[[Settings], dict[str, Served]]]:
    """The fruit, loaded while the test before ran: most tests need no more of a process than that it is there."""
    usual = Settings()
    waiting = [Served("fruit", fruit_bundle, usual)]

    def take(settings: Settings) -> dict[str, Served]:
        if any(
            getattr(settings, name) != getattr(usual, name) for name in ("pixels", "workers", "deadline", "read_time")
        ):
            return {}
        found = waiting.pop()
        waiting.append(Served("fruit", fruit_bundle, usual))
        found.settings = settings
        return {"fruit": found}

    yield take
    waiting.pop().close()


@pytest.fixture
def serve(fruit_bundle: Path, begun: Callable[[Settings], dict[str, Served]]) -> Iterator[Callable[..., httpx.Client]]:
    """Starts a site of the fruit (or of `folders`) with these settings; a client of it. `client.app` is the site."""
    ends: list[Callable[[], None]] = []

    def start(folders: dict[str, Path] | None = None, *, plan: Plan | None = None, **given: Any) -> httpx.Client:
        settings = Settings(port=0, **given)
        socket = server.listen(settings)
        port = socket.getsockname()[1]
        settings = dataclasses.replace(settings, port=port)
        made = server.server(folders or {"fruit": fruit_bundle}, settings, {} if folders else begun(settings), plan)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        client.app = made.config.app  # type: ignore[attr-defined]
        client.server = made  # type: ignore[attr-defined]

        def end() -> None:
            client.close()
            made.should_exit = True
            thread.join(15)
            assert not thread.is_alive()
            socket.close()

        ends.append(end)
        while not made.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return client

    yield start
    for end in ends:
        end()


@pytest.fixture
def apple(photo_set: Path) -> bytes:
    return (photo_set / "apple" / "apple_10.jpg").read_bytes()
