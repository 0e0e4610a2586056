"""A linear model of texts as one weight matrix: a linear SVM blended with naive Bayes, chosen by cross-validation.

Wang & Manning (2012), "Baselines and Bigrams": each is good where the other isn't, and their blend is hard to beat
without pretrained weights. Both are linear in the TF-IDF weights, so the blend is a matrix: `nets.bag`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inflame import host
from inflame.artifact.texts import Counts
from inflame.model.engine import calibrate, nets

Floats = NDArray[np.float32]

STRENGTHS = (1.0, 0.3, 3.0)  # C of the SVM, in the order in which they are tried while there is time
BLENDS = (0.0, 0.15, 0.25, 0.5, 0.75, 1.0)  # weight of naive Bayes beside the SVM's 1
SMOOTHING = 0.1  # added to every count of naive Bayes
LARGE = 1_000_000  # entries from which it pays to start other processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """A fitted model. weight [V,K] and bias [K] act on TF-IDF weights of length 1 made with idf [V]; `held` are the
    out-of-fold logits [N,K]; `strength` and `blend` what cross-validation chose; `accuracy` out of fold."""

    weight: Floats
    bias: Floats
    idf: Floats
    held: Floats
    strength: float
    blend: float
    accuracy: float

    def net(self) -> nets.Classifier:
        """The model as a net; its features are the scores without the bias."""
        net = nets.bag(entries=len(self.weight), classes=self.weight.shape[1])
        with torch.no_grad():
            net.body.weight.copy_(torch.from_numpy(self.weight))  # type: ignore[operator]
            net.body.idf.copy_(torch.from_numpy(self.idf))  # type: ignore[operator]
            net.head.bias.copy_(torch.from_numpy(self.bias))  # type: ignore[operator]
        return net

    def words(self, names: Sequence[str], most: int = 12) -> list[list[str]]:
        """For each class the words that speak most for it, strongest first. `names`: the vocabulary."""
        part = self.weight[: len(names)] * self.idf[: len(names), None]
        part = part - part.mean(axis=1, keepdims=True)
        order = np.argsort(-part, axis=0)[:most]
        return [[names[row] for row in order[:, column]] for column in range(part.shape[1])]


def fit(
    counts: Counts,
    labels: NDArray[np.int64],
    *,
    entries: int,
    classes: int,
    folds: int = 3,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    left: Callable[[], float] = lambda: float("inf"),
) -> Blend:
    """The blend for texts of these labels [N].

    Folds are stratified; items of one group (copies) are in one fold. The first strength is always tried; others only
    while `left()` (seconds) would allow it. The final matrix is fitted on all texts.
    """
    idf = _idf(counts, entries)
    x = _tfidf(counts, idf)
    fold = assigned(labels, folds, seed, groups)
    rows = [*(np.flatnonzero(fold != number) for number in range(folds)), np.arange(len(labels))]
    bayes = [_bayes(x[part], labels[part], classes) for part in rows]
    best: tuple[tuple[float, float], float, float, Any] | None = None
    for strength in strengths:
        began = time.monotonic()
        margins = _svms(x, labels, rows, classes, strength)
        svm, nb = np.zeros((len(labels), classes)), np.zeros((len(labels), classes))
        for number in range(folds):
            out = fold == number
            svm[out] = x[out] @ margins[number][0] + margins[number][1]
            nb[out] = x[out] @ bayes[number]
        scales = (svm.std(), nb.std())
        for blend in BLENDS:
            scores = svm / scales[0] + blend * nb / scales[1]
            merit = _merit(scores, labels)
            if best is None or merit > best[0]:
                best = (merit, strength, blend, (scores, scales, margins[-1]))
        if left() < 1.2 * (time.monotonic() - began):
            break
    assert best is not None
    merit, strength, blend, (held, scales, (margin, bias)) = best
    weight = margin / scales[0] + blend * bayes[-1] / scales[1]
    return Blend(
        weight=weight.astype(np.float32),
        bias=(bias / scales[0]).astype(np.float32),
        idf=idf,
        held=held.astype(np.float32),
        strength=strength,
        blend=blend,
        accuracy=merit[0],
    )


def assigned(labels: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The fold of every item: stratified by label, whole groups together."""
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    first = np.unique(units, return_index=True)[1]
    order = np.random.default_rng(seed).permutation(len(first))
    fold = np.zeros(len(first), dtype=np.int64)
    kinds = labels[first]
    for kind in np.unique(kinds):
        members = order[kinds[order] == kind]
        fold[members] = np.arange(len(members)) % folds
    return fold[units]


