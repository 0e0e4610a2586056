"""The last steps of every training: calibrate on held-out items, look at the test split once, bundle, report.

`publish` puts a usable bundle into the run folder at any time; `conclude` does it for the last time, with the only
look at the test split that a run ever takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from inflame import store
from inflame.artifact.loader import Pictures, centre
from inflame.model.engine import bundle, calibrate, metrics
from inflame.model.engine.card import card
from inflame.model.engine.nets import Classifier
from inflame.model.engine.reference import reference
from inflame.records import Dataset, Preprocess
from inflame.runs import Run

EXAMPLES = 32  # real pictures on which torch and onnxruntime must agree
SEEN = 1000  # held-out pictures that the reference statistics of brightness and contrast come from


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a training gives: a net and how its pictures are prepared, with held-out logits float32 [N,K] and their
    labels int64 [N] to calibrate on; `uris` and `splits` say which items those are, `how` (a line) how it was made.
    `source` is "val", or "out-of-fold" when every item was held out once."""

    net: Classifier
    preprocess: Preprocess
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    uris: tuple[str, ...]
    splits: tuple[str, ...]
    how: str
    source: str = "val"


def publish(run: Run, dataset: Dataset, model: Model, pictures: Mapping[str, Pictures], **told: Any) -> float:
    """Writes the bundle of `model` and says so in the status; returns the seconds it took.

    It knows nothing of the test split. told: more fields for the status.
    """
    began = time.monotonic()
    calibration = _calibration(model)
    _bundle(run, dataset, model, calibration, pictures, test=None, results=())
    run.status(bundle="bundle", **told)
    return time.monotonic() - began


