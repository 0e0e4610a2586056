"""The recipe of a finished run of `auto` as a model folder: every choice that was made by trying is written down.

What `auto` found out stands in the run folder (`chosen`, `ladder` and the pace in status.json); nothing is measured
again, so the numbers are the same. Needs no torch.
"""

from __future__ import annotations

import json
from typing import Any

from inflame import __version__
from inflame.errors import UserError
from inflame.plugins import model_folder
from inflame.project import make
from inflame.runs import Run

# Rungs that tune the network itself: the model that does that in plain sight, and which part of it learns.
TUNED = {"tail": "tail", "whole": "all", "soup": "all"}
_HELD = ("label_smoothing", "ema", "mixup", "cutmix", "cutout", "weight_decay")  # of the recipe, by its names


def answers(run: Run, name: str) -> dict[str, Any]:
    """What the template is told of a run, as plain JSON. UserError when the run is none of `auto`, not done, or tuned
    a network."""
    status = run.read_status()
    model = str(status.get("model", "?"))
    if model != "auto":
        raise UserError(
            f"The run {run.name} was trained by {model}, whose code is a folder already.",
            where=str(run.path),
            remedy=f"inflame new {name} --like {model}",
        )
    chosen = status.get("chosen") or {}
    if run.state != "done" or "road" not in chosen:
        why = f"it is {run.state}" if run.state != "done" else "it was made by an older inflame"
        raise UserError(
            f"The run {run.name} can't be written out: {why}.",
            where=str(run.path),
            remedy="Give its training command again, or name another run: inflame runs",
        )
    rungs = [str(rung["name"]) for rung in status["ladder"] if rung["accepted"]]
    settings = json.loads((run.path / "config.json").read_bytes())
    tuned = [rung for rung in rungs if rung in TUNED]
    if tuned:
        raise UserError(
            f"The run {run.name} tuned the network ({', '.join(tuned)}), which is not written out.",
            where=str(run.path),
            remedy=f"inflame new {name} --like fowl_classifier, then set tune = {json.dumps(TUNED[tuned[-1]])} in its "
            "model-config.toml: it does that in plain sight",
        )
    return {"made": "eject", "name": name, "like": "auto", **_told(run, status, settings, chosen, rungs)}


def render(answers: dict[str, Any]) -> make.Files:
    """The model folder: path → text."""
    folder = make.TEMPLATES / "eject"
    pages = make.environment(folder)
    given = {**answers, "version": __version__}
    names = ["train.py", "model-config.toml", *([] if answers["road"] == "texts" else ["net.py"])]
    written = {name: pages.get_template(f"{answers['road']}/{name}.jinja").render(given) for name in names}
    alike = model_folder("auto")  # what every model folder has
    return {**written, **{name: (alike / name).read_text(encoding="utf-8") for name in ("app.py", "score.py")}}


def default_name(run: Run) -> str:
    """`birds_model` for a run on birds."""
    return make.plain(f"{run.read_status().get('dataset', 'my')}_model")


def _told(
    run: Run, status: dict[str, Any], settings: dict[str, Any], chosen: dict[str, Any], rungs: list[str]
) -> dict[str, Any]:
    h = settings["hyperparam"]
    found = {
        "run": run.name,
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
        "road": chosen["road"],
        "balanced": "balanced" in rungs,
        "twice": "mirrored" in rungs,
        "h": {name: value for name, value in h.items() if name not in _HELD},
    }
    tells = {"small": _small, "texts": _texts, "photos": _photos}
    return {**found, **tells[chosen["road"]](run, status, settings, chosen, rungs)}


def _small(
    run: Run, status: dict[str, Any], settings: dict[str, Any], chosen: dict[str, Any], rungs: list[str]
) -> dict[str, Any]:
    """A net from scratch, or the linear model where that was as good. Not exact: where the clock ended the training."""
    net = chosen["net"] if "small net" in rungs else "linear"
    pace = status["pace of pairs" if net == "pairs" else "pace"]
    h = settings["hyperparam"]
    device = {
        name: value for name, value in pace.items() if value not in (None, False)
    }  # what differs from the usual, fp32 on all threads
    return {
        "net": net,
        "side": chosen["side"],
        "channels": chosen["channels"],
        "mirrors": chosen["mirrors"],
        "canvas": chosen["canvas"],
        "epochs": chosen["epochs"],
        "recipe": {name: chosen["recipe"][name] for name in _HELD},
        "shift": h["shift"] if chosen["channels"] > 1 else h["shift_grey"],
        "device": device,
        "preprocess": json.loads((run.path / "bundle" / "preprocess.json").read_bytes()),
        "exact": net == "linear" or bool(h["num_epochs"] and not settings["budget"]),
    }


def _texts(
    run: Run, status: dict[str, Any], settings: dict[str, Any], chosen: dict[str, Any], rungs: list[str]
) -> dict[str, Any]:
    sentences = bool(chosen.get("sentences"))
    return {
        "sentences": sentences,
        "folds": chosen["folds"],
        "strength": chosen.get("strength", 0.0),
        "exact": True,
    }


def _photos(
    run: Run, status: dict[str, Any], settings: dict[str, Any], chosen: dict[str, Any], rungs: list[str]
) -> dict[str, Any]:
    """A head on the frozen features of a pretrained network: its own labels, or a logistic regression."""
    kept = status["kept"]["backbone"]
    return {
        "backbone": kept["backbone"],
        **{name: kept[name] for name in ("size", "views", "share", "tail")},
        "named": "named" in rungs and not {"probe", "mirrored"} & set(rungs),
        "exact": True,
    }
