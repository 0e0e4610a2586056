"""What is special about this machine as a launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inflame.errors import UserError
from inflame.infra.local import Local
from inflame.records import JobSpec

BECOME = """
import sys
from inflame.infra.local import Local, become
from inflame.records import JobSpec
become(Local().request(JobSpec(model=sys.argv[1])))
"""
WAITING = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def _model(folder: Path, app: str) -> Path:
    (folder / "app.py").write_text(app)
    return folder


def test_more_than_one_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not 2"):
        Local().request(JobSpec(model=str(_model(tmp_path, "")), count=2))


def test_a_line_is_in_the_log_when_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    launcher = Local()
    model = _model(tmp_path, "import time\nprint('half way')\ntime.sleep(60)\n")
    job = launcher.send(launcher.request(JobSpec(model=str(model))))
    end = time.monotonic() + 20
    while not (lines := list(launcher.logs(job))):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert lines == ["half way"]
    launcher.cancel(job)


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", -signal.SIGINT), ("SIGKILL", -signal.SIGKILL)]
)
def test_become_leaves_nobody_between_a_signal_and_the_training(tmp_path: Path, name: str, code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BECOME, _model(tmp_path, WAITING)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert int(child.stdout.readline()) == child.pid
        child.send_signal(getattr(signal, name))
        assert child.wait(10) == code


def test_become_passes_the_exit_code_and_the_clock(tmp_path: Path) -> None:
    app = "import os, sys\nprint(os.environ['INFLAME_STARTED'], sys.argv[1])\nsys.exit(7)"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", BECOME, _model(tmp_path, app)], capture_output=True, text=True)
    started, verb = done.stdout.split()
    assert (done.returncode, verb) == (7, "train")
    assert before <= float(started) <= time.time()


def test_a_job_that_vanished_has_failed(tmp_path: Path) -> None:
    local = Local()
    job = local.send(local.request(JobSpec(model=str(_model(tmp_path, "import time; time.sleep(60)")))))
    group = local._children[job.id].pid
    os.killpg(group, signal.SIGKILL)
    local._children[job.id].wait(10)
    for launcher in (local, Local()):
        found = launcher.status(job)
        assert (found.status, found.code) == ("failed", 137)
