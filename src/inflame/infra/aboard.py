"""The job on its machine, once inflame is there: runs the training, hands signals on, keeps the caps, and tells the
output folder everything that others want to know: log, signs of life, and how it ended."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from inflame import remote, store
from inflame.errors import InflameError
from inflame.infra import attempts
from inflame.infra.cluster import Cluster, training, where
from inflame.infra.command import DUPLICATE, LOG, PREEMPTED, RUN
from inflame.infra.pack.package import BUILTIN, CODE, PARTS

CHUNK = 2.0  # seconds between two pieces of the log
GRACE = 100.0  # seconds to save, before a training is killed: the shortest notice of a provider is 120 for all
TICK = 0.2
_KEPT = 400  # lines, for the reason
_INTERRUPTED = (
    128 + signal.SIGTERM,
    128 + signal.SIGINT,
    128 + signal.SIGHUP,
    -signal.SIGTERM,
    -signal.SIGINT,
    PREEMPTED,
)


class Stops(Protocol):
    """The first signal that came, 0 where none has; see `bootstrap.Stop`."""

    signal: int


def run(job: dict[str, Any], work: Path, stop: Stops, began: float) -> int:
    """The exit code of the job on this machine."""
    found = where(os.environ, int(job.get("count", 1)))
    try:
        return _Aboard(job, work, found, stop, began).run()
    except (InflameError, OSError) as error:
        _say(f"error: {error.explain() if isinstance(error, InflameError) else error}")
        told = {"code": 1, "state": "failed", "reason": str(error), "seconds": time.time() - began, "cost": None}
        with suppress(InflameError, OSError):
            if found.rank == 0:
                attempts.conclude(job["output"], attempts.read(job["output"]).attempt, told)
        return 1


class _Aboard:
    def __init__(self, job: dict[str, Any], work: Path, cluster: Cluster, stop: Stops, began: float) -> None:
        self.job, self.work, self.cluster, self.stop, self.began = job, work, cluster, stop, began
        self.output = str(job["output"])
        self.attempt, self.earlier = 0, 0.0
        self.why = ""  # why the training was told to end
        self.state = "preempted"  # what that makes of the job
        self.tail: list[str] = []

    def run(self) -> int:
        if self.cluster.rank:
            return self._follow()
        number = attempts.begin(self.output, limit=self.job["attempts"], me=_me(), say=_say)
        if number < 0:
            told = {"code": 1, "state": "failed", "reason": f"taken away {self.job['attempts']} times", "seconds": 0.0}
            attempts.conclude(self.output, attempts.read(self.output).attempt, {**told, "cost": None})
            return 1
        if number == 0:
            done = attempts.read(self.output).state == "done"
            _say("it is done already" if done else "another machine is at work on it: nothing to do here")
            return 0 if done else DUPLICATE
        self.attempt, self.earlier = number, attempts.spent(self.output)
        attempts.beat(self.output, number, time.time() - self.began)
        code = self._train()
        return self._conclude(code)

    def _follow(self) -> int:
        """One of the further machines: its log is of use, its end is the first one's business."""
        until = time.time() + 10 * attempts.BEAT
        while not (now := attempts.read(self.output)).state and time.time() < until:
            time.sleep(attempts.BEAT / 4)
        self.attempt = max(1, now.attempt)
        code = self._train()
        if self.stop.signal:
            name = f"{self.attempt:03}.lost-{self.cluster.rank}"
            store.write(store.join(self.output, "attempts", name), "")
            return PREEMPTED
        return code

    # --- the training ----------------------------------------------------------------------------

    def _train(self) -> int:
        _fetch_parts(self.job, self.work)
        child = subprocess.Popen(
            self._command(),
            cwd=self.work,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # signals to the group are ours to hand on
        )
        assert child.stdout is not None
        log = _Log(store.join(self.output, LOG, str(self.cluster.rank)), self.attempt, self.tail)
        pump = threading.Thread(target=log.pump, args=(child.stdout,), daemon=True)
        pump.start()
        self._watch(child, log)
        pump.join(5)
        if not pump.is_alive():  # a process that the training left behind may still hold the other end
            child.stdout.close()
        log.flush()
        return child.returncode

    def _watch(self, child: subprocess.Popen[bytes], log: _Log) -> None:
        """Waits for the end; tells the training to come to one when there is a reason."""
        flushed = beaten = time.monotonic()
        told: float | None = None
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(TICK)
            now = time.monotonic()
            if now - flushed > CHUNK:
                log.flush()
                flushed = now
            if now - beaten > attempts.BEAT:
                beaten = now
                self._beat()
            if told is None and self._wants_end():
                told = now
                _say(f"ending the training: {self.why}")
                child.terminate()
            elif told is not None and now - told > GRACE:
                _say("it has not ended by itself, and is killed")
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    def _beat(self) -> None:
        """A network that fails for a while stops nothing."""
        try:
            if self.cluster.rank == 0:
                attempts.beat(self.output, self.attempt, time.time() - self.began)
                if attempts.superseded(self.output, self.attempt):
                    self._end("another machine has taken over", "preempted")
            if attempts.asked_to_stop(self.output, self.attempt):
                self._end("it was asked to stop", "stopped")
        except (InflameError, OSError) as error:
            _say(f"no sign of life could be given: {error}")

    def _wants_end(self) -> bool:
        if self.stop.signal and not self.why:
            self._ended_from_outside()
        seconds = self.earlier + time.time() - self.began
        cap, money, price = self.job.get("max_time"), self.job.get("max_money"), self.job.get("price")
        if cap is not None and seconds >= cap:
            self._end(f"the cap on time is reached: {cap:g} s", "stopped")
        if money is not None and price and seconds / 3600 * price >= money:
            self._end(f"the cap on money is reached: ${money:g} at ${price:g} an hour", "stopped")
        return bool(self.why)

    def _ended_from_outside(self) -> None:
        """A signal means that the machine is taken away, unless somebody has asked for the end of the job."""
        with suppress(InflameError, OSError):
            if attempts.asked_to_stop(self.output, self.attempt):
                self._end("it was asked to stop", "stopped")
        self._end(f"its machine is taken away ({signal.Signals(self.stop.signal).name})", "preempted")

    def _end(self, why: str, state: str) -> None:
        if not self.why:
            self.why, self.state = why, state

    def _command(self) -> list[str]:
        model = str(self.job["model"])
        builtin = model.startswith(BUILTIN)
        program = (
            Path(remote.__file__).parent / "model" / model.removeprefix(BUILTIN) if builtin else self.work / model
        ) / "app.py"
        words = [_placed(word, self.job["inputs"]) for word in self.job["arguments"]]
        output = [f"output={store.join(self.output, RUN)}"]
        return training(sys.executable, str(program), [*words, *output], self.cluster, _devices(words))

    def _environment(self) -> dict[str, str]:
        ours = {"INFLAME_CODE": str(self.work / ".inflame" / "code.json"), "PYTHONUNBUFFERED": "1"}
        home = {} if "INFLAME_HOME" in os.environ else {"INFLAME_HOME": str(self.work / ".inflame" / "home")}
        passed = {key: value for key, value in os.environ.items() if not key.startswith("INFLAME_JOB")}
        return {"INFLAME_STARTED": repr(self.began), **passed, **home, **self.job.get("variables", {}), **ours}

    # --- how it ended ----------------------------------------------------------------------------

    def _conclude(self, code: int) -> int:
        seconds = time.time() - self.began
        price = self.job.get("price")
        whole = self.earlier + seconds
        state, reason, given = self._verdict(code)
        told = {
            "code": given,
            "state": state,
            "reason": reason,
            "seconds": round(seconds, 1),
            "cost": None if price is None else round(whole / 3600 * price, 4),
            "memory": _memory(),
        }
        _say(f"{state}{f': {reason}' if reason else ''} ({whole:.0f} s)")
        if attempts.superseded(self.output, self.attempt):
            attempts.end(self.output, self.attempt, told)
        else:
            attempts.conclude(self.output, self.attempt, told)
        return given

    def _verdict(self, code: int) -> tuple[str, str, int]:
        """State, reason and exit code. A training that was done before it heard the signal is done."""
        if code == 0:
            return "done", "", 0
        if self.stop.signal and not self.why:  # the training heard it as well, and was quicker
            self._ended_from_outside()
        if self.why:
            return self.state, self.why, PREEMPTED if self.state == "preempted" else 128 + signal.SIGTERM
        if self.cluster.machines > 1 and self._lost():
            return "preempted", "another one of its machines is taken away", PREEMPTED
        if code in _INTERRUPTED:
            return "preempted", "the training was interrupted", PREEMPTED
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return "failed", "the training was killed, most likely for want of memory", 128 + signal.SIGKILL
        return "failed", _reason(self.tail), code if code > 0 else 128 - code

    def _lost(self) -> bool:
        """Whether a further machine has said that it goes. It may say so a moment later than it is missed."""
        until = time.monotonic() + attempts.BEAT
        while time.monotonic() < until:
            with suppress(InflameError, OSError):
                names = store.listdir(store.join(self.output, "attempts"))
                if any(name.startswith(f"{self.attempt:03}.lost-") for name in names):
                    return True
            time.sleep(attempts.BEAT / 5)
        return False


