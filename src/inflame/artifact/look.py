"""`inflame look`: a page on this machine to look through a data set, and to decide about items without touching files.

A server of the standard library, on the loopback only. A token that the address carries becomes a cookie; requests from
other sites are refused (Host and Origin), and items are named by number, so no path ever comes from outside.
"""

from __future__ import annotations

import hmac
import io
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from inflame.artifact import overlay, packed, preprocess, texts
from inflame.artifact.contents import Contents
from inflame.artifact.examining import Examined
from inflame.errors import InflameError, StorageError
from inflame.records import Preprocess

PAGE = Path(__file__).parent / "pages" / "look.html"

_MOST = 500  # items of one answer
_NEAR = 12
_BODY = 1 << 16  # bytes of a request
_COOKIE = "inflame_look"


class Collection:
    """A data set to look through: items by number, their faults, neighbours and what was decided about them."""

    def __init__(self, examined: Examined) -> None:
        self.dataset = examined.dataset
        self.uris, self.labels, self.splits, self.hashes = (
            self.dataset.items[name].to_pylist() for name in ("uri", "label", "split", "sha256")
        )
        self.faults: dict[str, list[dict[str, str]]] = defaultdict(list)
        for fault in examined.check.faults:
            for item in fault.items:
                self.faults[item].append({"kind": fault.kind, "reason": fault.reason})
        rows = examined.features.astype(np.float32)
        self._features = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        self._source = Contents(self.dataset.root)
        self._lock = threading.Lock()
        self._decided = overlay.load(self.dataset.root)
        self._before: list[overlay.Overlay] = []

    def about(self) -> dict[str, Any]:
        """What the page needs to begin."""
        kinds = sorted({fault["kind"] for found in self.faults.values() for fault in found})
        classes = sorted({*self.dataset.classes, *self._decided.moved.values()})
        return {
            "name": self.dataset.name,
            "kind": self.dataset.kind,
            "items": len(self.uris),
            "classes": classes,
            "splits": sorted({split for split in self.splits if split}),
            "faults": kinds,
            **self._counts(),
        }

    def find(self, wanted: dict[str, str], start: int, count: int) -> dict[str, Any]:
        """The items that pass the filters class, split, fault and name (part of the uri), from `start` on."""
        found = [row for row in range(len(self.uris)) if self._passes(row, wanted)]
        part = found[start : start + min(count, _MOST)]
        return {"total": len(found), "items": [self.item(row) for row in part]}

    def item(self, row: int) -> dict[str, Any]:
        """One item in short."""
        uri = self.uris[row]
        about = {
            "row": row,
            "uri": uri,
            "label": self._decided.moved.get(uri, self.labels[row]),
            "was": self.labels[row],
            "split": self.splits[row],
            "excluded": self._decided.excluded.get(uri, ""),
            "faults": self.faults.get(uri, []),
        }
        if self.dataset.kind == "text":
            about["text"] = " ".join(self.body(row).split())[:240]
        return about

    def detail(self, row: int) -> dict[str, Any]:
        """One item with its neighbours, nearest first, and what its file says."""
        likeness = self._features @ self._features[row]
        likeness[row] = -2
        near = [int(other) for other in np.argsort(-likeness)[:_NEAR] if likeness[other] > 0]
        about = {**self.item(row), "sha256": self.hashes[row], "near": [self.item(other) for other in near]}
        if self.dataset.kind == "text":
            return {**about, "body": self.body(row)[:20_000]}
        try:
            if not packed.is_packed(self.dataset):
                head = preprocess.header(self._source.read(self.uris[row]))
                about |= {"size": f"{head.width} x {head.height}", "format": f"{head.format} {head.mode}"}
        except InflameError as error:
            about["unreadable"] = error.message
        return about

    def picture(self, row: int, side: int) -> bytes:
        """The picture as a JPEG (PNG for tiny ones): a square of `side`, or whole with at most 1,600 pixels a side (0).
        Raises what decoding raises."""
        if packed.is_packed(self.dataset):
            array = packed.images(self.dataset)[int(self.uris[row].rpartition("#")[2])]
            image = Image.fromarray(np.ascontiguousarray(array).squeeze())
            return _encoded(image.resize((max(side, 256),) * 2, Image.Resampling.NEAREST), "PNG")
        data = self._source.read(self.uris[row])
        if side:
            return _encoded(Image.fromarray(preprocess.canvas(data, Preprocess(size=side, resize=side))), "JPEG")
        whole = preprocess.picture(data)
        whole.thumbnail((1600, 1600))
        return _encoded(whole, "JPEG")

    def body(self, row: int) -> str:
        """The text of an item; empty when it can't be read."""
        try:
            return texts.decode(self._source.read(self.uris[row]))[0]
        except (InflameError, OSError):
            return ""

    def move(self, row: int, label: str) -> dict[str, Any]:
        """Gives an item another class, from now on; its own takes the decision back."""
        moved = {key: value for key, value in self._decided.moved.items() if key != self.uris[row]}
        if label != self.labels[row]:
            moved[self.uris[row]] = label
        return self._keep(overlay.Overlay(excluded=self._decided.excluded, moved=moved), row)

    def exclude(self, row: int, why: str) -> dict[str, Any]:
        """Leaves an item out from now on; an empty reason takes it back."""
        out = {key: value for key, value in self._decided.excluded.items() if key != self.uris[row]}
        if why:
            out[self.uris[row]] = why
        return self._keep(overlay.Overlay(excluded=out, moved=self._decided.moved), row)

    def undo(self) -> dict[str, Any]:
        """Takes the last decision back."""
        with self._lock:
            if self._before:
                self._decided = self._before.pop()
                overlay.save(self.dataset.root, self._decided)
        return self._counts()

    def _keep(self, decided: overlay.Overlay, row: int) -> dict[str, Any]:
        with self._lock:
            overlay.save(self.dataset.root, decided)
            self._before.append(self._decided)
            self._decided = decided
        return {**self._counts(), "item": self.item(row)}

    def _counts(self) -> dict[str, int]:
        return {"moved": len(self._decided.moved), "excluded": len(self._decided.excluded), "undo": len(self._before)}

    def _passes(self, row: int, wanted: dict[str, str]) -> bool:
        uri = self.uris[row]
        label, kinds = wanted.get("class", ""), {fault["kind"] for fault in self.faults.get(uri, ())}
        if uri in self._decided.moved or uri in self._decided.excluded:
            kinds = kinds | {"decided"}
        return (
            (not label or self._decided.moved.get(uri, self.labels[row]) == label)
            and (not wanted.get("split") or self.splits[row] == wanted["split"])
            and (not wanted.get("fault") or wanted["fault"] in kinds)
            and wanted.get("name", "").casefold() in uri.casefold()
        )


