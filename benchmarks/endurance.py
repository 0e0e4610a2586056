"""What the website bears: more than it can answer, new versions, killed processes, clients that never end, and time.

    python -m benchmarks.endurance overload BUNDLE PHOTOS --minutes 10
    python -m benchmarks.endurance swaps BUNDLE PHOTOS --count 500
    python -m benchmarks.endurance kills BUNDLE PHOTOS --count 100
    python -m benchmarks.endurance slow BUNDLE PHOTOS
    python -m benchmarks.endurance many BUNDLE PHOTOS --count 100000

Each starts `inflame serve` and is its clients, on the same cores; what was found is the last line, as JSON.
`many` of a small net (digits: a folder with a few of them as JPEG) counts more requests in the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from benchmarks.serving import memory, photos, request, server, warm

from inflame import host

PATH = "/v1/classify"


@final
@dataclass(slots=True)
class Heard:
    """What clients heard: how often each status (0: nothing), and the seconds of each good answer."""

    codes: Counter[int] = field(default_factory=Counter)
    taken: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """In milliseconds."""
        found = {"answers": {str(code): count for code, count in sorted(self.codes.items())}}
        return {**found, "p50": quantile(self.taken, 0.5), "p99": quantile(self.taken, 0.99)}


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds; 0 of none."""
    return round(1000 * sorted(seconds)[int(share * (len(seconds) - 1))], 1) if seconds else 0.0


