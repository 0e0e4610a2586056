"""A trained classifier as a folder that anyone can use; its `Predictor` needs no torch.

    model.onnx          uint8 pictures [N, size, size, channels] → logits [N, K], embedding [N, D]; normalisation inside
                        (and where the embedding is a pooling: map [N, D, h, w], which is what is pooled;
                        of texts: ids int64 [N, L] and counts float32 [N, L]; weighting inside)
    model.safetensors   the weights, to go on training          preprocess.json   how a file becomes a picture
    classes.json        the names, in the order of the logits   calibration.json  temperature, threshold, qhat
    reference.json      statistics of held-out items, for drift card.md           what it is, for people
    expected.npz        held-out items as later ones are compared with them (see expected.py); not in every bundle
    nearest.npz         some training items, to show what an answer is like (see nearest.py); not in every bundle
    bundle.json         format, version, model, net, dataset, created, the sha256 of every other file

Never a pickle. Every byte is checked when a bundle is loaded. Importing this module loads numpy, Pillow and
onnxruntime, and nothing heavier.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inflame import store
from inflame.errors import ExportError
from inflame.model.engine.nearest import Nearest
from inflame.model.engine.predictor import BATCH, Predictor
from inflame.model.engine.seal import FILES, NEAREST, seal, verify
from inflame.records import TextPreprocess, dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from inflame.model.engine.calibrate import Calibration
    from inflame.records import Preprocess

__all__ = ["FILES", "Predictor", "amend", "export", "verify"]

LIKELIEST = 3  # classes of a canary's answer that are recorded


def export(  # noqa: PLR0913 - nearly each is a file of the bundle
    folder: str | Path,
    *,
    net: nn.Module,
    preprocess: Preprocess | TextPreprocess,
    classes: Sequence[str],
    calibration: Calibration,
    reference: Mapping[str, Any],
    card: str,
    examples: Mapping[str, NDArray[Any]],
    about: Mapping[str, Any] | None = None,
    nearest: bytes = b"",
) -> Path:
    """Writes the bundle of a trained `Classifier` and returns its folder. Needs torch.

    `examples`: real prepared items by the names of model.onnx ({"pictures": uint8 [N, size, size, channels]}, or ids
    and counts), 32 or more where there are as many. The files are written beside `folder` and take its place in one
    step, after onnxruntime has given the same answers for the examples as torch; otherwise ExportError, and what was
    at `folder` stays. `about` goes into bundle.json: {"model": name, "dataset": {"name", "version", …}, …}.
    `nearest`: the content of nearest.npz.
    """
    from inflame.model.engine import freeze

    count = len(next(iter(examples.values()), ()))
    if not count:
        raise ExportError(
            "There is no picture to compare the exported model on.",
            where=str(folder),
            remedy="Give export() some prepared pictures, 32 if there are as many.",
        )
    served = freeze.served(net, preprocess)
    with store.atomic_folder(folder) as place:
        freeze.write(served, preprocess, place)
        described = {
            "preprocess.json": preprocess,
            "classes.json": list(classes),
            "calibration.json": calibration,
            "reference.json": dict(reference),
        }
        for name, value in described.items():
            (place / name).write_text(dumps(value), encoding="utf-8")
        (place / "card.md").write_text(card, encoding="utf-8")
        if nearest:
            (place / NEAREST).write_bytes(nearest)
        facts = {"model": "", "dataset": {}, **(about or {}), "net": getattr(net, "spec", {})}
        seal(place, facts)
        predictor = Predictor(place)
        difference = _compare(predictor, *freeze.answer(served, examples), examples)
        verified = {"items": count, "difference": difference}
        seal(place, {**facts, "verified": verified, "canaries": _canaries(predictor)})
    return Path(folder)


def amend(folder: str | Path, changed: Mapping[str, bytes]) -> Path:
    """The same bundle with other contents of some files (card.md, expected.npz), put in its place in one step."""
    source = Path(folder)
    facts = verify(source)
    with store.atomic_folder(source) as place:
        for name in facts["sha256"]:
            if name not in changed:
                shutil.copyfile(source / name, place / name)
        for name, content in changed.items():
            (place / name).write_bytes(content)
        seal(
            place, {key: value for key, value in facts.items() if key not in ("format", "version", "created", "sha256")}
        )
    return source


def _compare(
    predictor: Predictor, logits: NDArray[Any], embedding: NDArray[Any], examples: Mapping[str, NDArray[Any]]
) -> float:
    """The largest difference in probability between torch and onnxruntime; ExportError when it matters."""
    theirs, vectors = (np.concatenate(part) for part in zip(*_served_in_parts(predictor, examples), strict=True))
    if logits.shape[1] != len(predictor.classes):
        raise ExportError(
            f"The net gives {logits.shape[1]} numbers for {len(predictor.classes)} classes.",
            where="classes.json",
            remedy="Build the net with one output per class of the data set.",
        )
    p, q = predictor.calibration.apply(logits), predictor.calibration.apply(theirs)
    difference = float(np.abs(p - q).max())
    ranked = np.sort(p, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 2e-3 if p.shape[1] > 1 else np.ones(len(p), dtype=bool)
    changed = int(((p.argmax(axis=1) != q.argmax(axis=1)) & clear).sum())
    near = np.allclose(embedding, vectors, rtol=1e-2, atol=1e-2 * (float(np.abs(embedding).max()) + 1e-6))
    if not difference <= 1e-3 or changed or not near:  # "not <=" because NaN is neither
        raise ExportError(
            f"The exported model does not answer like the trained one: probabilities differ by up to {difference:.2g} "
            f"and {changed} of {len(logits)} labels change.",
            where="model.onnx",
            remedy="Remove what behaves by chance or by batch from the net's eval mode (dropout, batch statistics).",
        )
    return difference


def _canaries(predictor: Predictor) -> list[list[list[float]]]:
    """What the canaries of nearest.npz are answered here: of each the places of the likeliest classes, and how likely.
    Whoever loads the bundle asks them again."""
    if not predictor.nearest:
        return []
    text = isinstance(predictor.preprocess, TextPreprocess)
    told = predictor.predict(Nearest(predictor.nearest, text=text).canaries(), top_k=LIKELIEST)
    return [[[predictor.classes.index(name), round(share, 6)] for name, share in one.top] for one in told]


def _served_in_parts(
    predictor: Predictor, examples: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    try:
        count = len(next(iter(examples.values())))
        yield predictor.run({name: value[:1] for name, value in examples.items()})  # alone, as a website asks
        for start in range(1, count, BATCH):
            yield predictor.run({name: value[start : start + BATCH] for name, value in examples.items()})
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise ExportError(
            f"The exported model can't answer: {str(error).splitlines()[0]}",
            where="model.onnx",
            remedy="Let no layer depend on the number of pictures in a batch, or on Python branches on tensor values.",
        ) from error
