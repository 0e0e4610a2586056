"""The last steps of every training: calibrate on held-out items, look at the test split once, bundle, report.

`publish` puts a usable bundle into the run folder at any time; `conclude` does it for the last time, with the only
look at the test split that a run ever takes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from inflame import host, store
from inflame.artifact import manifest, seen
from inflame.artifact.contents import Contents
from inflame.artifact.loader import Pictures, centre, normalise
from inflame.artifact.texts import Texts, decode
from inflame.errors import InflameError
from inflame.model.engine import (
    bundle,
    calibrate,
    expected,
    expecting,
    freeze,
    metrics,
    nearest,
    novelty,
    predictor,
    recorded,
)
from inflame.model.engine.card import card
from inflame.model.engine.device import where
from inflame.model.engine.memory import Parts, joined
from inflame.model.engine.nets import Classifier
from inflame.model.engine.reference import reference
from inflame.records import Dataset, Preprocess, TextPreprocess
from inflame.runs import Run

EXAMPLES = 32  # real items on which torch and onnxruntime must agree
Floats = NDArray[np.float32]
Items = Pictures | Texts
DRAWING = 0.7  # seconds that a report takes without explanations
UNEVEN = 0.01  # difference of balanced and plain accuracy that is worth a line
SERVED = 64  # items at a time through the bundle
ALONE = 10  # items that are answered one at a time, to see how long one takes
PART, LONGEST = 0.04, 3.0  # of a run's time, and seconds, to learn what is expected
AFTER = 1.5  # seconds of the budget that are left for what follows
SEEN = 1000  # held-out items that the reference statistics of the inputs come from
LOOKED = 15_000_000  # pixels of them that are looked at to say what is strange: half a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a training gives: a net and how its items are prepared, with held-out logits float32 [N,K] and their
    labels int64 [N] to calibrate on; `uris` and `splits` say which items those are, `embedding` float32 [M,D] are the
    features of some of them, `how` (a line) how the net was made. `source` is "val", or "out-of-fold" when every
    item was held out once."""

    net: Classifier
    preprocess: Preprocess | TextPreprocess
    logits: Floats
    embedding: Floats
    labels: NDArray[np.int64]
    uris: tuple[str, ...]
    splits: tuple[str, ...]
    how: str
    source: str = "val"


def publish(run: Run, dataset: Dataset, model: Model, items: Mapping[str, Items]) -> float:
    """Writes the bundle of `model` and says so in the status; returns the seconds it took.

    It knows nothing of the test split.
    """
    began = time.monotonic()
    calibration, name = _calibration(model), run.read_status().get("model", "")
    held = items.get("val") or items["train"]
    statistics = reference(
        classes=dataset.classes,
        labels=model.labels,
        probabilities=calibration.apply(model.logits),
        embedding=model.embedding,
        inputs=_inputs(held, model.preprocess, 0, SEEN),
        split=model.source,
    )
    shown = _nearest(dataset, model, items["train"])
    statistics["novelty"] = _usual(model, items.get("val"), shown, statistics["embedding"]["mean"])
    bundle.export(
        run.path / "bundle",
        net=model.net,
        preprocess=model.preprocess,
        classes=dataset.classes,
        calibration=calibration,
        reference=statistics,
        card=_card(name, dataset, model, calibration, None),
        examples=_inputs(held, model.preprocess, 0, EXAMPLES),
        about={"model": name, "dataset": {"name": dataset.name, "version": dataset.version}, "how": model.how},
        nearest=shown,
    )
    run.status(bundle="bundle")
    return time.monotonic() - began


