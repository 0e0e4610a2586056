"""How many pictures a second the website answers, and how long one takes: against an offline loop over the same files,
plain FastAPI applications, and LitServe, BentoML and Ray Serve where they are installed in .peers/litserve,
.peers/bentoml and .peers/ray.

    python -m benchmarks.serving BUNDLE PHOTOS [--seconds 2] [--rounds 6] [--runtime onnxruntime]

All get the same requests: one JPEG of about 60 kB in a form, over kept connections from 1, 16 or 32 clients on the same
machine. All run all the time and are asked in turn, a few seconds each and in both orders, so that a machine that is
busy otherwise is so for all; the processor time of a request says more than its rate then. BUNDLE is one of pictures.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import final

from PIL import Image

from inflame import host

print = functools.partial(print, flush=True)
HERE = Path(__file__).parents[1]
SIZE, WANTED = (640, 480), 60_000

_FASTAPI = """
import sys, uvicorn
from fastapi import FastAPI, UploadFile
from benchmarks.serving_hand import ENGINES
engine, app = ENGINES[sys.argv[3]](sys.argv[1]), FastAPI()
@app.post("/predict")
def predict(file: UploadFile):
    return engine([file.file.read()])[0]
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""
_LITSERVE = """
import sys, litserve
from benchmarks.serving_hand import ENGINES
class Api(litserve.LitAPI):
    def setup(self, device): self.engine = ENGINES[sys.argv[3]](sys.argv[1])
    def decode_request(self, request): return request["file"].file.read()
    def predict(self, contents): return self.engine(contents)
    def encode_response(self, answer): return answer
if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=32, batch_timeout=0.005), accelerator="cpu")
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="error")
"""
_BENTOML = """
import os, sys, tempfile
from pathlib import Path
if __name__ == "__main__":
    os.environ |= {"BUNDLE": sys.argv[1], "ENGINE": sys.argv[3], "BENTOML_DO_NOT_TRACK": "1"}
    os.environ["BENTOML_HOME"] = tempfile.mkdtemp(prefix="inflame-bentoml-")
    here = Path(__file__)
    words = ["serve", f"{here.stem}:Site", "--working-dir", str(here.parent), "--port", sys.argv[2]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *words])
import bentoml
from benchmarks.serving_hand import ENGINES
@bentoml.service(workers=int(os.environ.get("BENTOML_WORKERS", "1")), logging={"access": {"enabled": False}})
class Site:
    def __init__(self): self.engine = ENGINES[os.environ["ENGINE"]](os.environ["BUNDLE"])
    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def predict(self, file: list[Path]) -> list[dict]:
        return self.engine([one.read_bytes() for one in file])
"""
_RAY = """
import sys, time, ray
from fastapi import FastAPI, UploadFile
from ray import serve
from benchmarks.serving_hand import ENGINES
app = FastAPI()
@serve.deployment(num_replicas=2, max_ongoing_requests=32, ray_actor_options={"num_cpus": 1})
@serve.ingress(app)
class Site:
    def __init__(self, bundle, kind): self.engine = ENGINES[kind](bundle)
    @app.post("/predict")
    async def predict(self, file: UploadFile): return self.engine([await file.read()])[0]
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[2])})
serve.run(Site.bind(sys.argv[1], sys.argv[3]))
time.sleep(10_000)
"""


def _python(package: str, folder: str) -> Path:
    """The one that has the package: ours, or that of the peer's own folder."""
    return Path(sys.executable) if find_spec(package) else HERE / ".peers" / folder / "bin" / "python"


