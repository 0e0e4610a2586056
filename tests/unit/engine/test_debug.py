"""Looks at a training: can it learn one batch, does the whole road hold, where does the time go."""

from __future__ import annotations

import gzip
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inflame import config, plugins
from inflame.errors import SettingError
from inflame.model.engine import debug
from inflame.model.engine.learner import Learner
from inflame.model.news_text.train import train


class Noise:
    """Random pictures with random labels: to be learnt by heart, or not at all."""

    def __init__(self, items: int = 64, size: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(items, 1, 6, 6, generator=generator)
        self.y = torch.randint(0, 3, (items,), generator=generator)
        self.size = size

    def __len__(self) -> int:
        return len(self.y) // self.size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in range(start, len(self)):
            rows = slice(batch * self.size, (batch + 1) * self.size)
            yield self.x[rows], self.y[rows]


def learner(*, frozen: bool = False) -> Learner:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0 if frozen else 0.02)
    loader = Noise()
    return Learner(
        net=net, criterion=nn.CrossEntropyLoss(), optimizer=optimizer, train_loader=loader, val_loader=loader
    )


def test_a_sound_net_learns_one_batch_by_heart() -> None:
    said: list[str] = []
    found = debug.overfit(learner(), lambda topic, text: said.append(text))
    assert found["learned"] is True
    assert found["accuracy"] == 1.0
    assert found["last_loss"] < 0.05 * found["first_loss"]
    assert found["steps"] < debug.STEPS
    assert "fit together" in said[-1]
    assert said[0].startswith("epoch 1 of")  # a large net takes minutes


def test_one_that_does_not_learn_is_found_out() -> None:
    found = debug.overfit(learner(frozen=True), lambda topic, text: None)
    assert found["learned"] is False
    assert found["steps"] == debug.STEPS


def test_a_profile_says_where_time_goes_and_leaves_a_trace(tmp_path: Path) -> None:
    said: list[str] = []
    found = debug.profile(learner(), tmp_path, lambda topic, text: said.append(text))
    assert set(found["milliseconds"]) == {"data", "forward", "backward", "step", "overhead"}
    assert all(value >= 0 for value in found["milliseconds"].values())
    assert found["milliseconds"]["backward"] > 0
    with gzip.open(tmp_path / debug.TRACE, "rt") as file:
        assert any("addmm" in str(event.get("name")) for event in json.load(file)["traceEvents"])
    assert any(line.startswith("backward") for line in said)
    assert [path.name for path in tmp_path.iterdir()] == [debug.TRACE]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inflame", "train", "mnist", "io.training_input=digits", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_overfit_from_the_command_line() -> None:
    done = run("--debug", "overfit")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["learned"] is True


def test_tiny_takes_the_whole_road(home: Path) -> None:
    done = run("debug=tiny", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["bundle"], "bundle.json").is_file()
    assert result["val"]["n"] + result["test"]["n"] < debug.ITEMS


def test_a_misspelt_look_is_guessed() -> None:
    done = run("debug=overfitt")
    assert done.returncode == 2
    assert 'Did you mean "overfit"' in done.stderr


@pytest.mark.parametrize("mode", ["overfit", "profile"])
def test_a_look_at_batches_that_there_are_none_of_is_refused(tmp_path: Path, mode: str) -> None:
    for name in ("money", "sport"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.txt").write_text(f"{name} of the day {number}")
    words = [f"io.training_input={tmp_path}", f"debug={mode}"]
    with pytest.raises(SettingError, match="fitted as a whole") as caught:
        train(config.load(plugins.model_folder("news_text"), words))
    assert "debug=tiny" in caught.value.remedy


_STOPS = """

def stopping(learner, x, y):
    logits = learner.predict(x)
    loss = learner.loss(logits, y)
    if learner.at.step == 3:
        breakpoint()
    learner.backward(loss)
    learner.step()
    learner.zero_grad()
    return logits.detach(), loss.detach()
"""


def test_a_breakpoint_in_a_step_stops_shows_and_goes_on(tmp_path: Path) -> None:
    folder = shutil.copytree(plugins.model_folder("mnist"), tmp_path / "own")
    code = (folder / "train.py").read_text().replace("optimizer=optimizer,", "optimizer=optimizer, step=stopping,")
    (folder / "train.py").write_text(code + _STOPS)
    mine, theirs = pty.openpty()
    words = [sys.executable, "app.py", "train", "digits", "hyperparam.num_epochs=1", f"output={tmp_path / 'run'}"]
    with subprocess.Popen(
        words, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as child:
        os.close(theirs)
        shown = until(mine, b"(Pdb) ")
        assert b"stopping" in shown
        os.write(mine, b"p loss\n")
        assert b"tensor(" in until(mine, b"(Pdb) ")
        os.write(mine, b"c\n")
        rest = until(mine, b"")
    os.close(mine)
    assert child.returncode == 0, rest
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


def until(terminal: int, words: bytes) -> bytes:
    """What is shown up to these words; without any, up to the end."""
    seen = b""
    while not words or words not in seen:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # Linux says so when the last process has gone
            more = b""
        if not more:
            return seen
        seen += more
    return seen