def _usual(model: Model, held: Items | None, shown: bytes, middle: Sequence[float]) -> dict[str, Any]:
    """How strange held-out pictures are; nothing without any, as for texts: what is held out in turn is also shown."""
    places = {uri: place for place, uri in enumerate(model.uris)} if len(model.embedding) == len(model.uris) else {}
    if not isinstance(held, Pictures) or not isinstance(model.preprocess, Preprocess) or not places.keys() & held.uris:
        return {}
    own = np.array([row for row, uri in enumerate(held.uris) if uri in places])
    embedding = model.embedding[[places[held.uris[row]] for row in own]]
    count = min(SEEN, len(own), max(novelty.LEAST, LOOKED // model.preprocess.size**2))
    rows = np.linspace(0, len(own) - 1, count).astype(np.int64)  # from all of them: they may be in order
    pixels = centre(held.pixels[own[rows]], model.preprocess.size).numpy()
    like = np.stack([seen.picture(picture)[0] for picture in pixels])
    return novelty.record(nearest.Nearest(shown, text=False), np.asarray(middle), embedding, like, rows)


def _nearest(dataset: Dataset, model: Model, train: Items) -> bytes:
    """Some training items for the bundle. Of pictures whose features are known already those are taken."""
    rows = nearest.choose(train.labels.numpy())
    uris = [train.uris[row] for row in rows]
    if isinstance(train, Texts):
        some: Items = Texts(counts=train.counts.take(rows), labels=train.labels[rows], uris=tuple(uris))
        source = Contents(dataset.root)
        shown = [_beginning(source, uri) for uri in uris]
        known = {}
    else:
        some = Pictures(pixels=train.pixels[rows], labels=train.labels[rows], uris=tuple(uris))
        pixels = centre(some.pixels, model.preprocess.size).numpy()  # type: ignore[union-attr]
        shown = [nearest.thumb(picture) for picture in pixels]
        whole = len(model.embedding) == len(model.uris)
        known = dict(zip(model.uris, model.embedding, strict=True)) if whole else {}
    told = all(uri in known for uri in uris)
    embedding = np.stack([known[uri] for uri in uris]) if told else _features(model, some)
    labels = [dataset.classes[label] for label in train.labels[rows].tolist()]
    return nearest.pack(embedding=embedding, labels=labels, uris=uris, shown=shown)


def _features(model: Model, items: Items) -> Floats:
    return answers(model.net, model.preprocess, items)[1]


def _beginning(source: Contents, uri: str) -> bytes:
    """What is shown of a text; nothing when it has gone since it was read."""
    try:
        return nearest.snippet(decode(source.read(uri))[0])
    except (InflameError, OSError):
        return b""


def conclude(
    run: Run,
    dataset: Dataset,
    model: Model,
    items: Mapping[str, Items],
    *,
    ladder: Sequence[dict[str, Any]] = (),
    published: Model | None = None,
    left: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Bundles, tests once what will be served, writes predictions and report; returns what `--json` prints.

    published: the model whose bundle is in the run folder already. left: seconds that remain; the report explains as
    many mistakes as they allow.
    """
    from inflame.model.engine.report import MOMENT, report

    if model is not published:
        publish(run, dataset, model, items)
    calibration, name = _calibration(model), run.read_status().get("model", "")
    held = _Answers(
        uris=model.uris, splits=model.splits, labels=model.labels, probabilities=calibration.apply(model.logits)
    )
    tested = _tested(run, model, calibration, items["test"]) if "test" in items else None
    changed = {"card.md": _card(name, dataset, model, calibration, tested).encode()}
    bundle.amend(run.path / "bundle", changed | _expected(run, dataset))
    _write_predictions(run, dataset, [held, *([tested] if tested else [])])
    result = {
        "run": str(run.path),
        "model": name,
        "dataset": dataset.name,
        "test": tested.plain() if tested else None,
        "val": held.plain(),
        "bundle": str(run.path / "bundle"),
        "prediction": _sample(dataset, tested or held),
    }
    seen = recorded.facts(dataset, held, tested)
    run.status(state="done", test=result["test"], val=result["val"], ladder=list(ladder), how=model.how, **seen)
    report(run.path, moment=MOMENT if left is None else min(MOMENT, left() - DRAWING))
    _say(run, result, learnt=model.source == "val" and "train" in model.splits)
    return {**result, "seconds": round(run.seconds, 1)}


def answers(
    net: Classifier,
    preprocess: Preprocess | TextPreprocess,
    items: Items,
    *,
    batch: int = 256,
) -> tuple[Floats, Floats]:
    """Logits [N,K] and features [N,D] of every item (of a picture, its centre), float32, on the device where the net
    is; each part of the net keeps its mode."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    parts, place, few = [], where(net), Parts()

    def answered(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = [one.to(place) for one in given]
        features = net.body(*x) if isinstance(preprocess, TextPreprocess) else net.body(normalise(x[0], preprocess))
        return net.head(features).float().cpu(), features.float().cpu()

    with torch.inference_mode():
        for rows, inputs in _batches(items, preprocess, batch):
            logits, features = zip(*few(answered, *map(torch.from_numpy, inputs.values())), strict=True)
            parts.append((rows, joined(logits).numpy(), joined(features).numpy()))
    for module, mode in modes.items():
        module.training = mode
    return _ordered(parts, 1), _ordered(parts, 2)


def seconds(net: Classifier, preprocess: Preprocess, pictures: Pictures) -> float:
    """What the bundle of this net would take for a picture, by the fastest of three tries: others may be at work."""
    with tempfile.TemporaryDirectory() as place:
        freeze.write(freeze.served(net, preprocess), preprocess, Path(place))
        content = (Path(place) / "model.onnx").read_bytes()
    served = predictor.session(content, host.cores(), "the net")
    inputs, tries = _inputs(pictures, preprocess, 0, 4 * SERVED), []
    for _ in range(3):
        began = time.perf_counter()
        served.run(list(freeze.OUTPUTS), inputs)
        tries.append(time.perf_counter() - began)
    return min(tries) / len(inputs["pictures"])


def _batches(items: Items, preprocess: Preprocess | TextPreprocess, size: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(rows, inputs by name) until all items had their turn; texts of about the same length go together."""
    order = np.arange(len(items))
    if isinstance(items, Texts):
        order = np.argsort(np.diff(items.counts.starts), kind="stable")
    for start in range(0, len(items), size):
        rows = order[start : start + size]
        if isinstance(items, Texts):
            yield rows, items.counts.take(rows).padded()
        else:
            yield rows, _inputs(items, preprocess, start, start + size)


def _inputs(items: Items, preprocess: Preprocess | TextPreprocess, first: int, last: int) -> dict[str, Any]:
    """What the bundle takes for these items."""
    if isinstance(items, Texts):
        return dict(items.counts.rows(first, min(last, len(items))).padded())
    assert isinstance(preprocess, Preprocess)
    return {"pictures": np.ascontiguousarray(centre(items.pixels[first:last], preprocess.size).numpy())}


def _ordered(parts: Sequence[tuple[Any, Floats, Floats]], which: int) -> Floats:
    """The rows of all parts, in the order of the items."""
    first = parts[0][which]
    assert isinstance(first, np.ndarray)
    found = np.empty((sum(len(part[0]) for part in parts), *first.shape[1:]), np.float32)
    for part in parts:
        found[part[0]] = part[which]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Calibrated probabilities [N,K] of items, with their labels [N]."""

    uris: tuple[str, ...]
    splits: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def accuracy(self) -> metrics.Rate:
        return metrics.accuracy(self.labels, self.probabilities.argmax(axis=1))

    def per_class(self) -> list[metrics.ClassResult]:
        classes = self.probabilities.shape[1]
        return metrics.per_class(metrics.confusion(self.labels, self.probabilities.argmax(axis=1), classes))

    def plain(self) -> dict[str, Any]:
        found = self.accuracy()
        balanced = metrics.balanced(self.labels, self.probabilities.argmax(axis=1))
        return {"accuracy": found.value, "low": found.low, "high": found.high, "n": found.n, "balanced": balanced}


def _calibration(model: Model) -> calibrate.Calibration:
    return calibrate.fit(model.logits, model.labels, source=model.source)


def _tested(run: Run, model: Model, calibration: calibrate.Calibration, test: Items) -> _Answers:
    """What the bundle answers to the test split: what is measured is what will be served."""
    served = bundle.Predictor(run.path / "bundle")
    parts = [(rows, *served.run(inputs)) for rows, inputs in _batches(test, model.preprocess, SERVED)]
    run.status(serving={"latency_ms": _latency(served, model, test), "size_mb": _size(run.path / "bundle")})
    return _Answers(
        uris=test.uris,
        splits=("test",) * len(test),
        labels=test.labels.numpy(),
        probabilities=calibration.apply(_ordered(parts, 1)),
    )


def _latency(served: bundle.Predictor, model: Model, items: Items) -> float:
    """Milliseconds that the bundle takes for a single item, in the middle of several."""
    times = []
    for row in range(min(len(items), ALONE + 1)):
        inputs = _inputs(items, model.preprocess, row, row + 1)
        began = time.perf_counter()
        served.run(inputs)
        times.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(times[1:] or times)), 3)  # the first one wakes the runtime


def _size(folder: Path) -> float:
    """Megabytes of the net that is served."""
    return round((folder / "model.onnx").stat().st_size / 1e6, 4)


def _expected(run: Run, dataset: Dataset) -> dict[str, bytes]:
    """What the model expects of its days, as far as a small part of the run's time goes; `inflame monitor learn` takes
    more. Where no time is left there is nothing. What goes wrong is noted: it is no reason to end a training here."""
    budget = float(json.loads((run.path / "config.json").read_text())["budget"] or 0)
    seconds = min(LONGEST, PART * max(budget, run.seconds))
    if budget:
        seconds = min(seconds, max(budget - run.seconds - AFTER, 0.1))
    try:
        found = expecting.of(bundle.Predictor(run.path / "bundle"), dataset, seconds=seconds)
    except (InflameError, OSError, ValueError, np.linalg.LinAlgError) as error:
        run.note(f"what the model expects could not be learned: {error}")
        return {}
    return {expected.NAME: found.to_bytes()} if found is not None else {}


def _card(
    name: str, dataset: Dataset, model: Model, calibration: calibrate.Calibration, tested: _Answers | None
) -> str:
    return card(
        model=name,
        dataset=dataset,
        preprocess=model.preprocess,
        calibration=calibration,
        test=tested.accuracy() if tested else None,
        results=tested.per_class() if tested else (),
        how=model.how,
        limits=[
            f"nearest.npz shows up to {nearest.MOST} training items: pass the folder on only where they may be seen."
        ],
    )


def _say(run: Run, result: Mapping[str, Any], *, learnt: bool) -> None:
    """The lines that a person waits for. learnt: of so few items none is held out."""
    kept = "those that it learned from: too few to hold any out" if learnt else "held out, used for choices"
    for name, note in (("test", "looked at once"), ("val", kept)):
        found = result[name]
        if found is not None and (name == "test" or result["test"] is None):
            interval = f"{found['low']:.3f}–{found['high']:.3f}"
            run.say(f"{name:<8} accuracy {found['accuracy']:.4f} ({interval}, {found['n']:,} items, {note})")
            if abs(found["balanced"] - found["accuracy"]) > UNEVEN:
                run.say(f"{'':<8} balanced accuracy {found['balanced']:.4f}: the mean over the classes")
    run.say(f"report   {run.path / 'report.html'}")
    run.say("next     inflame predict FILE…   inflame report --open   inflame runs")


def _write_predictions(run: Run, dataset: Dataset, parts: Sequence[_Answers]) -> None:
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
        columns["suspect"] += part.probabilities[np.arange(len(best)), part.labels].tolist()
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


def keep(run: Run, dataset: Dataset) -> None:
    """`dataset.json` and `items.parquet` of the run folder: the data as this run saw it."""
    manifest.save(dataset, run.path)