def conclude(
    run: Run,
    dataset: Dataset,
    model: Model,
    pictures: Mapping[str, Pictures],
    *,
    ladder: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Calibrates, tests once, writes bundle, predictions and report; returns the result that `--json` prints."""
    from inflame.model.engine.report import report

    calibration = _calibration(model)
    held = _Answers.of(model, calibration)
    tested = _tested(model, calibration, pictures["test"]) if "test" in pictures else None
    found = _accuracy(tested) if tested else None
    results = _per_class(tested, len(dataset.classes)) if tested else ()
    _bundle(run, dataset, model, calibration, pictures, test=found, results=results)
    _write_predictions(run, dataset, [held, *([tested] if tested else [])], out_of_fold=True)
    validation = _accuracy(held)
    sample = _sample(dataset, tested or held)
    result = {
        "run": str(run.path),
        "model": run.read_status().get("model", ""),
        "dataset": dataset.name,
        "test": _plain(found),
        "val": _plain(validation),
        "seconds": round(run.seconds, 1),
        "bundle": str(run.path / "bundle"),
        "prediction": sample,
    }
    run.status(test=result["test"], val=result["val"], bundle="bundle", ladder=list(ladder), how=model.how)
    report(run.path)
    return {**result, "seconds": round(run.seconds, 1)}


def logits(
    net: Classifier, preprocess: Preprocess, pictures: Pictures, *, device: torch.device | str = "cpu", batch: int = 256
) -> NDArray[np.float32]:
    """Logits float32 [N,K] of the centre of every picture, in eval mode; the net's own mode comes back."""
    from inflame.artifact.loader import normalise

    mode = net.training
    net.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            pixels = centre(pictures.pixels[start : start + batch], preprocess.size).to(device)
            parts.append(net(normalise(pixels, preprocess)).float().cpu())
    net.train(mode)
    return torch.cat(parts).numpy() if parts else np.zeros((0, 0), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Calibrated probabilities [N,K] of items, with their labels [N]."""

    uris: tuple[str, ...]
    splits: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, model: Model, calibration: calibrate.Calibration) -> _Answers:
        probabilities = calibration.apply(model.logits)
        return cls(uris=model.uris, splits=model.splits, labels=model.labels, probabilities=probabilities)


def _calibration(model: Model) -> calibrate.Calibration:
    return calibrate.fit(model.logits, model.labels, source=model.source)


def _tested(model: Model, calibration: calibrate.Calibration, test: Pictures) -> _Answers:
    answers = calibration.apply(logits(model.net, model.preprocess, test))
    labels = test.labels.numpy()
    return _Answers(uris=test.uris, splits=("test",) * len(test), labels=labels, probabilities=answers)


def _accuracy(answers: _Answers) -> metrics.Rate:
    return metrics.accuracy(answers.labels, answers.probabilities.argmax(axis=1))


def _per_class(answers: _Answers, classes: int) -> Sequence[metrics.ClassResult]:
    return metrics.per_class(metrics.confusion(answers.labels, answers.probabilities.argmax(axis=1), classes))


def _bundle(
    run: Run,
    dataset: Dataset,
    model: Model,
    calibration: calibrate.Calibration,
    pictures: Mapping[str, Pictures],
    *,
    test: metrics.Rate | None,
    results: Sequence[metrics.ClassResult],
) -> None:
    held = pictures.get("val") or pictures["train"]
    examples = centre(held.pixels[:SEEN], model.preprocess.size).numpy()
    answers = calibration.apply(model.logits)
    embedding = _embedding(model, examples)
    statistics = reference(
        classes=dataset.classes,
        labels=model.labels,
        probabilities=answers,
        embedding=embedding,
        pictures=examples,
        split=model.source,
    )
    name = run.read_status().get("model", "")
    bundle.export(
        run.path / "bundle",
        net=model.net,
        preprocess=model.preprocess,
        classes=dataset.classes,
        calibration=calibration,
        reference=statistics,
        card=card(
            model=name,
            dataset=dataset,
            preprocess=model.preprocess,
            calibration=calibration,
            test=test,
            results=results,
            how=model.how,
        ),
        examples=np.ascontiguousarray(examples[:EXAMPLES]),
        about={"model": name, "dataset": {"name": dataset.name, "version": dataset.version}, "how": model.how},
    )


def _embedding(model: Model, examples: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features float32 [n,D] of a part of the held-out pictures: enough for means and deviations."""
    from inflame.artifact.loader import normalise

    mode = model.net.training
    model.net.eval()
    with torch.inference_mode():
        some = torch.from_numpy(examples[:: max(1, len(examples) // 128)])
        found: NDArray[np.float32] = model.net.body(normalise(some, model.preprocess)).float().numpy()
    model.net.train(mode)
    return found


def _write_predictions(run: Run, dataset: Dataset, parts: Sequence[_Answers], *, out_of_fold: bool) -> None:
    """`predictions.parquet`: a row per item and split. `suspect` is the probability that a model which hadn't seen
    the item gives to its label."""
    columns: dict[str, list[Any]] = {name: [] for name in ("uri", "label", "split", "predicted", "correct", "suspect")}
    rows = []
    for part in parts:
        best = part.probabilities.argmax(axis=1)
        columns["uri"] += part.uris
        columns["split"] += part.splits
        columns["label"] += [dataset.classes[label] for label in part.labels]
        columns["predicted"] += [dataset.classes[label] for label in best]
        columns["correct"] += (best == part.labels).tolist()
        columns["suspect"] += part.probabilities[np.arange(len(best)), part.labels].tolist() if out_of_fold else []
        rows.append(part.probabilities.astype(np.float32))
    flat = np.concatenate(rows)
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    probabilities = pa.ListArray.from_arrays(offsets, flat.ravel())
    table = pa.table({**columns, "probabilities": probabilities})
    with store.atomic(run.path / "predictions.parquet") as path:
        pq.write_table(table, path)


def _sample(dataset: Dataset, answers: _Answers) -> dict[str, Any]:
    """The first held-out item, for a person to see what an answer looks like."""
    row = answers.probabilities[0]
    return {
        "label": dataset.classes[int(row.argmax())],
        "probability": float(row.max()),
        "item": answers.uris[0],
        "truth": dataset.classes[int(answers.labels[0])],
    }


def _plain(found: metrics.Rate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"accuracy": found.value, "low": found.low, "high": found.high, "n": found.n}


def keep(run: Run, dataset: Dataset) -> None:
    """`dataset.json` and `items.parquet` of the run folder: the data as this run saw it."""
    from inflame.artifact import manifest

    manifest.save(dataset, run.path)


__all__ = ["Model", "conclude", "keep", "logits", "publish"]
