"""What a run folder says, as one JSON value: the content of `report.json`, and all that `report.html` shows.

Read from files alone, so that a report can be remade on another machine or years later. Whatever is missing (a run
that was stopped early, pictures that moved) is left out, never invented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inflame.errors import DataError
from inflame.model.engine import calibrate, metrics
from inflame.model.engine.calibrate import Calibration

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 1
DOUBTFUL = 0.05  # a label is suspect when a model that never saw the item gives it less than this, or half of chance
CURVE = 200  # points kept of a curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """predictions.parquet as arrays; labels and answers are indices into `classes`, `table` holds the rest."""

    classes: tuple[str, ...]
    table: pa.Table
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float32]  # [n, K], calibrated

    def of(self, split: str) -> Answers:
        """The answers for the items of one split."""
        rows = np.flatnonzero(np.asarray(pc.equal(self.table["split"], split).combine_chunks()))
        return Answers(
            classes=self.classes,
            table=self.table.take(pa.array(rows)),
            labels=self.labels[rows],
            predicted=self.predicted[rows],
            probabilities=self.probabilities[rows],
        )

    def __len__(self) -> int:
        return len(self.labels)


def gather(folder: Path, *, pictures: int = 24) -> dict[str, Any]:
    """Everything the report of this run folder says. `pictures`: how many mistakes and suspects are named.

    status.json may hold a `ladder`, one `{"name", "accuracy", "n", "p", "accepted", "seconds", "note"}` per rung that
    was tried; what a rung doesn't say is left empty.
    Raises DataError when the folder is no run folder at all.
    """
    status, dataset = _json(folder / "status.json"), _json(folder / "dataset.json")
    if not status and not dataset:
        raise DataError(
            f"{folder} is not a run folder: it has neither status.json nor dataset.json.",
            where=str(folder),
            remedy="Name a run; `inflame runs` lists them.",
        )
    answers = _answers(folder, dataset)
    calibration = Calibration.from_json(_json(folder / "bundle" / "calibration.json"))
    config, bundle = _json(folder / "config.json"), _json(folder / "bundle" / "bundle.json")
    found = {
        "format": FORMAT,
        "run": folder.resolve().name,
        "state": status.get("state", ""),
        "model": status.get("model", ""),
        "time": {
            "seconds": status.get("seconds"),
            "budget": config.get("budget"),
            "started": _moment(status.get("started")),
        },
        "bundle": {"version": bundle.get("version", ""), "dataset": bundle.get("dataset", {})} if bundle else None,
        "dataset": (data := _dataset(folder, dataset)),
        "reasons": [row for row in status.get("why") or () if {"choice", "taken", "why"} <= set(row)],
        "looks": looks if {"plain", "mirrored", "n"} <= set(looks := status.get("looks") or {}) else None,
        "spent": spent if isinstance(spent := status.get("spent"), dict) else {},
        "ladder": [_rung(rung) for rung in status.get("ladder") or () if isinstance(rung, dict)],
        "curves": curve_rows(folder),
        "faults": sorted(dataset.get("faults") or (), key=lambda f: _SEVERITY.get(f.get("severity"), 3)),
        "provenance": _provenance(_json(folder / "provenance.json")),
        "settings": config,
        "words": _json(folder / "words.json"),
    }
    counts = {name: of.get("train", 0) for name, of in data.get("counts", {}).items()}
    return {**found, **(_results(answers, calibration, counts, pictures) if answers else {})}


def curve_rows(folder: Path) -> list[dict[str, float]]:
    """The numbers of metrics.jsonl, one row per epoch (the later one where a resume made two), thinned when long. Where
    a run trained in stages, those of the last one: every stage has its own clock."""
    rows: dict[Any, dict[str, float]] = {}
    lines = _lines(folder / "metrics.jsonl")
    for number, line in enumerate(lines):
        if line.get("stage") != lines[-1].get("stage"):
            continue
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        key = line.get("epoch", number)
        rows.pop(key, None)
        rows[key] = numbers
    found = list(rows.values())
    return found if len(found) <= CURVE else [found[i] for i in np.linspace(0, len(found) - 1, CURVE).astype(int)]


def _moment(seconds: Any) -> str:
    """Seconds since 1970 as `2026-01-02 03:04`, in UTC."""
    if not isinstance(seconds, (int, float)):
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


# --- reading ---------------------------------------------------------------------------------------

_SEVERITY = {"error": 0, "warning": 1, "info": 2}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes()
    except OSError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    return [row for row in rows if isinstance(row, dict)]


def _answers(folder: Path, dataset: dict[str, Any]) -> Answers | None:
    try:
        table = pq.read_table(folder / "predictions.parquet")
        names = json.loads((folder / "bundle" / "classes.json").read_bytes())
    except (pa.ArrowException, OSError, ValueError):
        try:
            table, names = pq.read_table(folder / "predictions.parquet"), dataset["classes"]
        except (pa.ArrowException, OSError, KeyError):
            return None
    values = pa.array(names, pa.string())
    labels = pc.index_in(table["label"].cast(pa.string()), value_set=values)
    known = labels.is_valid()
    table, labels = table.filter(known), labels.filter(known)
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    probabilities = flat.astype(np.float32).reshape(-1, len(names))
    return Answers(
        classes=tuple(names),
        table=table.drop_columns("probabilities"),
        labels=np.asarray(labels, dtype=np.int64),
        predicted=probabilities.argmax(axis=1).astype(np.int64) if len(flat) else np.zeros(0, np.int64),
        probabilities=probabilities,
    )


def _dataset(folder: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    kept = {key: dataset.get(key, "") for key in ("name", "kind", "version", "licence", "source", "root")}
    found: dict[str, Any] = {**kept, "items": dataset.get("items", 0), "classes": list(dataset.get("classes", ()))}
    try:
        items = pq.read_table(folder / "items.parquet", columns=["label", "split"])
    except (pa.ArrowException, OSError):
        return found
    counted = items.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts: dict[str, dict[str, int]] = {name: {} for name in found["classes"]}
    for row in counted:
        counts.setdefault(row["label"], {})[row["split"]] = row["count_all"]
    splits = sorted({row["split"] for row in counted}, key=lambda name: _SPLITS.get(name, 9))
    return {**found, "counts": counts, "splits": {s: sum(c.get(s, 0) for c in counts.values()) for s in splits}}


def _provenance(found: dict[str, Any]) -> dict[str, Any]:
    """With a place for everything, whatever version of inflame wrote it."""
    empty: dict[str, Any] = {"argv": [], "seed": None, "git": None, "hardware": None, "versions": {}}
    git = {"commit": "", "diff": "", "untracked": [], **found["git"]} if found.get("git") else None
    hardware = {"cpu": "", "cores": None, "memory_gb": None, "gpus": [], **(found.get("hardware") or {})}
    return {**empty, **found, "git": git, "hardware": hardware if found.get("hardware") else None}


_SPLITS = {"train": 0, "val": 1, "test": 2}


def _rung(rung: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "accuracy", "n", "p", "accepted", "seconds", "note")
    found = {name: rung.get(name) for name in names}
    if isinstance(found["accuracy"], dict):
        found |= {"accuracy": found["accuracy"].get("value"), "n": found["accuracy"].get("n", found["n"])}
    if found["accuracy"] is not None and found["n"]:
        low, high = metrics.wilson(round(found["accuracy"] * found["n"]), found["n"])
        found |= {"low": low, "high": high}
    return found


# --- results ---------------------------------------------------------------------------------------


def _results(answers: Answers, calibration: Calibration, trained: dict[str, int], pictures: int) -> dict[str, Any]:
    """The numbers of the split that is reported: test, or what there is instead."""
    splits = [str(name) for name in pc.unique(answers.table["split"]).to_pylist()]
    shown = next((name for name in ("test", "val", *splits) if name in splits), None)
    if shown is None:
        return {}
    held = answers.of(shown)
    correct = held.labels == held.predicted
    matrix = metrics.confusion(held.labels, held.predicted, len(held.classes))
    results = [{**found.to_json(), "name": held.classes[found.index]} for found in metrics.per_class(matrix)]
    answers.of("train")
    return {
        "split": shown,
        "accuracy": {name: _accuracy(answers.of(name)) for name in sorted(splits, key=lambda s: _SPLITS.get(s, 9))},
        "held_out": _held_out(answers, shown, calibration),
        "majority": _majority(held, trained),
        "log_loss": metrics.log_loss(held.probabilities, held.labels),
        "classes": results,
        "confusion": {"classes": list(held.classes), "matrix": matrix.tolist()},
        "confusions": confusions(matrix, held.classes),
        "mistakes": _mistakes(held, correct, pictures),
        "suspects": _suspects(answers, shown, pictures),
        "calibration": _calibration(held, correct, calibration),
        "unknown": _unknown(held, correct, calibration),
        "conformal": _conformal(held, calibration),
    }


def _accuracy(part: Answers) -> dict[str, Any]:
    balanced = metrics.balanced(part.labels, part.predicted)
    return {**metrics.accuracy(part.labels, part.predicted).to_json(), "balanced": balanced}


def _held_out(answers: Answers, shown: str, calibration: Calibration) -> dict[str, Any] | None:
    """The accuracy on the items that choices were made on: val, or all but the test when each was held out once."""
    every = calibration.source == "out-of-fold"
    rows = np.flatnonzero([name != shown and (every or name == "val") for name in answers.table["split"].to_pylist()])
    if not len(rows):
        return None
    return metrics.accuracy(answers.labels[rows], answers.predicted[rows]).to_json()


def _majority(held: Answers, trained: dict[str, int]) -> dict[str, Any]:
    """What always answering the most frequent class would give; which that is, training items say if they are known."""
    counts = [trained.get(name, 0) for name in held.classes]
    if not any(counts):
        counts = np.bincount(held.labels, minlength=len(held.classes)).tolist()
    best = int(np.argmax(counts))
    return {**metrics.rate(int((held.labels == best).sum()), len(held)).to_json(), "class": held.classes[best]}


def confusions(matrix: NDArray[np.int64], classes: tuple[str, ...], most: int = 15) -> list[dict[str, Any]]:
    """The most frequent mistakes as pairs: items of class `label` answered as `predicted`."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    support = matrix.sum(axis=1)
    order = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = [(int(cell) // len(classes), int(cell) % len(classes)) for cell in order]
    return [
        {"label": classes[i], "predicted": classes[j], "n": int(off[i, j]), "share": float(off[i, j] / support[i])}
        for i, j in pairs
        if off[i, j]
    ]


def _mistakes(held: Answers, correct: NDArray[np.bool_], most: int) -> dict[str, Any]:
    """Wrong answers, the most confident first."""
    wrong = np.flatnonzero(~correct)
    confidence = held.probabilities.max(axis=1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    return {"n": len(wrong), "items": [_item(held, int(row)) for row in worst]}


def _suspects(answers: Answers, shown: str, most: int) -> dict[str, Any]:
    """Labels that a model which never saw the item finds hardest to believe (Northcutt et al. 2021: ranking by the
    out-of-fold probability of the given label). Those of the reported split are among the mistakes already."""
    below = min(DOUBTFUL, 0.5 / len(answers.classes))
    if "suspect" not in answers.table.column_names:
        return {"n": 0, "of": 0, "below": below, "items": []}
    belief = np.array(answers.table["suspect"].cast(pa.float64()).to_numpy())
    belief[np.asarray(pc.equal(answers.table["split"], shown))] = np.nan
    rows = np.flatnonzero(belief < below)  # NaN, where there is none, is not below
    rows = rows[np.argsort(belief[rows], kind="stable")]
    items = [{**_item(answers, int(row)), "suspect": float(belief[row])} for row in rows[:most]]
    return {"n": len(rows), "of": int(np.isfinite(belief).sum()), "below": below, "items": items}


def _item(answers: Answers, row: int) -> dict[str, Any]:
    p = answers.probabilities[row]
    label, predicted = int(answers.labels[row]), int(answers.predicted[row])
    return {
        "uri": answers.table["uri"][row].as_py(),
        "split": answers.table["split"][row].as_py(),
        "label": answers.classes[label],
        "predicted": answers.classes[predicted],
        "probability": float(p[predicted]),
        "label_probability": float(p[label]),
    }


def _calibration(held: Answers, correct: NDArray[np.bool_], calibration: Calibration) -> dict[str, Any]:
    """How far probabilities can be believed, before and after the temperature."""
    after = held.probabilities.max(axis=1)
    # The logits are gone, but log p is the logits over the temperature, up to a constant that softmax ignores.
    logits = np.log(np.clip(held.probabilities.astype(np.float64), 1e-30, None)) * calibration.temperature
    before = calibrate.softmax(logits).max(axis=1)
    return {
        **calibration.to_json(),
        "ece_before": metrics.ece(before, correct),
        "ece_after": metrics.ece(after, correct),
        "bins_before": [entry.to_json() for entry in metrics.reliability(before, correct)],
        "bins": [_ranged(entry) for entry in metrics.reliability(after, correct)],
    }


def _ranged(entry: metrics.Bin) -> dict[str, Any]:
    low, high = metrics.wilson(round(entry.accuracy * entry.n), entry.n)
    return {**entry.to_json(), "rate_low": low, "rate_high": high}


def _unknown(held: Answers, correct: NDArray[np.bool_], calibration: Calibration) -> dict[str, Any]:
    """What the threshold for "I don't know" does on items it was not chosen on, and what others would do."""
    confidence = held.probabilities.max(axis=1).astype(np.float64)
    answered = confidence >= calibration.threshold
    _, counts, errors = calibrate.risk_coverage(confidence, correct)
    keep = np.unique(np.linspace(0, len(counts) - 1, min(CURVE, len(counts))).astype(int))
    curve = [[float(counts[i] / len(held)), float(errors[i] / counts[i])] for i in keep]
    wrong = int((~correct & answered).sum())
    return {
        "answered": metrics.rate(int(answered.sum()), len(held)).to_json(),
        "wrong": metrics.rate(wrong, int(answered.sum())).to_json(),
        "curve": curve,
    }


def _conformal(held: Answers, calibration: Calibration) -> dict[str, Any]:
    """How often the set holds the truth, and how large it is."""
    sets = calibration.sets(held.probabilities)
    hits = int(sets[np.arange(len(held)), held.labels].sum())
    sizes = sets.sum(axis=1)
    return {
        "promised": 1 - calibration.alpha,
        "held": metrics.rate(hits, len(held)).to_json(),
        "mean_size": float(sizes.mean()) if len(sizes) else 0.0,
        "single": float((sizes == 1).mean()) if len(sizes) else 0.0,
    }
