"""Shells are told all verbs and options, in scripts that they take."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from inflame.cli import completion
from inflame.cli.main import VERBS, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script(shell: str) -> None:
    text = completion.script(shell)
    for verb in VERBS:
        assert verb in text
    for option in ("--explain", "--dry-run", "--like"):
        assert option.removeprefix("--") in text
    found = shutil.which(shell)
    if found is not None:  # the shell itself takes it
        done = subprocess.run([found, "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_bash_completes() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    ask = "\nCOMP_WORDS=(inflame ej); COMP_CWORD=1; _shtab_inflame; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    done = subprocess.run([bash], input=completion.script("bash") + ask, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["eject"]


def test_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "man", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["script"]
    assert text.startswith(".TH INFLAME 1")
    assert text.isascii()
    assert [line for line in text.splitlines() if line == ".SH EJECT"]
    assert "\\&  inflame train photos/ \\-\\-in 60s" in text
    if shutil.which("groff"):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww"], input=text, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert "inflame train photos/ --in 60s" in done.stdout.replace("‐", "-").replace("−", "-")


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "cmd"]) == 2
    assert "bash" in capsys.readouterr().err