@final
class Client:
    """One client with a connection that it keeps while the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes, within: float = 30.0) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the connection ends without one."""
        try:
            async with asyncio.timeout(within):
                if self._link is None:
                    self._link = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._link
                writer.write(content)
                await writer.drain()
                return await self._heard(reader)
        except (OSError, asyncio.IncompleteReadError, IndexError, ValueError):
            self.close()
            return 0, b""

    async def _heard(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        code, length, closes = int((await reader.readline()).split()[1]), 0, False
        while line := (await reader.readline()).strip().lower():
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
            closes |= line == b"connection: close"
        body = await reader.readexactly(length)
        if closes:
            self.close()
        return code, body

    def close(self) -> None:
        """Goes, whatever is being answered."""
        if self._link is not None:
            self._link[1].transport.abort()
            self._link = None


@asynccontextmanager
async def asking(port: int, contents: list[bytes], clients: int, period: float, heard: Heard) -> AsyncIterator[None]:
    """Clients that ask, each once in `period` seconds (0: again at once), until the block ends; then they go."""

    async def one(number: int) -> None:
        client, turn = Client(port), number
        due = time.monotonic() + period * number / clients
        try:
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + period, time.monotonic() - period)
                began = time.perf_counter()
                code, _ = await client.ask(contents[turn % len(contents)])
                heard.codes[code] += 1
                if code == 200:
                    heard.taken.append(time.perf_counter() - began)
                turn += clients
        finally:
            client.close()

    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def batches(port: int) -> tuple[float, float]:
    """The seconds that all batches took, and how many there were."""
    _, page = await Client(port).ask(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    told = dict(line.split() for line in page.decode().splitlines() if line.startswith("inflame_batch_seconds_"))
    return float(told["inflame_batch_seconds_sum"]), float(told["inflame_batch_seconds_count"])


async def overload(port: int, pid: int, files: list[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """Three times what it can answer."""
    contents = [request(port, PATH, content) for content in files]
    alone, full, over = Heard(), Heard(), Heard()
    async with asking(port, contents, 1, 0.0, alone):
        await asyncio.sleep(given.rest)
    async with asking(port, contents, 16, 0.0, full):
        await asyncio.sleep(given.rest)
    capacity, before = len(full.taken) / given.rest, memory(pid)
    print(f"{capacity:.0f} requests/s by 16 clients, {before:.0f} MB")
    clients, ran = 256, await batches(port)
    async with asking(port, contents, clients, clients / (3 * capacity), over):
        for _ in range(6):
            await asyncio.sleep(10 * given.minutes)
            print(f"{sum(over.codes.values())} asked, {dict(over.codes)}, {memory(pid):.0f} MB")
    began = time.perf_counter()
    code, _ = await Client(port).ask(contents[0])
    taken, now = time.perf_counter() - began, await batches(port)
    return {
        "capacity": round(capacity, 1),
        "offered": round(sum(over.codes.values()) / (60 * given.minutes), 1),
        "alone": alone.told(),
        "full": full.told(),
        "over": over.told(),
        "batch": round(1000 * (now[0] - ran[0]) / (now[1] - ran[1]), 1),
        "next": {"status": code, "ms": round(1000 * taken, 1)},
        "MB": [round(before), round(memory(pid))],
    }


async def swaps(port: int, pid: int, files: list[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """New bundles at the place of the old one while clients ask; each fifth is taken back. Every second bundle names
    the classes the other way round: so an answer that is mixed of two can be told."""
    from inflame.model.engine.bundle import amend

    folder, content = given.bundle, request(port, PATH, files[0])
    classes = json.loads((folder / "classes.json").read_bytes())
    orders: dict[str, int] = {json.loads((folder / "bundle.json").read_bytes())["version"][:12]: 0}
    labels: dict[str, set[str]] = {}
    heard, mixed, before = Heard(), 0, memory(pid)
    stop = asyncio.Event()

    async def ask() -> None:
        client = Client(port)
        while not stop.is_set():
            code, body = await client.ask(content)
            heard.codes[code] += 1
            for one in json.loads(body)["results"] if code == 200 else ():
                labels.setdefault(one["version"], set()).add(one["label"])
        client.close()

    async def current() -> str:
        _, body = await Client(port).ask(f"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return str(next(iter(json.loads(body)["models"].values())))

    tasks, back = [asyncio.create_task(ask()) for _ in range(2)], 0
    for number in range(1, given.count + 1):
        order = classes[:: -1 if number % 2 else 1]
        changed = {"card.md": f"# {number}\n".encode(), "classes.json": json.dumps(order).encode()}
        await asyncio.to_thread(amend, folder, changed)
        version = json.loads((folder / "bundle.json").read_bytes())["version"][:12]
        orders[version] = number % 2
        while await current() != version:
            await asyncio.sleep(0.05)
        if number % 5 == 0:
            name = json.loads((folder / "bundle.json").read_bytes())["dataset"]["name"]
            head = f"POST /v1/models/{name}/rollback HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n"
            back += (await Client(port).ask(head.encode()))[0] == 200
        if number % 20 == 0:
            print(f"{number} versions, {back} taken back, {dict(heard.codes)}, {memory(pid):.0f} MB")
    stop.set()
    await asyncio.gather(*tasks)
    by_order = [
        set[str]().union(*(found for version, found in labels.items() if orders.get(version) == k)) for k in (0, 1)
    ]
    mixed = sum(len(found) > 1 for found in [*labels.values(), *by_order])
    strange = len(set(labels) - set(orders))
    return {
        "swaps": given.count,
        "rollbacks": back,
        "answers": heard.told()["answers"],
        "versions seen": len(labels),
        "mixed": mixed + strange,
        "MB": [round(before), round(memory(pid))],
    }


async def kills(port: int, pid: int, files: list[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL to the process of the model while clients ask."""
    contents = [request(port, PATH, content) for content in files]
    ready = f"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    heard, red, green = Heard(), [], []
    client = Client(port)

    async def until(wanted: int) -> float:
        began = time.monotonic()
        while (await client.ask(ready))[0] != wanted:
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    async with asking(port, contents, 4, 0.0, heard):
        for number in range(given.count):
            await asyncio.sleep(random.uniform(0.05, 0.4))
            os.kill(next(one for one in host.tree(pid) if one != pid), signal.SIGKILL)
            red.append(await until(503))
            green.append(red[-1] + await until(200))
            if number % 10 == 9:
                print(f"{number + 1} kills, {dict(heard.codes)}")
        await asyncio.sleep(1)
    return {
        "kills": given.count,
        **heard.told(),
        "slowest s": round(max(heard.taken), 2),
        "red s": [round(statistics.median(red), 3), round(max(red), 3)],
        "green s": [round(statistics.median(green), 2), round(max(green), 2)],
    }


async def slow(port: int, pid: int, files: list[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """2,000 heads and 200 bodies that come a byte a second."""
    contents, heard, during, after = [request(port, PATH, content) for content in files], Heard(), Heard(), Heard()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    body = "Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    async with asking(port, contents, 1, 0.0, heard):
        await asyncio.sleep(given.rest)
    before, lived = descriptors(pid), []

    async def drip(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write((head + (body if number % 11 == 0 else "X-Slow: ")).encode())
        with suppress(OSError):
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b"x")
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(4096)
        lived.append(time.monotonic() - began)
        writer.transport.abort()

    async with asking(port, contents, 1, 0.0, during):
        await asyncio.gather(*(drip(number) for number in range(2200)))
    async with asking(port, contents, 1, 0.0, after):
        await asyncio.sleep(given.rest)
    return {
        "before": heard.told(),
        "meanwhile": during.told(),
        "after": after.told(),
        "closed after s": [round(min(lived), 1), round(max(lived), 1)],
        "descriptors": [before, descriptors(pid)],
    }


async def many(port: int, pid: int, files: list[bytes], given: argparse.Namespace) -> dict[str, Any]:
    """As many requests as are wanted, by 16 clients."""
    contents, heard, rows = [request(port, PATH, content) for content in files], Heard(), list[list[float]]()
    async with asking(port, contents, 16, 0.0, heard):
        while (count := sum(heard.codes.values())) < given.count:
            if count >= len(rows) * given.count / 20:
                rows.append([count, round(memory(pid), 1), descriptors(pid), threads(pid), temporary()])
                print(dict(zip(("requests", "MB", "descriptors", "threads", "temporary files"), rows[-1], strict=True)))
            await asyncio.sleep(0.05)
    later = rows[len(rows) // 4 :]  # what is remembered of late answers fills up first
    slope = statistics.linear_regression([row[0] for row in later], [row[1] for row in later]).slope
    return {**heard.told(), "MB in 10,000": round(10_000 * slope, 2), "first": rows[0], "last": rows[-1]}


def descriptors(pid: int) -> int:
    """Open files of a process and all below it."""
    return sum(_entries(Path(f"/proc/{one}/fd")) for one in host.tree(pid))


def threads(pid: int) -> int:
    """Threads of a process and all below it."""
    return sum(_entries(Path(f"/proc/{one}/task")) for one in host.tree(pid))


def _entries(folder: Path) -> int:
    with suppress(OSError):
        return sum(1 for _ in folder.iterdir())
    return 0  # it has ended


def temporary() -> int:
    """Files in the folder for temporary ones, which is the server's own here."""
    return sum(1 for _ in Path(tempfile.gettempdir()).rglob("*"))


@contextmanager
def apart(bundle: Path) -> Iterator[Path]:
    """A copy of the bundle, and a home and a folder for temporary files that only this server has."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(bundle, Path(place) / "bundle"))
        Path(place, "tmp").mkdir()
        os.environ |= {"INFLAME_HOME": f"{place}/home", "TMPDIR": f"{place}/tmp"}
        tempfile.tempdir = None
        yield folder


ACTS: dict[str, Callable[..., Any]] = {one.__name__: one for one in (overload, swaps, kills, slow, many)}


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("act", choices=ACTS)
    words.add_argument("bundle", type=Path)
    words.add_argument("photos", type=Path)
    words.add_argument("--minutes", type=float, default=10.0)
    words.add_argument("--count", type=int, default=100)
    words.add_argument("--rest", type=float, default=10.0, help="seconds of usual load before and after")
    given = words.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limit[1]), limit[1]))
    files = photos(given.photos, 16)
    with apart(given.bundle) as given.bundle, server("inflame", given.bundle) as (port, _, pid):
        warm(port, PATH, files[0])
        found = asyncio.run(ACTS[given.act](port, pid, files, given))
        alive = host.tree(pid)
    left = [one for one in alive if Path(f"/proc/{one}").exists()]
    print(json.dumps({**found, "left behind": len(left)}))
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
