"""What trials are judged by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inflame import plugins
from inflame.errors import UserError
from inflame.factory import objectives
from inflame.factory.results import best, ranked
from inflame.factory.trials import Sweep, Trial
from inflame.runs import Run

MNIST = plugins.model_folder("mnist")


def test_names_and_ways() -> None:
    assert objectives.understand(["val.accuracy"], MNIST) == (("val.accuracy",), ("maximize",))
    assert objectives.understand(["val_loss", "val.low:max"], MNIST) == (
        ("val_loss", "val.low"),
        ("minimize", "maximize"),
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["test.accuracy"], "no longer tested by it"),
        (["test_accuracy"], "no longer tested by it"),
        (["val.acc"], "No run reports"),
        (["latency"], 'Did you mean "latency_ms"'),
        (["seconds:less"], "large .max. or small"),
        (["seconds", "seconds"], "one objective or two"),
        (["seconds", "size_mb", "val.low"], "one objective or two"),
    ],
)
def test_what_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        objectives.understand(words, MNIST)


def test_a_number_that_the_code_reports(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "def train(settings):\n    run.metric(wobble=1.0, edge_loss=2.0)\n    x = 'wobble'\n"
    )
    assert objectives.understand(["wobble:min"], tmp_path) == (("wobble",), ("minimize",))
    (tmp_path / "train.py").write_text("def train(settings):\n    run.status(**{'edge_loss': 2.0})\n")
    assert objectives.understand(["edge_loss"], tmp_path) == (("edge_loss",), ("minimize",))


def test_values_of_a_run(tmp_path: Path) -> None:
    status = {
        "state": "done",
        "seconds": 12.5,
        "val": {"accuracy": 0.9, "low": 0.8, "n": 10},
        "serving": {"latency_ms": 1.5, "size_mb": 2.0},
    }
    (tmp_path / "status.json").write_text(json.dumps(status))
    rows = [{"val_accuracy": 0.7, "val_loss": 0.5, "mine": 1}, {"val_accuracy": 0.6, "val_loss": 0.7, "mine": 3}, {}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(path=tmp_path)
    names = ("val.accuracy", "val.low", "seconds", "latency_ms", "size_mb", "val_accuracy", "val_loss", "mine")
    assert objectives.values(run, names) == (0.9, 0.8, 12.5, 1.5, 2.0, 0.7, 0.5, 3.0)
    assert objectives.values(run, ("val.accuracy", "nothing")) == ()


def test_the_size_of_a_bundle_is_measured(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"x" * 1500)
    assert objectives.values(Run(path=tmp_path), ("size_mb",)) == (0.0015,)


def sweep(*directions: str) -> Sweep:
    return Sweep(name="s-001", folder="", model="m", objectives=("a", "b")[: len(directions)], directions=directions)


def test_the_best_of_trials() -> None:
    values = (0.3, 0.9, 0.5)
    states = ("done", "stopped", "done")
    trials = [Trial(number=n, state=s, values=(v,)) for n, (v, s) in enumerate(zip(values, states, strict=True))]
    trials.append(Trial(number=3, state="failed"))
    assert [one.number for one in ranked(sweep("maximize"), trials)] == [1, 2, 0, 3]
    assert [one.number for one in best(sweep("maximize"), trials)] == [2], "of those that came to their end"
    assert [one.number for one in best(sweep("minimize"), trials)] == [0]
    assert [one.number for one in best(sweep("maximize"), trials[1:2])] == [1], "when none did"
    assert best(sweep("maximize"), []) == []


def test_the_front_of_two() -> None:
    pairs = [(0.9, 5.0), (0.8, 1.0), (0.7, 1.0), (0.9, 4.0), (0.95, 9.0)]
    trials = [Trial(number=n, state="done", values=pair) for n, pair in enumerate(pairs)]
    assert sorted(one.number for one in best(sweep("maximize", "minimize"), trials)) == [1, 3, 4]
