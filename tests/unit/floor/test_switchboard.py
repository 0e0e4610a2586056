import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inflame import errors, runs
from inflame.errors import UserError
from inflame.model.engine import switchboard
from inflame.model.engine.switchboard import understand

APP = """\
import sys
from pathlib import Path
from inflame.model.engine.switchboard import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
"""
TOML = """\
# python app.py train
# 97 % in 5 s on 2 cores
[hyperparam]
what = "answer"  # what to do
learning_rate = 0.1

[io]
training_input = "digits"
"""
TRAIN = """\
import sys, time
from inflame.errors import Diverged
from inflame.runs import Run
from .net import LABEL


def train(settings):
    h = settings.hyperparam
    with Run.begin(settings, settings.identity(), "d") as run:
        print("a library says hello")
        run.say(f"resumed: {run.resumed}")
        if h.what == "wait":
            print("ready", file=sys.stderr, flush=True)
            time.sleep(60)
        if h.what == "swallow":
            print("ready", file=sys.stderr, flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt as error:
                raise RuntimeError("a library made this of Ctrl-C") from error
        if h.what == "diverge":
            raise Diverged("The loss is not finite.", where="epoch 3", remedy="hyperparam.learning_rate=0.01")
        if h.what == "fail":
            raise ZeroDivisionError("by chance")
        if h.what == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if h.what == "full":
            raise OSError(28, "No space left on device", "/disk/last")
        if h.what == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        if h.what == "other":
            import a_package_that_is_not_here
        if h.what == "exit":
            sys.exit(3)
        return {
            "accuracy": 0.97, "lr": h.learning_rate, "input": settings.io.training_input,
            "prediction": {"label": LABEL, "probability": 0.99984},
        }
"""


def line(text: str) -> int:
    return TRAIN[: TRAIN.index(text)].count("\n") + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "my birds (é)")


def make(folder: Path, **files: str) -> Path:
    folder.mkdir()
    texts = {"app": APP, "train": TRAIN, "net": 'LABEL = "é 7"\n', **files}
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "model-config.toml").write_text(TOML)
    return folder


def app(folder: Path, *words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "app.py"), *words],
        capture_output=True,
        text=True,
        cwd=cwd or folder,
        env={**os.environ, **env},
        timeout=60,
    )


# --- what comes out ------------------------------------------------------------------------------


def test_the_last_line_is_the_sample_prediction(folder: Path) -> None:
    done = app(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"label": "é 7", "probability": "0.9998"}\n'
    assert "a library says hello" in done.stderr
    assert [run.state for run in runs.list_runs()] == ["done"]


def test_json_is_the_whole_result(folder: Path) -> None:
    done = app(folder, "train", "somewhere/else", "hyperparam.learning_rate=0.2", "--json", cwd=folder.parent)
    result = json.loads(done.stdout)
    assert (result["accuracy"], result["lr"], result["input"]) == (0.97, 0.2, "somewhere/else")
    assert result["prediction"] == {"label": "é 7", "probability": 0.99984}