class _Log:
    """The words of the training: handed on to ours, and in pieces to the output folder."""

    def __init__(self, folder: str, attempt: int, tail: list[str]) -> None:
        self.folder, self.attempt, self.tail = folder, attempt, tail
        self.waiting, self.count, self.lock = io.BytesIO(), 0, threading.Lock()

    def pump(self, pipe: Any) -> None:
        """Until the training closes its end."""
        for line in pipe:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            with self.lock:
                self.waiting.write(line)
                self.tail.append(line.decode(errors="replace").rstrip())
                del self.tail[:-_KEPT]

    def flush(self) -> None:
        """What has come since the last time, as one piece. Where the network fails it waits for the next time."""
        with self.lock:
            data = self.waiting.getvalue()
            if not data:
                return
            try:
                store.write(store.join(self.folder, f"{self.attempt:03}-{self.count:06}.txt"), data)
            except (InflameError, OSError) as error:
                _say(f"the log could not be copied: {error}")
                return
            self.count += 1
            self.waiting = io.BytesIO()


def _fetch_parts(job: Mapping[str, Any], work: Path) -> None:
    """Brings the parts of large code, which lie beside the archive."""
    listed = work / ".inflame" / "parts.json"
    if not listed.is_file():
        return
    place = store.join(str(job["code"]), CODE, PARTS)

    def bring(name: str) -> None:
        data = store.read_bytes(store.join(place, f"{name}.tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            if hasattr(tarfile, "tar_filter"):
                tar.extractall(work, filter="tar")
            else:  # Python 3.11.2, that of Debian 12; what is unpacked is what we packed ourselves
                tar.extractall(work)

    with ThreadPoolExecutor(16) as many:
        list(many.map(bring, json.loads(listed.read_text(encoding="utf-8"))))


def _placed(word: str, inputs: list[str]) -> str:
    """The word with an input where its machine has it."""
    for number, uri in enumerate(inputs):
        here = os.environ.get(f"INFLAME_INPUT_{number}")
        if here and uri in word:
            return word.replace(uri, here)
    return word


def _devices(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words if "=" in word).get("devices", "1")
    return int(given) if given.isdigit() else 1


def _reason(tail: list[str]) -> str:
    """The last line that says what was wrong."""
    told = [line for line in tail if line.startswith("error: ") or "Error" in line]
    return (told or [line for line in tail if line.strip()] or ["it said nothing"])[-1].removeprefix("error: ")[:300]


def _memory() -> int:
    """Bytes that the largest process of the training had in memory."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _me() -> dict[str, Any]:
    return {"host": os.uname().nodename, "pid": os.getpid(), "sign": os.urandom(8).hex()}


def _say(text: str) -> None:
    sys.stderr.write(f"inflame: {text}\n")
    sys.stderr.flush()
