"""Texts on their way through a training: counted, fitted, and what the run keeps of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from inflame import store
from inflame.artifact import texts
from inflame.artifact.texts import Texts
from inflame.errors import DataError, SettingError
from inflame.model.engine import bagging, many, nets, probe, sentences
from inflame.model.engine.conclude import Model
from inflame.model.engine.session import Session
from inflame.records import TextPreprocess, dumps

WORDS = "words.json"  # in the run folder: the words that speak for each class


def load(s: Session, *, least: int = 1, pairs: int = 2**18) -> tuple[TextPreprocess, dict[str, Texts]]:
    """The counted texts: `train` (with what else isn't the test split: folds hold out what is needed) and `test`.

    The vocabulary is that of `train`. Raises DataError when the data set is one of pictures, or has no words, and
    SettingError for several processes, or for a look at batches that there aren't.
    """
    s.company.refuse(many.WHOLE)
    if s.settings.debug in ("overfit", "profile"):
        raise SettingError(
            f"debug={s.settings.debug} looks at a net that learns in batches; texts are counted and fitted as a whole.",
            where=f"debug={s.settings.debug}",
            remedy="debug=tiny shows whether the whole road holds, explain=true where the time went.",
        )
    if s.dataset.kind != "text":
        raise DataError(
            f"{s.dataset.name} holds pictures, not texts.", where=s.dataset.root, remedy="inflame train DATA"
        )
    tokens = texts.tokenised(s.dataset, progress=s.progress("reading"))
    preprocess = texts.learn((tokens[row] for row in _rows(s)["train"]), least=least, pairs=pairs)
    if not preprocess.words:
        raise DataError(
            f"The texts of {s.dataset.name} have no word to learn from"
            f"{f': none is in {least} of them' if least > 1 else ': no run of two letters is in them'}.",
            where=s.dataset.root,
            remedy="hyperparam.least=1" if least > 1 else "Look at what is in the files: inflame check DATA",
        )
    return preprocess, _counted(s, preprocess, tokens)


def _rows(s: Session) -> dict[str, NDArray[np.int64]]:
    names = np.array(s.dataset.items["split"].to_pylist())
    return {"train": np.flatnonzero(names != "test"), "test": np.flatnonzero(names == "test")}


def _counted(s: Session, preprocess: TextPreprocess, tokens: Sequence[list[str]]) -> dict[str, Texts]:
    index = {name: number for number, name in enumerate(s.dataset.classes)}
    labels = np.array([index[label] for label in s.dataset.items["label"].to_pylist()], dtype=np.int64)
    uris = np.array(s.dataset.items["uri"].to_pylist(), dtype=object)
    count = texts.Vectoriser(preprocess)
    return {
        split: Texts(
            counts=count([tokens[row] for row in chosen]),
            labels=torch.from_numpy(labels[chosen]),
            uris=tuple(uris[chosen].tolist()),
        )
        for split, chosen in _rows(s).items()
        if len(chosen)
    }


def _of(s: Session, column: str, items: Texts) -> list[str]:
    """This column of the table of items, for these items."""
    told = dict(zip(s.dataset.items["uri"].to_pylist(), s.dataset.items[column].to_pylist(), strict=True))
    return [told[uri] for uri in items.uris]


def _copies(s: Session, items: Texts) -> NDArray[np.int64]:
    """The same number for the same text."""
    return np.unique(_of(s, "sha256", items), return_inverse=True)[1].astype(np.int64)


def fit(
    s: Session, preprocess: TextPreprocess, train: Texts, *, folds: int, strengths: Sequence[float]
) -> bagging.Blend:
    """The blend for these texts; copies of a text are in one fold."""
    s.say("plan", f"{len(preprocess.words):,} words and their pairs; SVM and naive Bayes blended by {folds} folds")
    found = bagging.fit(
        train.counts,
        train.labels.numpy(),
        entries=len(preprocess.words) + preprocess.pairs,
        classes=len(s.dataset.classes),
        folds=folds,
        seed=s.settings.seed,
        groups=_copies(s, train),
        strengths=strengths,
        left=s.left,
    )
    s.say("chosen", f"C {found.strength:g}, naive Bayes {found.blend:g}: {found.accuracy:.1%} out of fold")
    return found


def model(s: Session, preprocess: TextPreprocess, train: Texts, found: bagging.Blend) -> Model:
    """The blend as a model to publish; the words that speak for each class go into the run folder."""
    told = dict(zip(s.dataset.classes, found.words(preprocess.words), strict=True))
    store.write(s.run.path / WORDS, dumps(told))
    return Model(
        net=found.net(),
        preprocess=preprocess,
        logits=found.held,
        embedding=found.held - found.bias,
        labels=train.labels.numpy(),
        uris=train.uris,
        splits=tuple(_of(s, "split", train)),
        how=f"linear SVM (C {found.strength:g}) + {found.blend:g} naive Bayes on words and pairs",
        source="out-of-fold",
    )


def frozen(s: Session, body: sentences.Sentences, *, folds: int) -> tuple[Model, dict[str, Texts]]:
    """A logistic regression on what a sentence model makes of the texts, and the texts as its pieces."""
    s.say("plan", f"{body.name}: {body.config['hidden_size']} features of each text, then a logistic regression")
    tokens = texts.tokenised(s.dataset, texts.Vectoriser(body.preprocess).read, s.progress("reading"))
    items = _counted(s, body.preprocess, tokens)
    train = items["train"]
    made = sentences.features(
        body,
        train.counts,
        hashes=_of(s, "sha256", train),
        device="cuda" if torch.cuda.is_available() else "cpu",
        progress=s.progress("features"),
    )
    labels = train.labels.numpy()
    found = probe.fit(
        [made],
        labels,
        classes=len(s.dataset.classes),
        folds=folds,
        seed=s.settings.seed,
        groups=_copies(s, train),
    )
    spec = {"kind": "sentences", "config": body.config, "head": "hellinger", "classes": len(s.dataset.classes)}
    return Model(
        net=nets.Classifier(body.body.cpu(), found.head(), spec),
        preprocess=body.preprocess,
        logits=found.held,
        embedding=made,
        labels=labels,
        uris=train.uris,
        splits=tuple(_of(s, "split", train)),
        how=f"logistic regression on {body.name}",
        source="out-of-fold",
    ), items
