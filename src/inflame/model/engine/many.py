"""Several processes for one training, by torchrun: started, watched, started again when one of them dies.

`python app.py train … devices=4` becomes four of itself here. On several machines torchrun is started by hand (or by a
launcher) on each: `torchrun --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29400 app.py train … devices=4`; the run
folder must then lie where all of them see it (`output=`).

The first process (rank 0) reads the data, works in the run folder and talks; the others take their share of every batch
and are silent. An error that is understood ends all of them; a process that is killed, or crashes, makes torchrun start
all again, and they go on from the last checkpoint. Where whoever started them is killed they save and end as well.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from inflame import host
from inflame.errors import RunError, SettingError, UserError
from inflame.runs import Follows

ENDED = "INFLAME_ENDED"  # the file in which a process that is through leaves its exit code
INSIDE = "TORCHELASTIC_RUN_ID"  # set by torchrun for each of several processes
RESTARTS = 3
LOST = 75  # exit code (EX_TEMPFAIL) of a process that lost the others: it is to be started again
A_CORE = 2  # processes that may share one, where there is no GPU: more would wait for each other, for hours
WHOLE = "Texts are counted and fitted as a whole, in seconds"  # why they have no use for several devices

_MEANT = "signal"  # the file beside ENDED with the signal that all are ended by

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


def require(devices: int, gpus: int) -> None:
    """Refuses more processes than this machine, with so many GPUs, has room for: UserError of the first one, the others
    follow."""
    cores = host.cores()
    if devices <= (gpus or A_CORE * cores):
        return
    if not first():
        raise Follows
    what = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{cores} core{'s' * (cores > 1)} and no GPU"
    way = f"Use devices={gpus}, or" if gpus else "Leave devices out: one process takes all cores. Or use"
    raise UserError(f"devices={devices}: this machine has {what}.", remedy=f"{way} more machines: see docs/training.md")


def refuse(why: str, devices: int) -> None:
    """Refuses so many devices for a training that has no use for them, where there is a reason: SettingError of the
    first process, the others follow."""
    if not why:
        return
    if not first():
        raise Follows
    raise SettingError(
        f"{why}: more than one device would do nothing for it.",
        where=f"devices={devices}",
        remedy="Leave devices out. Small pictures, and photos of which a whole network learns, use several.",
    )


def run(program: Path, words: Sequence[str], devices: int) -> int:
    """Runs `python program words` as `devices` processes; gives the exit code. More than this machine has room for:
    UserError. A signal is handed on; one that came before any of them could answer is raised here again, when all are
    gone."""
    require(devices, len(host.gpus()))
    with tempfile.TemporaryDirectory() as folder:
        ended = Path(folder) / "code"
        threads = str(max(1, host.cores() // devices))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, ENDED: str(ended)}
        options = ["--standalone", f"--nproc-per-node={devices}", f"--max-restarts={RESTARTS}"]
        told = list[int]()
        child: subprocess.Popen[bytes] | None = None

        def hand_on(number: int, _: FrameType | None) -> None:
            # As SIGTERM, of which a process that isn't up yet dies without a word; `meant` says what it was.
            told.append(number)
            ended.with_name(_MEANT).write_text(str(number))
            if child is not None:
                child.terminate()

        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = [number for number in stops if signal.getsignal(number) != signal.SIG_IGN]  # nohup means it
        before = {number: signal.signal(number, hand_on) for number in heard}
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, *options, "--signals-to-handle=SIGTERM", str(program), *words],
                env=environment,
                preexec_fn=join,  # noqa: PLW1509 - before any thread of ours
                process_group=0,  # what a terminal sends comes from us alone
            )
            if told:
                child.terminate()
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        with suppress(OSError, ValueError):
            return int(ended.read_text())
    if told:
        signal.raise_signal(told[0])
    raise RunError(
        f"The {devices} processes ended without a result, the last time with exit code {code}.",
        remedy="Killed (137), they often had too little memory: use fewer devices or smaller batches. "
        "The same command goes on where they stopped; --debug says more.",
    )


def meant(number: int) -> int:
    """The signal that a person sent to whoever started this process, which comes here as SIGTERM; else the same."""
    with suppress(OSError, ValueError):
        return int(Path(os.environ.get(ENDED, "/")).with_name(_MEANT).read_text())
    return number


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


def _torchrun() -> int:
    """torchrun in this process, which ends without a word where it is told to, or where processes die; gives the exit
    code."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    whole = "--debug" in sys.argv
    if not whole:
        logging.disable(logging.WARNING)
    try:
        main()
    except SignalException as told:
        if whole:
            raise
        return 128 + told.sigval
    except ChildFailedError as failed:
        if whole:
            raise
        code = failed.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    return 0


if __name__ == "__main__":
    sys.exit(_torchrun())
