"""Power cuts: which processes are a job's, and that none of them gets a word or stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from inflame import host
from inflame.infra.loopback.machine import cut, told
from inflame.infra.loopback.server import ports

# A job whose training has a session of its own, as `aboard` begins it; both would say that they heard a signal.
JOB = """
import pathlib, signal, subprocess, sys, time
def heard(*_): pathlib.Path(sys.argv[1]).write_text("heard")
signal.signal(signal.SIGTERM, heard)
code = "import time; print('ready', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
time.sleep(60)
"""


def test_a_power_cut_reaches_all_that_a_job_has_begun(tmp_path: Path) -> None:
    given = {**os.environ, "JOB_OF_TEST": str(tmp_path)}
    words = [sys.executable, "-c", JOB, str(tmp_path / "heard")]
    with subprocess.Popen(words, env=given, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        whole = host.tree(job.pid)
        assert len(whole) == 2
        assert all(told(pid, f"JOB_OF_TEST={tmp_path}") for pid in whole)
        assert not told(job.pid, "JOB_OF_TEST=", "OTHER_OF_TEST=")
        cut([job.pid])
        assert job.stdout.read() == "", "somebody still holds the pipe"
    assert job.returncode == -9
    assert not (tmp_path / "heard").exists()
    assert not told(job.pid, "JOB_OF_TEST=")


def test_ports_are_free_and_of_their_own() -> None:
    found = ports(20)
    assert len(set(found)) == 20
    assert all(1024 < port < 65536 for port in found)
