"""Several processes for one training, by torchrun: started, watched, started again when one of them dies.

`python app.py train … devices=4` becomes four of itself here. On several machines torchrun is started by hand (or by a
launcher) on each: `torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29400 app.py train … devices=4`; the run
folder must then lie where all of them see it (`output=`).

The first process (rank 0) reads the data, works in the run folder and talks; the others take their share of every batch
and are silent. An error that is understood ends all of them; a process that is killed, or crashes, makes torchrun start
all again, and they go on from the last checkpoint. Where whoever started them is killed they save and end as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from inflame import host

ENDED = "INFLAME_ENDED"  # the file in which a process that is through leaves its exit code
INSIDE = "TORCHELASTIC_RUN_ID"  # set by torchrun for each of several processes
RESTARTS = 3
LOST = 75  # exit code (EX_TEMPFAIL) of a process that lost the others: it is to be started again

# What torch says when another process is gone, in the words of gloo, NCCL and the store; and what `steps` says where
# this one is as good as gone for the others.
_GONE = (
    *("connection closed by peer", "connection reset", "broken pipe", "nccl", "gloo", "tcpstore", "socket timeout"),
    "other processes wait in vain",
)


def first() -> bool:
    """Whether this is the process that reads, writes and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def started() -> tuple[int, int] | None:
    """Processes of a machine and machines, where torchrun (or a launcher that does as it does) started this one."""
    given = os.environ
    if INSIDE not in given or "WORLD_SIZE" not in given:
        return None
    here = int(given.get("LOCAL_WORLD_SIZE", given["WORLD_SIZE"]))
    return here, int(given["WORLD_SIZE"]) // here


def run(program: Path, words: Sequence[str], devices: int) -> int:
    """Runs `python program words` as `devices` processes; gives the exit code. Signals are handed on."""
    with tempfile.TemporaryDirectory() as folder:
        ended = Path(folder) / "code"
        threads = str(max(1, host.cores() // devices))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, ENDED: str(ended)}
        options = ["--standalone", f"--nproc-per-node={devices}", f"--max-restarts={RESTARTS}"]
        child = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, str(program), *words],
            env=environment,
            preexec_fn=join,  # noqa: PLW1509 - before any thread of ours
            process_group=0,  # a Ctrl-C comes from us alone: of two, torchrun would make a SIGTERM
        )
        before = {
            number: signal.signal(number, lambda number, _: child.send_signal(number))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        with suppress(OSError, ValueError):
            return int(ended.read_text())
        return code if code >= 0 else 128 - code


def join() -> None:
    """Ties this process to the one that started it: a training that nobody minds would keep its run folder locked."""
    host.die_with_parent(signal.SIGTERM)


def over() -> bool:
    """Whether one of the processes has come to an end that is final: the others, started again, have nothing to do."""
    return Path(os.environ.get(ENDED, "/")).is_file()


def end(code: int, error: BaseException | None = None) -> int:
    """The exit code for torchrun. Done, or an error that is understood: 0, and `code` is left for whoever started all
    of them. One that only says that another process is gone: not 0, so that all are started again."""
    if error is not None and lost(error):
        return LOST
    place = os.environ.get(ENDED)
    if place and not Path(place).exists() and (first() or code):
        with suppress(OSError):
            Path(place).write_text(str(code))
    return 0 if place else code


def lost(error: BaseException) -> bool:
    """Whether the error says that another process is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError | OSError) and any(words in text for words in _GONE)
