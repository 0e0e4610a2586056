"""Memory that is given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCATTERED = """
from pathlib import Path
from inflame.web import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

waiting = [bytearray(60_000) for _ in range(1_000)]
kept = waiting[::10]  # so that the rest lies between what is needed
del waiting
before = resident()
memory.trim()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives back what lies between")
def test_what_many_bodies_took_is_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True).stdout
    assert float(told) > 30  # of 51 MB
