"""What every other machine is told: one short command, and all else in one environment variable.

The command unpacks the archive of a `Package` and becomes its bootstrap. Long command lines are cut off by some
providers and quoted anew by others, so nothing of the job is in it.

    {spec.output}/run          the run folder, kept up to date by the training itself
    {spec.output}/log/0/…      what it says, in pieces, a folder per machine
    {spec.output}/attempts/…   who is at work, who was
    {spec.output}/exit.json    how it ended: code, state, reason, seconds, cost
"""

from __future__ import annotations

import json
import shlex

from inflame import remote
from inflame.records import JobSpec, Package

VARIABLE = "INFLAME_JOB"
ATTEMPTS = 5  # how often a job is begun, the first time included, when its machines are taken away
PREEMPTED = 75  # exit code of a job that was stopped from outside and can go on (EX_TEMPFAIL)
DUPLICATE = 76  # of one that found the job at work elsewhere, and has left it alone
RUN, LOG, EXIT, TRIED = "run", "log", "exit.json", "attempts"

_PYTHON = '"$(command -v python || command -v python3)"'
_UNPACK = f'mkdir -p "$W" && tar xzf {{archive}} -C "$W" && exec {_PYTHON} "$W/.inflame/bootstrap.py"'
_FETCH = (
    f'mkdir -p "$W/.inflame/got" && {_PYTHON} -m pip install -q --target "$W/.inflame/got" obstore && '
    f'PYTHONPATH="$W/.inflame/got" {_PYTHON} -c \''
    'import sys, obstore.store as s; place, _, name = sys.argv[1].rpartition("/"); '
    'open(sys.argv[2], "wb").write(bytes(s.from_url(place).get(name).bytes()))'
    '\' {uri} "$W/.inflame/code.tar.gz" && '
)


def command(archive: str) -> list[str]:
    """The words that begin the job on its machine: `sh -c …`.

    `archive` is the path of the archive there, taken as it is (no variables in it), or, where nothing mounts it, its
    uri (s3:// gs:// az://), from which Python fetches it. The code is unpacked at `$INFLAME_WORK`, or in a folder of
    its own below `$TMPDIR`.
    """
    begin = 'W="${INFLAME_WORK:-$(mktemp -d)}" && '
    if remote.SCHEME.match(archive) and not archive.startswith("file:"):
        begin += _FETCH.replace("{uri}", shlex.quote(archive))
        return ["sh", "-c", begin + _UNPACK.format(archive='"$W/.inflame/code.tar.gz"')]
    return ["sh", "-c", begin + _UNPACK.format(archive=shlex.quote(archive.removeprefix("file://")))]


def variables(spec: JobSpec, package: Package | None, *, price: float | None = None) -> dict[str, str]:
    """The environment variable that says everything else, as JSON: `{"INFLAME_JOB": …}`.

    `price`: US dollars per hour for all machines together, or None where nobody knows; without it a cap on money can't
    be kept by the job itself. The values of `spec.environment` are not in it: the launcher hands those over.
    """
    job = {
        "model": package.model if package else "",
        "arguments": list(spec.arguments),
        "environment": list(spec.environment),
        "inputs": list(spec.inputs),
        "output": spec.output,
        "count": spec.count,
        "max_time": spec.max_time,
        "max_money": spec.max_money,
        "price": price,
        "attempts": ATTEMPTS,
        "tree": package.tree if package else "",
        "code": package.archive.rpartition("/code/")[0] if package else "",
        **({"variables": dict(one.split("=", 1) for one in spec.variables)} if spec.variables else {}),
    }
    return {VARIABLE: json.dumps(job, ensure_ascii=True, sort_keys=True)}