def server(collection: Collection, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server on 127.0.0.1 (port 0: any free one) and the address to open. `serve_forever` runs it. A port that is
    taken: StorageError."""
    token = secrets.token_urlsafe(18)
    try:
        made = ThreadingHTTPServer(("127.0.0.1", port), _handler(collection, token))
    except OSError as error:
        raise StorageError(
            f"Port {port} can't be used: {error.strerror}.",
            where=f"127.0.0.1:{port}",
            remedy="Give another: --port 8123",
        ) from error
    made.daemon_threads = True
    return made, f"http://127.0.0.1:{made.server_address[1]}/?t={token}"


def _handler(collection: Collection, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.collection, Handler.token = collection, token
    return Handler


class _Handler(BaseHTTPRequestHandler):
    """Answers one request. `collection` and `token` are set by `_handler`."""

    collection: Collection
    token: str
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page, a picture, or JSON."""
        where = urlsplit(self.path)
        words = {name: values[-1] for name, values in parse_qs(where.query).items()}
        if not self._local():
            return
        if where.path == "/" and hmac.compare_digest(words.get("t", ""), self.token):
            self._send(PAGE.read_bytes(), "text/html; charset=utf-8", cookie=True)
        elif self._allowed():
            self._answer(where.path, words)

    def do_POST(self) -> None:
        """A decision."""
        if not (self._local() and self._allowed()):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _BODY or self.headers.get("Content-Type") != "application/json":
            self._refuse(HTTPStatus.BAD_REQUEST, "JSON is wanted")
            return
        try:
            asked = json.loads(self.rfile.read(int(length)))
            known: dict[str, Callable[[], Any]] = {
                "/api/move": lambda: self.collection.move(self._row(asked["row"]), str(asked["label"]).strip()[:200]),
                "/api/exclude": lambda: self.collection.exclude(self._row(asked["row"]), str(asked["why"])[:200]),
                "/api/undo": self.collection.undo,
            }
            if self.path == "/api/move" and not str(asked["label"]).strip():
                raise ValueError("a class has a name")
            self._json(known[self.path]())
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"not understood: {error}")
        except InflameError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, error.explain())

    def _answer(self, path: str, words: dict[str, str]) -> None:
        try:
            kind, _, last = path.removeprefix("/").rpartition("/")
            if path == "/api/about":
                self._json(self.collection.about())
            elif path == "/api/items":
                start, count = int(words.get("start", 0)), int(words.get("count", 100))
                self._json(self.collection.find(words, max(start, 0), max(count, 0)))
            elif kind == "api/item":
                self._json(self.collection.detail(self._row(last)))
            elif kind in ("thumb", "whole"):
                content = self.collection.picture(self._row(last), 160 if kind == "thumb" else 0)
                self._send(content, "image/png" if content[:1] == b"\x89" else "image/jpeg", keep=True)
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
        except (ValueError, IndexError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"not understood: {error}")
        except (InflameError, OSError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _row(self, word: Any) -> int:
        row = int(word)
        if not 0 <= row < len(self.collection.uris):
            raise IndexError(f"there is no item {row}")
        return row

    def _local(self) -> bool:
        """Whether the request comes from a page of this server: no other name for it, no other origin."""
        port = self.server.server_address[1]  # type: ignore[index]
        own = {f"127.0.0.1:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in own or (origin and urlsplit(origin).netloc not in own):
            self._refuse(HTTPStatus.FORBIDDEN, "from another place")
            return False
        return True

    def _allowed(self) -> bool:
        cookies = dict(part.strip().partition("=")[::2] for part in self.headers.get("Cookie", "").split(";"))
        if hmac.compare_digest(cookies.get(_COOKIE, ""), self.token):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "open the address that inflame look printed")
        return False

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True
        self._send(json.dumps({"error": why}).encode(), "application/json", status=status)

    def _send(
        self,
        content: bytes,
        kind: str,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        cookie: bool = False,
        keep: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "private, max-age=3600" if keep else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        policy = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'"
        self.send_header("Content-Security-Policy", f"{policy}; script-src 'unsafe-inline'; frame-ancestors 'none'")
        if cookie:
            self.send_header("Set-Cookie", f"{_COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: the address has the token in it."""


def _encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 85} if form == "JPEG" else {}))
    return file.getvalue()
