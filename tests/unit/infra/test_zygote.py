"""A process that forks its jobs, run in this process until nobody orders any more."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame.infra.pools import zygote
from inflame.runs import lock

APP = """import os, sys

if "--help" in sys.argv:
    print("help")
    sys.exit()
mood = sys.argv[2]
print("here in", os.getcwd(), os.environ.get("TOKEN"), flush=True)
import this_is_only_needed_later
if mood == "says no":
    sys.exit("no luck today")
if mood == "raises":
    raise ValueError("no")
if mood == "dies":
    os.kill(os.getpid(), 9)
if mood == "three":
    sys.exit(3)
"""

Serves = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serves]:
    """Orders these jobs, and serves until all have ended: code and log of each."""
    app = tmp_path / "model/app.py"
    app.parent.mkdir()
    app.write_text(APP)
    (app.parent / "this_is_only_needed_later.py").write_text("")
    monkeypatch.syspath_prepend(app.parent)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    # What pytest and its other tests want to do at the exit isn't for the jobs, which here are forked from them.
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    child = signal.getsignal(signal.SIGCHLD)

    def call(*moods: str) -> dict[str, tuple[str, str]]:
        for name, descriptor in (("stdout", 1), ("stderr", 2)):  # as in a process without pytest
            monkeypatch.setattr(sys, name, os.fdopen(descriptor, "w", 1, closefd=False))
        orders, master = os.pipe()
        answers, told = os.pipe()
        made = zygote.Zygote(app, orders, told)
        made.warm(["train"])
        for mood in moods:
            folder = tmp_path / mood
            folder.mkdir(exist_ok=True)
            order = {"folder": str(folder), "words": ["train", mood], "cwd": str(app.parent), "cores": []}
            line = json.dumps({**order, "environment": {**os.environ, "TOKEN": mood}}).encode() + b"\n"
            os.write(master, line[:7])  # pipes cut where they like
            os.write(master, line[7:])
        os.close(master)
        made.serve()
        os.close(told)
        with os.fdopen(answers) as lines:
            call.told = [json.loads(line) for line in lines]  # type: ignore[attr-defined]
        for descriptor in (orders, made._wake, made._woken):
            os.close(descriptor)
        return {mood: (_text(tmp_path / mood / zygote.CODE), _text(tmp_path / mood / zygote.LOG)) for mood in moods}

    yield call
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, child)
    gc.unfreeze()
    sys.modules.pop("this_is_only_needed_later", None)


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def test_every_job_ends_with_its_code_and_its_log(serves: Serves, tmp_path: Path) -> None:
    found = serves("fine", "says no", "raises", "dies", "three")
    assert {mood: code for mood, (code, _) in found.items()} == {
        "fine": "0", "says no": "1", "raises": "1", "dies": "137", "three": "3",
    }  # fmt: skip
    assert found["fine"][1] == f"here in {tmp_path / 'model'} fine\n"
    assert found["says no"][1].endswith("no luck today\n")
    assert "ValueError: no" in found["raises"][1]
    told: list[dict[str, Any]] = serves.told  # type: ignore[attr-defined]
    assert sorted(one["begun"] for one in told if "begun" in one) == sorted(found)
    assert sorted(one["ended"] for one in told if "ended" in one) == sorted(found)


def test_what_the_first_job_needed_the_next_ones_have(serves: Serves, tmp_path: Path) -> None:
    serves("fine")
    assert "this_is_only_needed_later" in json.loads((tmp_path / "fine" / zygote.IMPORTS).read_text())
    assert "this_is_only_needed_later" in sys.modules  # learned by this process


def test_a_job_that_another_process_has_is_left_to_it(serves: Serves, tmp_path: Path) -> None:
    (tmp_path / "fine").mkdir()
    held = lock.take(tmp_path / "fine" / zygote.LOCK)
    assert held is not None
    assert serves("fine") == {"fine": ("", "")}  # how it ends, the other one says
    held.release()


def test_a_job_that_was_given_up_is_not_begun(serves: Serves, tmp_path: Path) -> None:
    (tmp_path / "fine").mkdir()
    assert zygote.write_code(tmp_path / "fine", 143)
    assert not zygote.write_code(tmp_path / "fine", 0)  # the first one counts
    assert serves("fine") == {"fine": ("143", "")}


def test_words_that_break_the_app_are_each_jobs_own_business(
    serves: Serves, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model/app.py").write_text("import nothing_of_that_name\n")
    code, log = serves("fine")["fine"]
    sys.stderr.flush()
    assert code == "1"
    assert "nothing_of_that_name" in log
    assert "nothing_of_that_name" in capfd.readouterr().err