# name: where its Python is, its program, and what answers in it
PEERS = {
    "FastAPI by hand": (Path(sys.executable), _FASTAPI, "hand"),
    "FastAPI with our predictor": (Path(sys.executable), _FASTAPI, "predictor"),
    "LitServe": (_python("litserve", "litserve"), _LITSERVE, "hand"),
    "BentoML": (_python("bentoml", "bentoml"), _BENTOML, "hand"),
    "Ray Serve": (_python("grpc_reflection", "ray"), _RAY, "hand"),
}


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
def server(kind: str, bundle: Path, runtime: str = "") -> Iterator[tuple[int, str, int]]:
    """Port, path and process id of a server that answers. runtime: of ours; empty: the one that it chooses."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        port = link.getsockname()[1]
    path = "/v1/classify" if kind == "inflame" else "/predict"
    command = [sys.executable, "-m", "inflame", "serve", str(bundle), "--port", str(port), "--json"]
    command += ["--runtime", runtime] if runtime else []
    if kind != "inflame":
        python, program, engine = PEERS[kind]
        command = [str(python), _script(kind, program), str(bundle), str(port), engine]
    paths = [str(HERE / "src"), str(HERE), os.environ.get("PYTHONPATH", "")]
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


def _script(kind: str, program: str) -> str:
    """The program as a file: some peers start themselves again."""
    place = Path(tempfile.gettempdir()) / f"inflame-peer-{kind.replace(' ', '-')}.py"
    place.write_text(program)
    return str(place)


def warm(port: int, path: str, content: bytes) -> None:
    """Returns when a picture is answered; some listen before they can."""
    for _ in range(600):
        with suppress(OSError, IndexError, ValueError), socket.create_connection(("127.0.0.1", port), 30) as link:
            link.sendall(request(port, path, content))
            if status(link.makefile("rb")) == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("no answer")


def load(port: int, path: str, files: list[bytes], clients: int, seconds: float) -> tuple[float, float, float, int]:
    """Requests a second, median and 99th percentile in milliseconds, and how many failed."""
    requests = [request(port, path, content) for content in files]
    taken: list[float] = []
    failed = 0
    with ExitStack() as stack, selectors.DefaultSelector() as ready:  # one thread: many would take the cores from all
        for number in range(clients):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(link, selectors.EVENT_READ, _Asking(link, requests, number, clients))
        began = time.monotonic()
        end = began + seconds
        for key in list(ready.get_map().values()):
            key.data.ask()
        while ready.get_map():
            for key, _ in ready.select(30):
                if not (code := key.data.hear()):
                    continue
                if code == 200:
                    taken.append(key.data.took)
                else:
                    failed += 1
                if time.monotonic() < end:
                    key.data.ask()
                else:
                    ready.unregister(key.fileobj)
        spent = time.monotonic() - began
    taken.sort()
    return len(taken) / spent, 1000 * statistics.median(taken), 1000 * taken[int(0.99 * (len(taken) - 1))], failed


@final
class _Asking:
    """One client of many: asks, and hears the answer piece by piece."""

    def __init__(self, link: socket.socket, requests: list[bytes], turn: int, step: int) -> None:
        self._link, self._requests, self._turn, self._step = link, requests, turn, step
        self._heard = b""
        self.took = 0.0  # seconds

    def ask(self) -> None:
        """Sends the next request."""
        self._heard, self._began = b"", time.perf_counter()
        self._link.sendall(self._requests[self._turn % len(self._requests)])
        self._turn += self._step

    def hear(self) -> int:
        """The status, when the answer is whole; 0 before. Raises ConnectionError where the server has gone."""
        piece = self._link.recv(65_536)
        if not piece:
            raise ConnectionError("the server has hung up")
        self._heard += piece
        head, ended, body = self._heard.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not ended or length is None or len(body) < int(length[1]):
            return 0
        self.took = time.perf_counter() - self._began
        return int(head.split(None, 2)[1])


def request(port: int, path: str, content: bytes) -> bytes:
    """The bytes of a request with one file in a form."""
    edge = "xxxxboundaryxxxx"
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    return ("\r\n".join([*lines, f"Content-Type: multipart/form-data; boundary={edge}"]) + "\r\n\r\n").encode() + body


def status(file: io.BufferedReader) -> int:
    """That of the next answer, which is read to its end."""
    code, length = int(file.readline().split()[1]), 0
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    file.read(length)
    return code


@final
class Offline:
    """The same files by our Predictor without any server: from as many threads as there are cores, one by one, which is
    the quickest way, or from as many as there are clients where these are fewer."""

    def __init__(self, bundle: Path) -> None:
        from inflame.model.engine.bundle import Predictor

        self._predictor = Predictor(bundle)

    def load(self, files: list[bytes], clients: int, seconds: float) -> tuple[float, ...]:
        """As `load`, with the milliseconds of the processor for one."""
        taken: list[float] = []
        began, cost, end = time.monotonic(), time.process_time(), time.monotonic() + seconds

        def work(turn: int) -> None:
            while time.monotonic() < end:
                start = time.perf_counter()
                self._predictor.predict([files[turn % len(files)]])
                taken.append(time.perf_counter() - start)
                turn += 1

        with ThreadPoolExecutor(min(clients, host.cores())) as pool:
            list(pool.map(work, range(min(clients, host.cores()))))
        taken.sort()
        cost = 1000 * (time.process_time() - cost) / len(taken)
        most = 1000 * taken[int(0.99 * (len(taken) - 1))]
        return len(taken) / (time.monotonic() - began), 1000 * statistics.median(taken), most, 0, cost


@final
class Online:
    """One server that runs."""

    def __init__(self, kind: str, bundle: Path, content: bytes, stack: ExitStack, runtime: str) -> None:
        began = time.monotonic()
        self._port, self._path, self._pid = stack.enter_context(server(kind, bundle, runtime))
        warm(self._port, self._path, content)
        print(f"{kind}: first answer {time.monotonic() - began:.1f} s after its start, {memory(self._pid):.0f} MB")

    def load(self, files: list[bytes], clients: int, seconds: float) -> tuple[float, ...]:
        """As `load`, with the milliseconds of the processor for one request."""
        before = processor(self._pid)
        rate, *times = load(self._port, self._path, files, clients, seconds)
        return rate, *times, 1000 * (processor(self._pid) - before) / (rate * seconds)

    @property
    def memory(self) -> float:
        """Megabytes."""
        return memory(self._pid)


def processor(pid: int) -> float:
    """Seconds of the processor that a process and all that it has started have taken."""
    total = 0
    for one in host.tree(pid):
        with suppress(OSError):  # it has ended
            total += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Megabytes of a process and all that it has started; what they share counts once."""
    total = 0
    for one in host.tree(pid):
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("bundle", type=Path)
    words.add_argument("photos", type=Path)
    words.add_argument("--seconds", type=float, default=2.0, help="of one load; those of all alternate")
    words.add_argument("--rounds", type=int, default=6)
    words.add_argument("--clients", type=int, nargs="*", default=[1, 16, 32])
    words.add_argument("--without", nargs="*", default=[], help="names of peers that are left out")
    words.add_argument("--runtime", default="", help="of ours: onnxruntime, openvino-bf16, …; else the one it chooses")
    given = words.parse_args()
    files = photos(given.photos)
    print(f"{len(files)} JPEGs of {sum(map(len, files)) / len(files) / 1000:.0f} kB, {os.cpu_count()} cores\n")
    found: dict[str, list[tuple[float, ...]]] = {}
    with ExitStack() as stack:
        kinds: dict[str, Offline | Online] = {"offline loop": Offline(given.bundle)}
        for kind in ["inflame", *(one for one, (python, *_) in PEERS.items() if python.exists())]:
            if kind not in given.without:
                kinds[kind] = Online(kind, given.bundle, files[0], stack, given.runtime)
        for turn in range(given.rounds):
            for clients in given.clients:
                for kind, one in list(kinds.items())[:: -1 if turn % 2 else 1]:
                    found.setdefault(f"{kind} | {clients}", []).append(one.load(files, clients, given.seconds))
        for kind, one in kinds.items():
            if isinstance(one, Online):
                print(f"{kind}: {one.memory:.0f} MB after the load")
    print("\nmedians of all rounds")
    print("| | clients | requests/s | p50 ms | p99 ms | failed | processor ms |\n|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        rate, half, most, failed, cost = (statistics.median(values) for values in zip(*rows, strict=True))
        print(f"| {name} | {rate:.1f} | {half:.1f} | {most:.1f} | {failed:.0f} | {cost:.1f} |")
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
