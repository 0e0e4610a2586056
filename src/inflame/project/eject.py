"""The recipe of a finished run of `auto` as a model folder: every choice that was made by trying is written down.

What `auto` found out stands in the run folder (`chosen`, `ladder` and the pace in status.json); nothing is measured
again, so the numbers are the same. Needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from inflame.errors import UserError
from inflame.project import make
from inflame.runs import Run

TUNED = frozenset({"tail", "whole", "soup"})  # rungs that tune the network itself
_HELD = ("label_smoothing", "ema", "mixup", "cutmix", "cutout", "weight_decay")  # of the recipe, by its names
_PAIRS = {"items": 256, "rate": 0.085, "sgd": 0.21248}  # batches and rates of runs that don't say theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the run folder says: its status, its settings, and the names of the rungs that were taken."""

    run: Run
    status: dict[str, Any]
    settings: dict[str, Any]
    rungs: frozenset[str]

    @property
    def chosen(self) -> dict[str, Any]:
        """What `auto` noted for this purpose."""
        found: dict[str, Any] = self.status["chosen"]
        return found

    @property
    def road(self) -> str:
        """The folder of the template."""
        road: str = self.chosen["road"]
        return "tuned" if road == "photos" and TUNED & self.rungs else road

    @property
    def counted(self) -> bool:
        """Whether epochs were counted, and no clock ended them."""
        return bool(self.settings["hyperparam"]["num_epochs"] and not self.settings["budget"])


def answers(run: Run, name: str) -> dict[str, Any]:
    """What the template is told of a run, as plain JSON. UserError when the run is none of `auto`, or not done."""
    facts = _read(run, name)
    tells = {"small": _small, "texts": _texts, "photos": _photos, "tuned": _tuned}
    return {"made": "eject", "name": name, "like": "auto", **_told(facts), **tells[facts.road](facts)}


def default_name(run: Run) -> str:
    """`birds_model` for a run on birds."""
    return make.plain(f"{run.read_status().get('dataset', 'my')}_model")


def _read(run: Run, name: str) -> _Facts:
    status = run.read_status()
    model = str(status.get("model", "?"))
    if model != "auto":
        raise UserError(
            f"The run {run.name} was trained by {model}, whose code is a folder already.",
            where=str(run.path),
            remedy=f"inflame new {name} --like {model}",
        )
    rungs = frozenset(str(rung["name"]) for rung in status.get("ladder") or () if rung["accepted"])
    needed = {"road", *(("tails",) if TUNED & rungs else ())}
    if run.state != "done" or needed - (status.get("chosen") or {}).keys():
        why = f"it is {run.state}" if run.state != "done" else "it was made by an older inflame"
        raise UserError(
            f"The run {run.name} can't be written out: {why}.",
            where=str(run.path),
            remedy="Give its training command again, or name another run: inflame runs",
        )
    return _Facts(
        run=run,
        status=status,
        settings=json.loads((run.path / "config.json").read_bytes()),
        rungs=rungs,
    )


def _told(facts: _Facts) -> dict[str, Any]:
    """What is told of every run."""
    status, settings = facts.status, facts.settings
    return {
        "run": facts.run.name,
        "dataset": status["dataset"],
        "how": status["how"],
        "test": status.get("test") or status["val"],
        "tested": bool(status.get("test")),
        "seconds": round(status["seconds"]),
        "data": settings["io"]["training_input"],
        "seed": settings["seed"],
        "split_seed": settings.get("split_seed", 0),
        "limit": settings.get("limit"),
        "splits": settings.get("splits"),
        "weights": settings.get("weights", ""),
        "road": facts.road,
        "balanced": "balanced" in facts.rungs,
        "twice": "mirrored" in facts.rungs,
        "h": {name: value for name, value in settings["hyperparam"].items() if name not in _HELD},
    }


def _small(facts: _Facts) -> dict[str, Any]:
    """A net from scratch, or the linear model where that was as good. Not exact: where the clock ended the training."""
    chosen, h = facts.chosen, facts.settings["hyperparam"]
    net = chosen["net"] if "small net" in facts.rungs else "linear"
    pace = facts.status["pace of pairs" if net == "pairs" else "pace"]
    usual = _PAIRS if net == "pairs" else {"items": h["batch_size"], "rate": h["learning_rate"]}
    return {
        "net": net,
        "batch": chosen.get("batch", usual),  # runs of before have none
        **{name: chosen[name] for name in ("side", "channels", "mirrors", "canvas", "epochs")},
        "recipe": {name: chosen["recipe"][name] for name in _HELD},
        "shift": h["shift"] if chosen["channels"] > 1 else h["shift_grey"],
        "device": _device(pace),
        "preprocess": json.loads((facts.run.path / "bundle" / "preprocess.json").read_bytes()),
        "exact": net == "linear" or facts.counted,
    }


def _texts(facts: _Facts) -> dict[str, Any]:
    """A linear model of words, or one on what a sentence model makes of the texts."""
    chosen = facts.chosen
    found = {"sentences": bool(chosen.get("sentences")), "folds": chosen["folds"]}
    return {**found, "strength": chosen.get("strength", 0.0), "exact": True}


def _photos(facts: _Facts) -> dict[str, Any]:
    """A head on the frozen features of a pretrained network: its own labels, or a logistic regression."""
    named = "named" in facts.rungs and not {"probe", "mirrored"} & facts.rungs
    return {**_network(facts), "named": named, "exact": True}


def _tuned(facts: _Facts) -> dict[str, Any]:
    """The last stages of a pretrained network, or all of it, or the mean of both. Not exact: as `_small`."""
    chosen, status = facts.chosen, facts.status
    whole = bool({"whole", "soup"} & facts.rungs)
    recipe = status["kept"]["recipe of all"] if whole else {}
    return {
        **_network(facts),
        **{name: chosen[name] for name in ("tails", "tail_epochs", "strength")},
        "epochs": chosen["whole_epochs" if whole else "tail_epochs"],
        "whole": whole,
        "soup": "soup" in facts.rungs,
        "recipe": recipe,
        "mixes": bool(recipe.get("mixup") or recipe.get("cutmix")),
        "device": _device(status["pace of all"]) if whole else {},
        "exact": facts.counted,
    }


def _network(facts: _Facts) -> dict[str, Any]:
    """The pretrained network, and how photos go through it."""
    kept = facts.status["kept"]["backbone"]
    return {name: kept[name] for name in ("backbone", "size", "views", "share", "tail")}


def _device(pace: dict[str, Any]) -> dict[str, Any]:
    """What was fastest, as far as it isn't usual."""
    return {name: value for name, value in pace.items() if value not in (None, False)}