def test_a_terminal_that_knows_few_letters(folder: Path) -> None:
    done = app(folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert json.loads(done.stdout)["label"] == "é 7"


def test_help_explains_the_settings_of_this_folder(folder: Path) -> None:
    done = app(folder, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("python app.py train\n97 % in 5 s on 2 cores\n")
    assert "hyperparam.what=answer" in done.stdout
    assert "what to do" in done.stdout
    assert "output" in done.stdout
    assert "python app.py train in=60s seed=1" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_another_verb_is_another_module(folder: Path) -> None:
    (folder / "score.py").write_text("def score(settings):\n    return {'scored': settings.io.inference_input}\n")
    assert json.loads(app(folder, "score", "./a.jpg").stdout) == {"scored": "./a.jpg"}


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ["seed=abc"],
            2,
            ["seed must be a whole number", "where: command line: seed=abc", "do: For example"],
        ),
        (["lr=1"], 2, ['Did you mean "hyperparam.learning_rate"?']),
        (["trian"], 2, ['Did you mean "train"?']),
        (["--inn", "5s"], 2, ['Did you mean "--in"?']),
        (["score"], 2, ["no score.py"]),
        (["hyperparam.what=diverge"], 1, ["The loss is not finite.", "where: epoch 3", "do: hyperparam.learning_rate"]),
        (
            ["hyperparam.what=fail"],
            1,
            ["ZeroDivisionError: by chance", f"train.py:{line('ZeroDivision')}", "--debug", "same command"],
        ),
        (["hyperparam.what=memory"], 1, ["too little memory", "batch_size"]),
        (["hyperparam.what=full"], 1, ["The disk is full", "/disk/last", "same command"]),
        (["hyperparam.what=torch"], 2, ["needs the package torch", "pip install 'inflame[train]'"]),
        (["hyperparam.what=other"], 2, ["pip install a_package_that_is_not_here", f"train.py:{line('a_package')}"]),
        (["hyperparam.what=exit"], 3, []),
        (["--in"], 2, ["--in needs a value", "--in 60s"]),
        (["--fresh", "mnist", "digits"], 2, ["takes one thing to work on, not 2: mnist digits"]),
        (["--seed=1", "--bogus"], 2, ["There is no option --bogus", "--help"]),
    ],
)
def test_an_error_is_one_message_and_a_code(
    folder: Path, capfd: pytest.CaptureFixture[str], words: list[str], code: int, says: list[str]
) -> None:
    assert switchboard.main(folder, words) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert all(text in err for text in says), err
    assert "Traceback" not in err
    assert err.count("error: ") == (1 if says else 0)


def test_an_error_for_programs_is_json(folder: Path) -> None:
    done = app(folder, "hyperparam.what=diverge", "--json")
    assert json.loads(done.stdout) == {
        "error": "The loss is not finite.",
        "where": "epoch 3",
        "remedy": "hyperparam.learning_rate=0.01",
    }
    assert "error: The loss is not finite." in done.stderr


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = app(folder, "hyperparam.what=fail", "--debug")
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-3].startswith("error: ZeroDivisionError")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train": "def trane(settings): ...  # what learning_rate training_input"}, None),
        ({"train": TRAIN.replace("from .net", "from .nett")}, "There is no module nett here"),
        ({"train": TRAIN + "\n\ndef f(:\n"}, "train.py is not valid Python"),
    ],
)
def test_a_broken_folder_is_your_input(tmp_path: Path, files: dict[str, str], says: str | None) -> None:
    folder = make(tmp_path / "m", **files)
    done = app(folder)
    assert done.returncode == 2, done.stderr
    assert (says or "no file of this folder reads it") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_without_its_function(tmp_path: Path) -> None:
    code = "def trane(s):\n    return s.hyperparam.what, s.hyperparam.learning_rate, s.io.training_input\n"
    done = app(make(tmp_path / "m", train=code))
    assert (done.returncode, "no function train(settings)" in done.stderr) == (2, True)


# --- being stopped -------------------------------------------------------------------------------