def _merit(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy, and the log likelihood at the best temperature to tell equals apart."""
    logits = scores.astype(np.float32)
    p = calibrate.softmax(logits, calibrate.temperature(logits, labels))[np.arange(len(labels)), labels]
    return float((scores.argmax(axis=1) == labels).mean()), float(np.log(np.clip(p, 1e-12, None)).mean())


def _idf(counts: Counts, entries: int) -> Floats:
    """Smoothed inverse document frequency [V]: 1 + ln((1 + N) / (1 + n)); 0 for what no text has."""
    seen = np.bincount(counts.ids, minlength=entries)
    idf = 1 + np.log((1 + len(counts)) / (1 + seen))
    return np.where(seen > 0, idf, 0).astype(np.float32)


def _tfidf(counts: Counts, idf: Floats) -> Any:
    """Rows of length 1, sparse [N,V]."""
    from scipy import sparse

    weights = (1 + np.log(counts.counts)) * idf[counts.ids]
    lengths = np.diff(counts.starts)
    rows = np.repeat(np.arange(len(counts)), lengths)
    norms = np.sqrt(np.bincount(rows, weights=weights.astype(np.float64) ** 2, minlength=len(counts)))
    weights = weights / np.repeat(np.maximum(norms, 1e-6), lengths)
    shape = (len(counts), len(idf))
    return sparse.csr_matrix((weights, counts.ids.astype(np.int32), counts.starts.astype(np.int32)), shape=shape)


def _svms(
    x: Any, labels: NDArray[np.int64], parts: Sequence[NDArray[np.int64]], classes: int, strength: float
) -> list[tuple[Any, Any]]:
    """`_svm` for each of these parts of the rows. liblinear keeps the GIL, so large ones go to processes."""
    if x.nnz < LARGE or host.cores() == 1:
        return [_svm(x[part], labels[part], classes, strength) for part in parts]
    from joblib import Parallel, delayed

    longest_first = sorted(range(len(parts)), key=lambda number: -len(parts[number]))
    jobs = (delayed(_svm)(x[parts[number]], labels[parts[number]], classes, strength) for number in longest_first)
    found = Parallel(n_jobs=min(len(parts), host.cores()))(jobs)
    return [found[longest_first.index(number)] for number in range(len(parts))]


def _svm(x: Any, labels: NDArray[np.int64], classes: int, strength: float) -> tuple[Any, Any]:
    """Weights [V,K] and bias [K] of one-against-the-rest SVMs with squared hinge loss; 0 for a class that is absent."""
    from sklearn.svm import LinearSVC

    fitted = LinearSVC(C=strength, tol=0.5, random_state=0).fit(x, labels)
    weight, bias = np.zeros((x.shape[1], classes)), np.full(classes, -1.0)
    if len(fitted.classes_) == 2:
        low, high = fitted.classes_
        weight[:, high], bias[high] = fitted.coef_[0], fitted.intercept_[0]
        weight[:, low], bias[low] = -fitted.coef_[0], -fitted.intercept_[0]
    else:
        weight[:, fitted.classes_], bias[fitted.classes_] = fitted.coef_.T, fitted.intercept_
    return weight, bias


def _bayes(x: Any, labels: NDArray[np.int64], classes: int) -> Any:
    """Weights [V,K] of complement naive Bayes (Rennie et al., 2003), without the part that all classes share."""
    from scipy import sparse

    ones = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(classes, len(labels)))
    of_class = np.asarray((ones @ x).todense())
    others = of_class.sum(axis=0)[None] - of_class + SMOOTHING
    weight = -np.log(others / others.sum(axis=1, keepdims=True))
    return (weight - weight.mean(axis=0)).T
