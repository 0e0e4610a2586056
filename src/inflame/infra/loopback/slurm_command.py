"""A command of Slurm's where Slurm is not installed: `python slurm_command.py PLACE NAME WORDS…`.

It hands its words to the control plane at PLACE (host:port), and says what that says; srun works by itself. Nothing but
the standard library: a command is run several times a second.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

FAR = "Unable to contact slurm controller (connect failure)"


def ask(place: str, words: Sequence[str]) -> int:
    """The exit code of a command, and what it says."""
    given = sys.stdin.read() if words[0] == "sbatch" else ""
    told = json.dumps({"words": words, "given": given, "environment": dict(os.environ)})
    try:
        line = http.client.HTTPConnection(place, timeout=50)
        line.request("POST", "/", told)
        said = json.loads(line.getresponse().read())
    except (OSError, http.client.HTTPException):
        said = {"code": 1, "out": "", "err": f"{words[0]}: error: {FAR}\n"}
    sys.stdout.write(said["out"])
    sys.stderr.write(said["err"])
    return int(said["code"])


def srun(words: Sequence[str]) -> int:
    """Runs the words once for each node, all here, after options of srun's own; the highest exit code. When one fails
    the others are ended, and signals are handed on."""
    words = words[next(place for place, word in enumerate(words) if not word.startswith("--")) :]
    left: dict[int, subprocess.Popen[bytes]] = {}
    worst = 0

    def hand_on(number: int, _frame: object = None) -> None:
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    for node in range(int(os.environ["SLURM_NNODES"])):
        about = {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURM_LOCALID": "0"}
        task = subprocess.Popen(words, env={**os.environ, **about})
        left[task.pid] = task
    while left:
        pid, status = os.wait()
        left.pop(pid).returncode = code = os.waitstatus_to_exitcode(status)
        worst = max(worst, 128 - code if code < 0 else code)
        if code:
            hand_on(signal.SIGTERM)
    return worst


if __name__ == "__main__":
    sys.exit(srun(sys.argv[3:]) if sys.argv[2] == "srun" else ask(sys.argv[1], sys.argv[2:]))