@pytest.fixture
def waiting(folder: Path) -> Iterator[Any]:
    """Starts the app and gives it back when its training waits to be stopped."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(folder / "app.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(child)
        assert child.stderr is not None
        while child.stderr.readline().strip() != "ready":
            assert child.poll() is None
        time.sleep(0.05)
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_stopped_training_says_how_to_go_on(waiting: Any, folder: Path, number: int, code: int) -> None:
    child = waiting("hyperparam.what=wait", "--json")
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == code
    assert "same command" in err
    assert "Traceback" not in err
    assert json.loads(out)["remedy"].startswith("Give the same command again")
    assert [run.state for run in runs.list_runs()] == ["interrupted"]


def test_the_same_command_goes_on_after_a_kill(waiting: Any, folder: Path) -> None:
    child = waiting("hyperparam.what=wait")
    child.kill()
    child.wait()
    again = waiting("hyperparam.what=wait")
    again.send_signal(signal.SIGINT)
    again.wait(20)
    (run,) = runs.list_runs()
    assert "resumed: True" in (run.path / "log.txt").read_text()


def test_ctrl_c_is_ctrl_c_whatever_a_library_makes_of_it(waiting: Any) -> None:
    child = waiting("hyperparam.what=swallow")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, "interrupted" in err) == (130, True)


def test_a_reader_that_has_seen_enough(folder: Path) -> None:
    words = f"'{sys.executable}' '{folder / 'app.py'}' --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode in (0, 141)
    assert done.stderr == ""


# --- in this process -----------------------------------------------------------------------------


def test_two_folders_with_the_same_module_names_do_not_meet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, label in (("a", "one"), ("b", "two")):
        (tmp_path / place).mkdir()
        folder = make(tmp_path / place / "same", net=f'LABEL = "{label}"\n')
        assert switchboard.main(folder, []) == 0
        assert json.loads(capsys.readouterr().out)["label"] == label


def test_main_raises_nothing_and_puts_the_signals_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def refuse(*args: object) -> None:
        raise errors.StorageError("full", remedy="free some")

    monkeypatch.setattr(switchboard.config, "load", refuse)
    assert switchboard.main(folder, []) == 1
    assert "free some" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_model_inside_inflame_is_imported_by_its_own_name() -> None:
    assert switchboard.package(Path(switchboard.__file__).parents[1] / "mnist") == "inflame.model.mnist"


@pytest.mark.parametrize(
    ("words", "verb", "settings"),
    [
        ([], "train", ()),
        (["train", "--in", "60s"], "train", ("in=60s",)),
        (["--in=60s", "--seed", "3"], "train", ("in=60s", "seed=3")),
        (["--fresh", "--epochs", "5"], "train", ("fresh=true", "hyperparam.num_epochs=5")),
        (["digits"], "train", ("io.training_input=digits",)),
        (["score", "some/x.jpg", "seed=1"], "score", ("io.inference_input=some/x.jpg", "seed=1")),
        (["--hyperparam.learning-rate=1"], "train", ("hyperparam.learning_rate=1",)),
        (
            ["--gpu", "2", "--input", "s3://data/x", "--output=gs://runs/1"],
            "train",
            ("devices=2", "io.training_input=s3://data/x", "output=gs://runs/1"),
        ),
        (["--input=photos/", "score"], "score", ("io.inference_input=photos/",)),
        (["text=letters/", "--explain"], "train", ("io.training_input=letters/", "explain=true")),
    ],
)
def test_words(words: list[str], verb: str, settings: tuple[str, ...]) -> None:
    understood = understand(words)
    assert (understood.verb, understood.settings) == (verb, settings)


@pytest.mark.parametrize("words", [["--in"], ["--wieghts", "x"], ["traain"], ["a/b", "c/d"], ["train", "train"]])
def test_words_that_mean_nothing(words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        understand(words)
    assert caught.value.remedy


def test_a_typo_is_answered_without_the_model_being_loaded(folder: Path) -> None:
    (folder / "train.py").write_text("raise SystemExit('loaded')\n" + TRAIN)
    done = app(folder, "sed=1")
    assert (done.returncode, 'Did you mean "seed"?' in done.stderr) == (2, True)


def test_what_the_result_may_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "score.py").write_text(
        "import numpy as np\n\n\ndef score(settings):\n"
        "    return {'accuracy': np.float32(0.5), 'place': settings.io.inference_input,"
        " 'prediction': {'label': 7, 'probability': 'unknown'}}\n"
    )
    assert switchboard.main(folder, ["score", "--text=hello", "--gpu", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["accuracy"], told["place"]) == (0.5, "hello")
    assert switchboard.main(folder, ["score", "--input=here/"]) == 0
    assert json.loads(capsys.readouterr().out) == {"label": "7", "probability": "unknown"}


def test_help_in_this_process_and_words_of_a_model_that_leaves(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert switchboard.main(folder, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "97 % in 5 s on 2 cores" in shown
    assert "# what to do" not in shown
    assert max(map(len, shown.splitlines())) <= 110
    (folder / "score.py").write_text("import sys\n\n\ndef score(settings):\n    sys.exit('not today')\n")
    assert switchboard.main(folder, ["score"]) == 1
    assert capsys.readouterr().err == "not today\n"


def test_an_error_in_this_process_for_programs_and_for_the_curious(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert switchboard.main(folder, ["hyperparam.what=fail", "--json", "--debug"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "ZeroDivisionError: by chance"
    assert err.count("Traceback") == 1
