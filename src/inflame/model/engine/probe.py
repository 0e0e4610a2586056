"""The probe: frozen features, kept on disk, and a logistic regression on them, its strength chosen by cross-validation.

"A good embedding is all you need" (Tian et al., 2020, arXiv:2003.11539): for a few hundred photos this takes seconds
and is hard to beat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inflame import store
from inflame.model.engine import nets
from inflame.model.engine.backbones import Frozen
from inflame.model.engine.learner import Loader

Floats = NDArray[np.float32]
STRENGTHS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # L2, from strong to weak: each fit starts from the one before
BATCH = 32
ENOUGH = 4000  # items on which the strength is chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A fitted probe. weight [K,D] and bias [K] act on `nets.Hellinger` features; `held` are the out-of-fold logits
    [N,K] of the items it was fitted on; `loss` their mean cross-entropy in nats, `accuracy` their share of right
    answers; `strength` the L2 penalty that was chosen."""

    weight: Floats
    bias: Floats
    held: Floats
    loss: float
    accuracy: float
    strength: float

    def head(self) -> nn.Sequential:
        """The probe as the head of a net."""
        head = nets.new_head("hellinger", self.weight.shape[1], self.weight.shape[0])
        assert isinstance(head, nn.Sequential)
        assert isinstance(head[1], nn.Linear)
        with torch.no_grad():
            head[1].weight.copy_(torch.from_numpy(self.weight))
            head[1].bias.copy_(torch.from_numpy(self.bias))
        return head

    def logits(self, features: Floats) -> Floats:
        """Logits [N,K] of raw features [N,D]."""
        return (_scaled(features) @ torch.from_numpy(self.weight).T + torch.from_numpy(self.bias)).numpy()


def features(
    frozen: Frozen,
    pixels: NDArray[np.uint8],
    *,
    hashes: Sequence[str],
    key: str,
    mirrored: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Floats:
    """What `frozen` makes of the pictures uint8 [N,S,S,C], float32 [N,...]; computed once and kept on disk.

    hashes: the SHA-256 of each picture's file; key: the backbone's. mirrored: of the pictures flipped left to right.
    """
    how = f"{key} {frozen.preprocess.to_json()} {mirrored}"
    name = hashlib.sha256("\n".join([how, *hashes]).encode()).hexdigest()[:24]
    path = store.home() / "cache" / "features" / f"{name}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    found = []
    for start in range(0, len(pixels), BATCH):
        batch = pixels[start : start + BATCH]
        found.append(frozen(batch[:, :, ::-1] if mirrored else batch))
        if progress:
            progress(min(start + BATCH, len(pixels)), len(pixels))
    values = np.concatenate(found)
    with store.atomic(path) as part, part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
    return values


def fit(
    views: Sequence[Floats],
    labels: NDArray[np.int64],
    *,
    classes: int,
    folds: int = 5,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
    groups: NDArray[np.int64] | None = None,
) -> Probe:
    """A probe on the features [N,D] of one or more views (plain, mirrored) of the same items.

    The strength with the least out-of-fold cross-entropy wins; views of an item, and items of one group, are always
    in the same fold. Of more than `ENOUGH` items a sample chooses. With fewer than two items in every class there is
    nothing to hold out: the strongest penalty.
    """
    with _one_thread() if len(labels) <= ENOUGH else nullcontext():
        return _fit(views, labels, classes, folds, seed, strengths, groups)


def start(net: nets.Classifier, loader: Loader, *, classes: int, seed: int = 0) -> nn.Sequential:
    """A head for `net` that has learnt what its untuned body can tell: fine-tuning from there spoils less of the body
    than from a random head (LP-FT; Kumar et al., 2022, arXiv:2202.10054). loader: training items, as they are."""
    net.body.eval()
    with torch.inference_mode():
        parts = [(net.body(x).float().numpy(), y.numpy()) for x, y in loader.epoch(0)]
    features, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return fit([features], labels, classes=classes, seed=seed).head()


def _fit(
    views: Sequence[Floats],
    labels: NDArray[np.int64],
    classes: int,
    folds: int,
    seed: int,
    strengths: Sequence[float],
    groups: NDArray[np.int64] | None,
) -> Probe:
    stacked = [_scaled(view) for view in views]
    y = torch.from_numpy(np.ascontiguousarray(labels))
    if len(y) > ENOUGH and len(strengths) > 1:
        some = np.sort(np.random.default_rng(seed).permutation(len(y))[:ENOUGH])
        fewer = _fit(
            [view[some] for view in views],
            labels[some],
            classes,
            folds,
            seed,
            strengths,
            None if groups is None else groups[some],
        )
        strengths = [fewer.strength * ENOUGH / len(y)]  # the penalty on all weights is the same, the mean loss has more
    fold = folds_of(labels, folds, seed, groups)
    held = {strength: torch.zeros(len(y), classes) for strength in strengths}
    for number in range(int(fold.max()) + 1):
        out = torch.from_numpy(fold == number)
        x = torch.cat([view[~out] for view in stacked])
        for strength, weight in _path(x, y[~out].repeat(len(stacked)), classes, strengths):
            held[strength][out] = _with_one(stacked[0][out]) @ weight
    losses = {strength: float(functional.cross_entropy(logits, y)) for strength, logits in held.items()}
    best = min(strengths, key=lambda strength: losses[strength])
    upto = [strength for strength in strengths if strength >= best]
    *_, (_, final) = _path(torch.cat(stacked), y.repeat(len(stacked)), classes, upto)
    return Probe(
        weight=final[:-1].T.contiguous().numpy(),
        bias=final[-1].numpy(),
        held=held[best].numpy(),
        loss=losses[best],
        accuracy=float((held[best].argmax(1) == y).float().mean()),
        strength=best,
    )


def _scaled(features: Floats) -> Tensor:
    with torch.inference_mode():
        scaled: Tensor = nets.Hellinger()(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)))
    return scaled.clone()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products this small lose more than they gain from a second thread, much more where other work is going on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], dim=1)


def _path(x: Tensor, y: Tensor, classes: int, strengths: Sequence[float]) -> list[tuple[float, Tensor]]:
    """Weights [D+1,K] for each penalty in turn: mean cross-entropy + strength/2 · |W|², by L-BFGS.

    The best weights are combinations of the rows of x, so with fewer rows than columns it is solved in their space.
    """
    basis = torch.linalg.qr(x.T).Q if len(x) < x.shape[1] else None
    rows = _with_one(x if basis is None else x @ basis)
    weight = torch.zeros(rows.shape[1], classes)
    found = []
    for strength in strengths:
        weight = _minimum(rows, y, strength, weight)
        whole = weight if basis is None else torch.cat([basis @ weight[:-1], weight[-1:]])
        found.append((strength, whole))
    return found


def _minimum(rows: Tensor, y: Tensor, strength: float, start: Tensor) -> Tensor:
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=40, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(rows @ weight, y) + strength / 2 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach()


def folds_of(labels: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
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
