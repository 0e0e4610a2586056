"""How the website and the processes of its models speak: a header in JSON, and bytes behind it, over a socket.

Never a pickle: whoever takes over a process by a crafted picture must not get at the website by what it says.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, final

_HEAD = struct.Struct("<I")
_JSON = 64 * 2**20  # more than any header has
_BYTES = 2**31
_READ = 16 * 2**10  # bytes at once: an answer comes in one piece, for each further one all threads wait for their turn
_MOST = 2**20  # and at once of a large one

Said = tuple[dict[str, Any], list[bytes]]


@final
class Link:
    """One end of a socket. Any thread may `send`; one at a time `receive`s."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._lock = end, threading.Lock()
        self._came = bytearray()  # and not yet told

    def send(self, told: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Sends what is told, and bytes with it. Raises OSError when nobody is at the other end."""
        head = json.dumps({**told, "sizes": [len(one) for one in blobs]}).encode()
        with self._lock:
            self._end.sendall(b"".join((_HEAD.pack(len(head)), head, *blobs)))

    def receive(self, within: float | None = None) -> Said | None:
        """What the other end says next; None when it has gone. Raises TimeoutError after `within` seconds, and
        ValueError for what isn't said in this way."""
        self._end.settimeout(within)
        try:
            size = self._exactly(_HEAD.size)
            if size is None:
                return None
            head = self._exactly(_within(_HEAD.unpack(size)[0], _JSON))
            told = json.loads(head or b"")
            sizes = told.pop("sizes")
            _within(sum(sizes), _BYTES)
            blobs = [self._exactly(_within(one, _BYTES)) for one in sizes]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("no header") from error
        except ConnectionError:
            return None
        return None if None in blobs else (told, [one for one in blobs if one is not None])

    def hang_up(self) -> None:
        """Ends it for both: a `receive` that waits returns None."""
        with suppress(OSError):  # it has ended already
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the socket back. Nobody may wait on it."""
        self._end.close()

    def _exactly(self, size: int) -> bytes | None:
        while (lacking := size - len(self._came)) > 0:
            got = self._end.recv(min(max(lacking, _READ), _MOST))
            if not got:
                return None
            self._came += got
        content = bytes(memoryview(self._came)[:size])
        del self._came[:size]
        return content


def _within(size: int, most: int) -> int:
    if not 0 <= size <= most:
        raise ValueError(f"{size} bytes")
    return size
