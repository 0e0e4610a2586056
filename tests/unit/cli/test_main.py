"""The door: what it loads, how it guesses, what it answers to mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inflame.cli import main as door
from inflame.cli.main import VERBS, main
from inflame.errors import DataError, InflameError, RunError

HEAVY = "torch numpy pyarrow PIL onnxruntime hydra omegaconf sklearn timm matplotlib fsspec tqdm jinja2 pandas".split()
LOADED = """
import sys
from inflame.cli.main import main
code = main(sys.argv[1:])
print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([verb, "--help"] for verb in VERBS),
        ["trian"],
        ["train", "--jsno"],
        ["train", "no/such/folder"],
        ["check", "no/such/folder"],
        ["version"],
        ["doctor"],
        ["runs"],
        ["get"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert loaded, done.stderr
    assert not set(HEAVY) & set(loaded)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "answer", "line"),
    [
        (["trian", "x"], 'no verb "trian". Did you mean "train"?', "inflame train --help"),
        (["xyzzy"], 'no verb "xyzzy".', "inflame --help"),
        (["--frob"], "--frob must come after a verb", "inflame --help"),
        (["runs", "--jsn"], 'no option --jsn. Did you mean "--json"?', "inflame runs --help"),
        (["train", "mnist", "--sede", "3"], 'no option --sede. Did you mean "--seed"?', "inflame train --help"),
        (["train", "mnist", "--seed"], "--seed needs a value", "seed=VALUE"),
        (["train"], "got nothing", "inflame train mnist"),
        (["train", "mnist", "auto"], "got mnist and auto", "inflame train mnist"),
        (["train", "mnits"], 'Did you mean "mnist"?', "mnist"),
        (["train", "mnist", "--weights", "no.safetensors"], "not a file", "Check the path"),
        (["train", "--in"], "expected one argument", "inflame train --help"),
        (["get", "fasion-mnist"], 'Did you mean "fashion-mnist"?', "fashion-mnist"),
        (["check"], "required: DATA", "inflame check --help"),
        (["check", "mnsit"], 'Did you mean "mnist"?', "mnist"),
        (["split", "mnist", "--splits", "train=much"], "not a number", "--splits train=0.8"),
        (["split", "mnist", "--out", "index.xls"], "not index.xls", "--out index.csv"),
        (["predict"], "needs a picture", "inflame predict new.jpg"),
        (["new", "3 birds!"], "can't name a model", "inflame new birds"),
        (["report"], "no run yet", "inflame train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_the_way_out(
    words: list[str], answer: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    problem, _, remedy = err.partition("  do: ")
    assert answer in problem
    assert line in remedy
    assert len(err.splitlines()) <= 3


def test_a_path_without_a_verb(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"inflame train {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("Gone.", remedy="Find it."), 2, ["error: Gone.", "do: Find it."]),
        (RunError("Broke.", remedy="Mend it.", where="here"), 1, ["error: Broke.", "where: here"]),
        (PermissionError(13, "Permission denied", "/secret"), 1, ["No permission for /secret", "do: "]),
        (ZeroDivisionError("division by zero"), 1, ["a mistake in inflame", "--debug"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_what_verbs_raise(
    error: BaseException,
    code: int,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(door, "_obey", fail)
    assert main(["runs"]) == code
    shown = capsys.readouterr().err
    assert all(word in shown for word in words)
    assert "Traceback" not in shown
    if not isinstance(error, KeyboardInterrupt):
        assert main(["runs", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


def test_every_error_of_ours_has_a_code_that_is_documented() -> None:
    def below(kind: type[InflameError]) -> list[type[InflameError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    assert {kind.code for kind in below(InflameError)} == {1, 2}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["doctor", "--json"], ["help", "train"]])
def test_a_closed_pipe_is_no_error(words: list[str]) -> None:
    """`inflame … | head -c 0`: the reader has gone before the first word."""
    command = [sys.executable, "-m", "inflame", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        said = child.stderr.read()
        child.wait(20)
    assert said == ""
    assert child.returncode in (0, 141)


def test_no_stdout_at_all() -> None:
    done = subprocess.run(["/bin/sh", "-c", f"{sys.executable} -m inflame version >&-"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_a_terminal_that_knows_few_letters() -> None:
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-m", "inflame", "--help"], capture_output=True, env=environment)
    assert done.returncode == 0
    assert b"inflame predict FILE?" in done.stdout


def test_help_can_be_asked_for_in_several_ways(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in ([], ["-h"], ["--help"], ["help"]):
        assert main(words) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1
    assert main(["help", "train"]) == 0
    assert capsys.readouterr().out.startswith("usage: inflame train")


def test_programs_get_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": "inflame predict needs a picture or a text.",
        "where": "",
        "remedy": "inflame predict new.jpg",
    }
    assert err.startswith("error: inflame predict needs a picture or a text.")
