"""A linear model of texts as one weight matrix: a linear SVM blended with naive Bayes, chosen by cross-validation.

Wang & Manning (2012), "Baselines and Bigrams": each is good where the other isn't, and their blend is hard to beat
without pretrained weights. Both are linear in the TF-IDF weights, so the blend is a matrix: `nets.bag`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from inflame import host
from inflame.artifact.texts import Counts
from inflame.model.engine import calibrate, nets, svm

Floats = NDArray[np.float32]

STRENGTHS = (1.0, 0.3, 3.0)  # C of the SVM, in the order in which they are tried while there is time
BLENDS = (0.0, 0.15, 0.25, 0.5, 0.75, 1.0)  # weight of naive Bayes beside the SVM's 1
SMOOTHING = 0.1  # added to every count of naive Bayes
MORE = 0.003  # by so much another strength must be better on one fold of a large set to be tried on all
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

    Folds are stratified; items of one group (copies) are in one fold. The first strength is always tried on all folds;
    others while `left()` (seconds) would allow it, and of large sets only those that clearly beat it on the first. The
    final matrix is fitted on all texts.
    """
    idf = _idf(counts, entries)
    x = weighted(counts, idf)
    folds = max(2, folds)
    trials = _Trials(x, labels, assigned(labels, folds, seed, groups), folds, classes)
    first, *others = strengths
    began = time.monotonic()
    trials.fit([(first, number) for number in range(folds + 1)])
    best, took = trials.judged(first, range(folds)), 1.2 * (time.monotonic() - began)
    if others and x.nnz >= LARGE and left() > took:
        hurdle = trials.judged(first, [0]).merit[0] + MORE
        trials.fit([(strength, 0) for strength in others])
        others = [strength for strength in others if trials.judged(strength, [0]).merit[0] > hurdle]
    for strength in others:
        if left() < took:
            break
        trials.fit([(strength, number) for number in range(folds)])
        found = trials.judged(strength, range(folds))
        best = found if found.merit > best.merit else best
    weight, bias = trials.matrix(best)
    return Blend(
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        idf=idf,
        held=best.scores.astype(np.float32),
        strength=best.strength,
        blend=best.blend,
        accuracy=best.merit[0],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The best blend at a strength: what it gives to held-out texts [n,K], and how good that is: accuracy, and the log
    likelihood at the best temperature to tell equals apart. `scales` divide the SVM's and naive Bayes's scores."""

    merit: tuple[float, float]
    strength: float
    blend: float
    scales: tuple[float, float]
    scores: NDArray[np.float64]


@final
class _Trials:
    """What was fitted so far, by strength and fold: what was said to the texts of the fold; for the one after the last,
    the matrix of all texts."""

    def __init__(self, x: Any, labels: NDArray[np.int64], fold: NDArray[np.int64], folds: int, classes: int) -> None:
        self.x, self.labels, self.fold, self.classes = x, labels, fold, classes
        self.folds = folds
        self.bayes = np.zeros((len(labels), classes))
        for number in range(folds):
            out, rest = fold == number, fold != number
            self.bayes[out] = x[out] @ _bayes(x[rest], labels[rest], classes)
        self.svms: dict[tuple[float, int], Any] = {}

    def fit(self, wanted: Sequence[tuple[float, int]]) -> None:
        """Fits the SVMs of these strengths and folds, where that wasn't done."""
        missing = [key for key in wanted if key not in self.svms]
        jobs = [self._job(strength, number) for strength, number in missing]
        self.svms.update(zip(missing, _done(jobs, large=self.x.nnz >= LARGE), strict=True))

    def _job(self, strength: float, number: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if number == self.folds:
            return svm.matrix, (self.x, self.labels, self.classes, strength)
        out, rest = self.fold == number, self.fold != number
        return svm.scores, (self.x[rest], self.labels[rest], self.x[out], self.classes, strength)

    def judged(self, strength: float, numbers: Sequence[int]) -> _Choice:
        """The best blend for the texts of these folds."""
        held = np.flatnonzero(np.isin(self.fold, numbers))
        margins = np.zeros((len(self.labels), self.classes))
        for number in numbers:
            margins[self.fold == number] = self.svms[strength, number]
        labels, margins, bayes = self.labels[held], margins[held], self.bayes[held]
        scales = (float(margins.std()) or 1.0, float(bayes.std()) or 1.0)  # 0: nothing tells any two texts apart
        tried = [(blend, margins / scales[0] + blend * bayes / scales[1]) for blend in BLENDS]
        right = [float((scores.argmax(axis=1) == labels).mean()) for _, scores in tried]
        equals = [(_likelihood(tried[row][1], labels), -row) for row, share in enumerate(right) if share == max(right)]
        likelihood, row = max(equals)
        blend, scores = tried[-row]
        return _Choice(merit=(max(right), likelihood), strength=strength, blend=blend, scales=scales, scores=scores)

    def matrix(self, choice: _Choice) -> tuple[Any, Any]:
        """Weight [V,K] and bias [K] of this choice, fitted on all texts."""
        self.fit([(choice.strength, self.folds)])
        weight, bias = self.svms[choice.strength, self.folds]
        bayes = _bayes(self.x, self.labels, self.classes)
        return weight / choice.scales[0] + choice.blend * bayes / choice.scales[1], bias / choice.scales[0]


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


def _likelihood(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    logits = scores.astype(np.float32)
    p = calibrate.softmax(logits, calibrate.temperature(logits, labels))[np.arange(len(labels)), labels]
    return float(np.log(np.clip(p, 1e-12, None)).mean())


def _idf(counts: Counts, entries: int) -> Floats:
    """Smoothed inverse document frequency [V]: 1 + ln((1 + N) / (1 + n)); 0 for what no text has."""
    seen = np.bincount(counts.ids, minlength=entries)
    idf = 1 + np.log((1 + len(counts)) / (1 + seen))
    return np.where(seen > 0, idf, 0).astype(np.float32)


def weighted(counts: Counts, idf: Floats) -> Any:
    """TF-IDF weights as the net makes them: rows of length 1, scipy CSR [N,V]."""
    from scipy import sparse

    weights = (1 + np.log(counts.counts)) * idf[counts.ids]
    lengths = np.diff(counts.starts)
    rows = np.repeat(np.arange(len(counts)), lengths)
    norms = np.sqrt(np.bincount(rows, weights=weights.astype(np.float64) ** 2, minlength=len(counts)))
    weights = weights / np.repeat(np.maximum(norms, 1e-6), lengths)
    shape = (len(counts), len(idf))
    return sparse.csr_matrix((weights, counts.ids.astype(np.int32), counts.starts.astype(np.int32)), shape=shape)


def _done(jobs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], *, large: bool) -> list[Any]:
    """The results of these calls. liblinear keeps the GIL, so large ones go to processes, the longest first."""
    if not large or host.cores() == 1 or len(jobs) < 2:
        return [call(*given) for call, given in jobs]
    from joblib import Parallel, delayed

    order = sorted(range(len(jobs)), key=lambda number: -jobs[number][1][0].shape[0])
    tasks = (delayed(jobs[number][0])(*jobs[number][1]) for number in order)
    found = Parallel(n_jobs=min(len(jobs), host.cores()))(tasks)
    return [found[order.index(number)] for number in range(len(jobs))]


def _bayes(x: Any, labels: NDArray[np.int64], classes: int) -> Any:
    """Weights [V,K] of complement naive Bayes (Rennie et al., 2003), without the part that all classes share."""
    from scipy import sparse

    ones = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(classes, len(labels)))
    of_class = np.asarray((ones @ x).todense())
    others = of_class.sum(axis=0)[None] - of_class + SMOOTHING
    weight = -np.log(others / others.sum(axis=1, keepdims=True))
    return (weight - weight.mean(axis=0)).T
