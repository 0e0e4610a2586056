"""A finished model on data it may not have seen: accuracy with its interval, from the bundle alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inflame import artifact
from inflame.artifact import packed
from inflame.artifact.contents import Contents
from inflame.config import Settings
from inflame.errors import BundleError, DataError
from inflame.model.engine import metrics
from inflame.model.engine.bundle import Predictor
from inflame.records import Dataset
from inflame.runs import find, list_runs


def score(settings: Settings, data: str) -> dict[str, Any]:
    """Scores the bundle of the newest run of this model folder (or of `resume=RUN`) on `data`: its test split where
    it has one, else all of it. Raises BundleError when there is no run with a bundle, DataError for data of which it
    knows no class."""
    folder = _bundle(settings)
    dataset = artifact.open(
        data, seed=settings.split_seed, splits=settings.splits, limit=settings.limit, skip_bad=settings.skip_bad
    )
    test = dataset.split("test")
    chosen = test if len(test) else dataset
    predictor, sources, labels = Predictor(folder), _sources(chosen), chosen.items["label"].to_pylist()
    if set(labels).isdisjoint(predictor.classes):
        raise DataError(
            f"The model knows no class of {dataset.name} ({_some(dataset.classes)}); its own are "
            f"{_some(predictor.classes)}.",
            where=str(folder),
            remedy="Name data with its classes, or a run that was trained on these: resume=RUN",
        )
    predictions = predictor.predict(sources)
    right = sum(found.label == label for found, label in zip(predictions, labels, strict=True))
    rate = metrics.rate(right, len(labels))
    return {
        "bundle": str(folder),
        "dataset": dataset.name,
        "split": "test" if len(test) else "all",
        "accuracy": rate.value,
        "low": rate.low,
        "high": rate.high,
        "n": rate.n,
        "prediction": {"label": predictions[0].label, "probability": predictions[0].probability},
    }


def _sources(dataset: Dataset) -> list[Any]:
    uris = dataset.items["uri"].to_pylist()
    if not uris:
        raise DataError(f"{dataset.name} has no items to score.", where=dataset.root, remedy="Name other data.")
    if packed.is_packed(dataset):
        array = packed.images(dataset)
        return [array[int(uri.rpartition("#")[2])] for uri in uris]
    source = Contents(dataset.root)
    return [source.read(uri) for uri in uris]


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:3]) + " …" * (len(classes) > 3)


def _bundle(settings: Settings) -> Any:
    runs = [find(settings.resume)] if settings.resume else list_runs()
    for run in runs:
        if run.bundle is not None and (settings.resume or run.read_status().get("model") == settings.model):
            return run.bundle
    raise BundleError(
        f"There is no trained {settings.model} yet.", remedy="Train one first: python app.py train", where="runs"
    )
