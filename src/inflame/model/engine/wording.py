"""Texts on their way through a training: counted, fitted, and what the run keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from inflame import store
from inflame.artifact import texts
from inflame.artifact.texts import Texts
from inflame.errors import DataError
from inflame.model.engine import bagging
from inflame.model.engine.conclude import Model
from inflame.model.engine.session import Session
from inflame.records import TextPreprocess, dumps

WORDS = "words.json"  # in the run folder: the words that speak for each class


def load(s: Session, *, least: int = 1, pairs: int = 2**18) -> tuple[TextPreprocess, dict[str, Texts]]:
    """The counted texts: `train` (with what else isn't the test split: folds hold out what is needed) and `test`.

    The vocabulary is that of `train`. Raises DataError when the data set is one of pictures.
    """
    if s.dataset.kind != "text":
        raise DataError(
            f"{s.dataset.name} holds pictures, not texts.", where=s.dataset.root, remedy="inflame train DATA"
        )
    table = s.dataset.items
    names = np.array(table["split"].to_pylist())
    index = {name: number for number, name in enumerate(s.dataset.classes)}
    labels = np.array([index[label] for label in table["label"].to_pylist()], dtype=np.int64)
    uris = np.array(table["uri"].to_pylist(), dtype=object)
    tokens = texts.tokenised(s.dataset, s.progress("reading"))
    rows = {"train": np.flatnonzero(names != "test"), "test": np.flatnonzero(names == "test")}
    preprocess = texts.learn((tokens[row] for row in rows["train"]), least=least, pairs=pairs)
    if not preprocess.words:
        raise DataError(
            f"The texts of {s.dataset.name} have no word in common to learn from"
            f"{f': none is in {least} of them' if least > 1 else ': no run of two letters is in them'}.",
            where=s.dataset.root,
            remedy="hyperparam.least=1" if least > 1 else "Look at what is in the files: inflame check DATA",
        )
    count = texts.Vectoriser(preprocess)
    return preprocess, {
        split: Texts(
            counts=count([tokens[row] for row in chosen]),
            labels=torch.from_numpy(labels[chosen]),
            uris=tuple(uris[chosen].tolist()),
        )
        for split, chosen in rows.items()
        if len(chosen)
    }


def fit(
    s: Session, preprocess: TextPreprocess, train: Texts, *, folds: int, strengths: Sequence[float]
) -> bagging.Blend:
    """The blend for these texts; copies of a text are in one fold."""
    hashes: Mapping[str, str] = dict(
        zip(s.dataset.items["uri"].to_pylist(), s.dataset.items["sha256"].to_pylist(), strict=True)
    )
    _, copies = np.unique([hashes[uri] for uri in train.uris], return_inverse=True)
    s.say("plan", f"{len(preprocess.words):,} words and their pairs; SVM and naive Bayes blended by {folds} folds")
    found = bagging.fit(
        train.counts,
        train.labels.numpy(),
        entries=len(preprocess.words) + preprocess.pairs,
        classes=len(s.dataset.classes),
        folds=folds,
        seed=s.settings.seed,
        groups=copies.astype(np.int64),
        strengths=strengths,
        left=s.left,
    )
    s.say("chosen", f"C {found.strength:g}, naive Bayes {found.blend:g}: {found.accuracy:.1%} out of fold")
    return found


def model(s: Session, preprocess: TextPreprocess, train: Texts, found: bagging.Blend) -> Model:
    """The blend as a model to publish; the words that speak for each class go into the run folder."""
    told = dict(zip(s.dataset.classes, found.words(preprocess.words), strict=True))
    store.write(s.run.path / WORDS, dumps(told))
    splits = dict(zip(s.dataset.items["uri"].to_pylist(), s.dataset.items["split"].to_pylist(), strict=True))
    return Model(
        net=found.net(),
        preprocess=preprocess,
        logits=found.held,
        embedding=found.held - found.bias,
        labels=train.labels.numpy(),
        uris=train.uris,
        splits=tuple(splits[uri] for uri in train.uris),
        how=f"linear SVM (C {found.strength:g}) + {found.blend:g} naive Bayes on words and pairs",
        source="out-of-fold",
    )
