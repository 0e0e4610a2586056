"""How many pictures a second the website answers, and how long one takes: against an offline loop over the same files,
a plain FastAPI application, and LitServe where it is installed in .peers/litserve.

    python -m benchmarks.serving BUNDLE PHOTOS [--seconds 8] [--rounds 2]

All get the same requests: one JPEG of about 60 kB in a form, over kept connections from 1, 16 or 32 clients on the same
machine. Rounds alternate, so that a machine that is busy otherwise is so for all. BUNDLE is one of pictures.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from inflame import host

print = functools.partial(print, flush=True)
HERE = Path(__file__).parents[1]
LITSERVE = HERE / ".peers" / "litserve" / "bin" / "python"
SIZE, WANTED = (640, 480), 60_000

_PLAIN = """
import sys, uvicorn
from fastapi import FastAPI, UploadFile
from inflame.model.engine.bundle import Predictor
predictor, app = Predictor(sys.argv[1]), FastAPI()
@app.post("/predict")
def predict(file: UploadFile):
    answer = predictor.predict([file.file.read()])[0]
    return {"label": answer.label, "probability": answer.probability}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""
_LITSERVE = """
import sys, litserve
from fastapi import Request, UploadFile
from inflame.model.engine.bundle import Predictor
class Api(litserve.LitAPI):
    def setup(self, device): self.predictor = Predictor(sys.argv[1])
    def decode_request(self, request): return request["file"].file.read()
    def predict(self, contents): return self.predictor.predict(contents)
    def encode_response(self, answer): return {"label": answer.label, "probability": answer.probability}
if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error")
"""


def photos(folder: Path, count: int = 64) -> list[bytes]:
    """So many JPEGs of about 60 kB, made of the photos of a folder."""
    found = []
    for path in sorted(folder.rglob("*.jp*g"))[:count]:
        image = Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
        sizes = []
        for quality in range(50, 100, 3):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            sizes.append(file.getvalue())
        found.append(min(sizes, key=lambda content: abs(len(content) - WANTED)))
    return found


@contextmanager
def server(kind: str, bundle: Path) -> Iterator[tuple[int, str, int]]:
    """Port, path and process id of a server that answers."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = link.getsockname()[1]
    path = "/v1/classify" if kind == "inflame" else "/predict"
    inflame = [sys.executable, "-m", "inflame", "serve", str(bundle), "--port", str(port), "--json"]
    command = {
        "inflame": inflame,
        "plain FastAPI": [sys.executable, "-c", _PLAIN, str(bundle), str(port)],
        "LitServe": [str(LITSERVE), _script(), str(bundle), str(port)],
    }[kind]
    paths = [str(HERE / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port, path, process.pid
    finally:
        os.killpg(process.pid, 15)  # its own group: what it has started goes with it
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _script() -> str:
    place = HERE / ".peers" / "litserve" / "app.py"
    place.write_text(_LITSERVE)
    return str(place)


def load(port: int, path: str, files: list[bytes], clients: int, seconds: float) -> tuple[float, float, float, int]:
    """Requests a second, median and 99th percentile in milliseconds, and how many failed."""
    requests = [_request(port, path, content) for content in files]
    taken: list[float] = []
    failed = [0]
    end = time.monotonic() + seconds

    def ask(first: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as link:
            file, turn = link.makefile("rb"), first
            while time.monotonic() < end:
                began = time.perf_counter()
                link.sendall(requests[turn % len(requests)])
                if _status(file) != 200:
                    failed[0] += 1
                else:
                    taken.append(time.perf_counter() - began)
                turn += clients

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    rate = len(taken) / (time.monotonic() - began)
    return rate, 1000 * statistics.median(taken), 1000 * taken[int(0.99 * (len(taken) - 1))], failed[0]


def _request(port: int, path: str, content: bytes) -> bytes:
    edge = "xxxxboundaryxxxx"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    return ("\r\n".join([*lines, f"Content-Type: multipart/form-data; boundary={edge}"]) + "\r\n\r\n").encode() + body


def _status(file: io.BufferedReader) -> int:
    status, length = int(file.readline().split()[1]), 0
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    file.read(length)
    return status


def offline(bundle: Path, files: list[bytes], seconds: float) -> tuple[float, float]:
    """Pictures a second in batches of 32, and the milliseconds of one alone."""
    from inflame.model.engine.bundle import Predictor

    predictor = Predictor(bundle)
    predictor.predict(files[:32])
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        predictor.predict(files[:32])
        count += len(files[:32])
    rate = count / (time.monotonic() - began)
    alone = []
    for content in files * 3:
        start = time.perf_counter()
        predictor.predict([content])
        alone.append(time.perf_counter() - start)
    return rate, 1000 * statistics.median(alone)


def memory(pid: int) -> float:
    """Megabytes of a process and all that it has started; what they share counts once."""
    total = 0
    for one in host.tree(pid):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("bundle", type=Path)
    words.add_argument("photos", type=Path)
    words.add_argument("--seconds", type=float, default=8.0)
    words.add_argument("--rounds", type=int, default=2)
    given = words.parse_args()
    files = photos(given.photos)
    print(f"{len(files)} JPEGs of {sum(map(len, files)) / len(files) / 1000:.0f} kB, {os.cpu_count()} cores\n")
    kinds = ["inflame", "plain FastAPI", *(["LitServe"] if LITSERVE.exists() else [])]
    found: dict[str, dict[int, list[tuple[float, float, float, int]]]] = {kind: {} for kind in kinds}
    loops = []
    for _ in range(given.rounds):
        loops.append(offline(given.bundle, files, given.seconds))
        for kind in kinds:
            began = time.monotonic()
            with server(kind, given.bundle) as (port, path, pid):
                load(port, path, files, 1, 0.2)
                if kind == "inflame":
                    print(
                        f"inflame: first answer {time.monotonic() - began:.1f} s after its start, {memory(pid):.0f} MB"
                    )
                for clients in (1, 16, 32):
                    found[kind].setdefault(clients, []).append(load(port, path, files, clients, given.seconds))
                if kind == "inflame":
                    print(f"inflame: {memory(pid):.0f} MB after the load")
    print("\n| | clients | requests/s | p50 ms | p99 ms | failed |\n|---|---|---|---|---|---|")
    rate, alone = (statistics.mean(values) for values in zip(*loops, strict=True))
    print(f"| offline loop, batches of 32 (one alone) | - | {rate:.0f} | {alone:.1f} | | |")
    for kind, results in found.items():
        for clients, rounds in results.items():
            means = [statistics.mean(values) for values in zip(*rounds, strict=True)]
            print(f"| {kind} | {clients} | {means[0]:.0f} | {means[1]:.1f} | {means[2]:.1f} | {means[3]:.0f} |")
    print("\n" + json.dumps({"offline": loops, "served": found}))


if __name__ == "__main__":
    main()
