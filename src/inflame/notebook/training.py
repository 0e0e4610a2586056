"""`inflame.train`: the command `inflame train` in a process of its own, so that a notebook can be interrupted, and what
it said last as an object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from inflame.errors import InflameError, RunError, UserError
from inflame.notebook.trained import Trained
from inflame.runs import Run

PATIENCE = 60.0  # seconds for an interrupted training to save itself


def train(
    data: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    model: str = "",
    quiet: bool = False,
    **settings: Any,
) -> Trained:
    """Checks, splits, trains, tests, reports: as `inflame train DATA`. Interrupted, the same call goes on.

    data: a folder of class folders, a zip, a CSV, a named data set, or a model folder. minutes: the time there is, or
    epochs: passes over the data. model: a built-in model or a folder with an app.py, to train with instead of `auto`.
    quiet: print nothing. settings as the command takes them: `seed=1`, `output="run"`,
    `hyperparam={"learning_rate": 0.01}`.
    Errors are those of the command, with the same remedy: UserError for what was given, else RunError.
    """
    words = [model, f"io.training_input={os.fspath(data)}"] if model else [os.fspath(data)]
    if minutes is not None:
        words.append(f"in={60 * minutes:g}s")
    if epochs is not None:
        words.append(f"hyperparam.num_epochs={epochs}")
    words += spelled(settings)
    code, said = _run([sys.executable, "-m", "inflame", "train", *words, "--json"], quiet=quiet)
    if code:
        raise _error(code, said)
    return Trained(Run(path=Path(said["run"])))


def spelled(settings: dict[str, Any]) -> list[str]:
    """Settings as the words of a command: `{"hyperparam": {"ema": 0.9}, "fresh": True}` → `hyperparam.ema=0.9`,
    `fresh=true`."""
    words = []
    for name, value in settings.items():
        if isinstance(value, dict):
            words += [f"{name}.{word}" for word in spelled(value)]
        elif isinstance(value, (list, tuple)):
            words.append(f"{name}={json.dumps(value)}")
        else:
            words.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def _run(command: list[str], *, quiet: bool) -> tuple[int, dict[str, Any]]:
    """The exit code, and the JSON on the last line of stdout. What the command says meanwhile is printed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        told: list[str] = []
        reader = threading.Thread(target=_relay, args=(child.stderr, told, quiet), daemon=True)
        reader.start()
        try:
            lines = child.stdout.read().splitlines()
            code = child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait(PATIENCE)
            raise
        reader.join()
    try:
        return code, json.loads(lines[-1])
    except (IndexError, ValueError):
        return code or 1, {"error": "\n".join(told[-5:]) or "The training said nothing."}


def _relay(stream: IO[str], told: list[str], quiet: bool) -> None:
    for line in stream:
        told.append(line.rstrip("\n"))
        if not quiet:
            sys.stdout.write(line)
            sys.stdout.flush()


def _error(code: int, said: dict[str, Any]) -> InflameError:
    kind = UserError if code == UserError.code else RunError
    remedy = said.get("remedy") or "See the log of the run: inflame runs"
    return kind(str(said.get("error", "The training failed.")), remedy=remedy, where=str(said.get("where", "")))
