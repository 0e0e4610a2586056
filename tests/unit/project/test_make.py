"""A project is whole, and written out from every kind of run as code that is in order."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from inflame.config import load
from inflame.errors import DataError
from inflame.project import eject, make
from inflame.runs import Run

PICTURES = {"size": 32, "resize": 32, "channels": 3, "mean": [0.5, 0.25, 0.1], "std": [0.2, 0.2, 0.2]}
RECIPE = {"label_smoothing": 0.2, "ema": 0.0, "mixup": 0.0, "cutmix": 0.0, "cutout": 0.0, "weight_decay": 0.1}
SETTINGS = {
    "model": "auto",
    "io": {"training_input": "digits"},
    "hyperparam": {
        "num_epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.01,
        "warmup": 0.2,
        "shift": 2,
        "shift_grey": 0,
        "folds": 5,
        "label_smoothing": -1.0,
        "tail_batch_size": 32,
        "tail_learning_rate": 0.001,
        "tail_weight_decay": 0.05,
        "tail_label_smoothing": 0.1,
        "tail_decay": 0.7,
        "tail_ema": 0.99,
        "whole_learning_rate": 0.0005,
    },
    "seed": 7,
    "limit": None,
    "splits": None,
    "weights": "",
    "budget": None,
}


TUNED = {"road": "photos", "tails": 4, "tail_epochs": 9, "whole_epochs": 7, "strength": 0.003}


def a_run(folder: Path, rungs: str, **chosen: Any) -> Run:
    """What a finished run of `auto` leaves for `eject` to read."""
    rate = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 1000}
    status = {
        "state": "done",
        "model": "auto",
        "dataset": "digits",
        "how": "some way",
        "seconds": 3.2,
        "test": rate,
        "val": rate,
        "chosen": chosen,
        "pace": {"precision": "bf16", "threads": 2},
        "pace of pairs": {"precision": "fp32", "compiled": True, "channels_last": False},
        "pace of all": {"precision": "fp32", "channels_last": True, "threads": None},
        "kept": {
            "backbone": {"backbone": "b.c", "size": 224, "views": 2, "share": 1.0, "tail": True, "seconds": 0.1},
            "recipe of all": {**RECIPE, "decay": 0.7, "trivial": False, **chosen.pop("all", {})},
        },
        "ladder": [{"name": name, "accepted": True} for name in ["majority", *rungs.split(",")]],
    }
    (folder / "bundle").mkdir(parents=True)
    for name, value in (("status", status), ("config", SETTINGS), ("bundle/preprocess", PICTURES)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Run(path=folder)


def small(**more: Any) -> dict[str, Any]:
    given = {"net": "simple", "epochs": 3, "side": 32, "channels": 3, "mirrors": True, "canvas": False}
    return {"road": "small", **given, "recipe": {**RECIPE, **more.pop("recipe", {})}, **more}


ROADS = {
    "simple": ("linear,small net", small()),
    "narrow": ("linear,small net", small(net="narrow", channels=1)),
    "linear": ("linear", small()),
    "grey": ("linear,small net", small(channels=1, mirrors=False, recipe={"cutout": 0.25, "ema": 0.9})),
    "pairs": ("linear,small net,mirrored,balanced", small(net="pairs", canvas=True, recipe={"ema": 0.9})),
    "mixed": ("linear,small net,balanced", small(recipe={"mixup": 0.2, "cutmix": 1.0})),
    "words": ("words", {"road": "texts", "strength": 3.0, "folds": 3}),
    "sentences": ("words,sentences,balanced", {"road": "texts", "sentences": True, "folds": 5}),
    "probe": ("probe", {"road": "photos"}),
    "twice": ("named,probe,mirrored,balanced", {"road": "photos"}),
    "named": ("named", {"road": "photos"}),
    "tails": ("probe,mirrored,tail,balanced", TUNED),
    "a tail": ("probe,tail", {**TUNED, "tails": 1}),
    "whole": ("probe,mirrored,whole,balanced", {**TUNED, "all": {"ema": 0.99, "trivial": True, "cutout": 0.2}}),
    "soup": ("named,tail,whole,soup", {**TUNED, "tails": 1, "all": {"mixup": 0.2}}),
}


@pytest.mark.parametrize("road", ROADS)
def test_what_is_written_out_is_code_in_order(road: str, tmp_path: Path) -> None:
    rungs, chosen = ROADS[road]
    answers = eject.answers(a_run(tmp_path / "run", rungs, **chosen), "mine")
    assert json.loads(json.dumps(answers)) == answers  # upgrade reads them again
    project = tmp_path / "mine"
    made = make.write(project, answers, bare=True)
    assert {"app.py", "train.py", "score.py", "model-config.toml"} <= set(made)
    for name in made:
        text = (project / name).read_text()
        assert not re.search(r"<%|%>|<<|>>|[ \t]$", text, re.MULTILINE), name
        if name.endswith(".py"):
            ast.parse(text)
    assert tomllib.loads((project / "model-config.toml").read_text())["seed"] == 7
    settings = load(project, ())
    used = set(re.findall(r"\bh\.(\w+)", (project / "train.py").read_text()))
    assert used == set(settings.hyperparam), "what is set is used, and what is used is set"
    ruff = [sys.executable, "-m", "ruff"]
    style = ["--isolated", "--line-length", "120"]
    order = ["--select", "E,F,I,B,UP,SIM,RET", "--config", 'lint.isort.known-first-party=["inflame"]']
    checked = subprocess.run([*ruff, "check", *style, *order, project], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    formatted = subprocess.run([*ruff, "format", "--diff", *style, project], capture_output=True, text=True)
    assert formatted.returncode == 0, formatted.stdout


@pytest.mark.parametrize("made", ["new", "eject"])
def test_a_project_is_whole(made: str, tmp_path: Path) -> None:
    answers: dict[str, Any] = {"made": "new", "name": "My-birds", "like": "mnist"}
    if made == "eject":
        answers = eject.answers(a_run(tmp_path / "run", "words", road="texts", strength=1.0, folds=3), "My-birds")
    target = tmp_path / "My-birds"
    files = make.write(target, answers)
    around = {"Makefile", "Dockerfile", ".github/workflows/ci.yml", "tests/test_model.py", "look.ipynb", "README.md"}
    assert around | {"app.py", "train.py", "model-config.toml"} <= set(files)
    assert make.recall(target)[1:] == (answers, {name: (target / name).read_text() for name in files})
    ast.parse((target / "tests" / "test_model.py").read_text())
    cells = json.loads((target / "look.ipynb").read_text())["cells"]
    assert cells[1]["source"][0] == "import inflame\n"
    workflow = yaml.safe_load((target / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    dockerfile = (target / "Dockerfile").read_text()
    assert dockerfile.rindex("USER 10001") > dockerfile.rindex("RUN")
    assert "COPY run/bundle /srv/My-birds\n" in dockerfile
    targets = subprocess.run(["make", "help"], cwd=target, capture_output=True, text=True, check=True).stdout
    assert all(name in targets for name in ("install", "train", "test", "serve", "image"))


@pytest.mark.parametrize(
    ("rungs", "chosen", "change", "says"),
    [
        ("probe,tail", {"road": "photos"}, {}, "older inflame"),
        ("small net", {}, {}, "older inflame"),
        ("small net", small(), {"state": "failed"}, "it is failed"),
        ("small net", small(), {"model": "mnist"}, "--like mnist"),
    ],
)
def test_a_run_that_can_not_be_written_out(
    rungs: str, chosen: dict[str, Any], change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    from inflame.errors import UserError

    run = a_run(tmp_path / "run", rungs, **chosen)
    (run.path / "status.json").write_text(json.dumps({**run.read_status(), **change}))
    with pytest.raises(UserError) as caught:
        eject.answers(run, "mine")
    assert says in caught.value.explain()


def test_what_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not made by inflame new"):
        make.recall(tmp_path)
    (tmp_path / make.ORIGIN).mkdir()
    (tmp_path / make.ORIGIN / "project.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        make.recall(tmp_path)
