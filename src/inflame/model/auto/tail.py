"""The rung above the probe: the last stages of the network learn, from what comes out of the frozen part.

First the head, then the tail with it: LP-FT (Kumar et al., 2022, arXiv:2202.10054). Batch norms are trained too: frozen
ones cost half of the accuracy on these networks. Of few photos none can be spared: several tails learn, each without
another part of them, so that every photo is held out once; what is served is the mean of their weights, which began
alike (model soups; Wortsman et al., 2022, arXiv:2203.05482).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inflame.artifact import ahead, loader
from inflame.model.engine import hooks, nets, optim, pace, probe
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.session import Session

from . import recipe
from .cutting import TAIL, Choice, Cut, through
from .soup import stirred
from .standing import Floats, Standing, headed

MOST = 40  # epochs after which it ends, however much time there is
PARTS = 4  # that few photos are divided into
FEW = 1500  # photos
EACH = 12  # epochs that each of several tails must have


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """The tails that were tuned. held: how the first of them stands on the photos it hasn't seen, in the whole net;
    standing: how all of them do together, each on its own, with the mean of their weights as the net."""

    held: Standing
    standing: Standing


def parts(
    s: Session, choice: Choice, known: Cut, groups: NDArray[np.int64], val: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The part of every photo [N], from 0: several where there are few photos and time enough for a tail without each,
    else 0 for `val` and 1 for the rest, where only the first is ever held out."""
    several = s.kept("tails", lambda: len(val) <= FEW and _epochs(s, choice, known) >= PARTS * EACH)
    return probe.folds_of(known.labels, PARTS, s.settings.seed, groups) if several else np.where(val, 0, 1)


def _epochs(s: Session, choice: Choice, known: Cut) -> float:
    """Passes over all photos that the time that is left is likely to be enough for, by two steps on a copy."""
    h = s.settings.hyperparam
    if s.budget is None:
        return float("inf")
    net = nets.Classifier(copy.deepcopy(choice.tail), copy.deepcopy(choice.net.head), {})
    batch = Views(known, batch_size=h.tail_batch_size)
    x, y = next(iter(batch.epoch(0)))
    with torch.random.fork_rng():
        seconds = pace.step(One(channels_last=True), net, x, y, nn.CrossEntropyLoss())[0]
    found = s.left() / (seconds * len(batch))
    told = f"time for {found:.0f} passes over the {len(known.labels)} photos; each of {PARTS} needs {EACH}"
    several = len(known.labels) <= FEW and found >= PARTS * EACH
    s.reasons.because("tails", f"{PARTS}, each without another part" if several else "one, without val", told)
    return found


def tuned(
    s: Session, choice: Choice, known: Cut, part: NDArray[np.int64], *, strength: float, twice: bool, share: float
) -> tuple[Tails, NDArray[np.int64]]:
    """The tails, tuned in `share` of the time that is left; and the rows that were held out, in the order of the
    standing. strength: of the probes from which they begin."""
    rounds = range(PARTS) if part.max() > 1 else range(1)
    found, rows = [], []
    for number in rounds:
        held = np.flatnonzero(part == number)
        one = _one(
            s,
            choice,
            known.of(np.flatnonzero(part != number)),
            known.of(held),
            strength=strength,
            twice=twice,
            stage=f"tail-{number}",
            share=share / (len(rounds) - number * share),
        )
        found.append(one)
        rows.append(held)
    s.reasons.chose(tails=len(found), strength=strength)
    return Tails(held=found[0], standing=together(found)), np.concatenate(rows)


def together(tails: Sequence[Standing]) -> Standing:
    """The net of their mean weights, with what each answers to the photos it hasn't seen, one after the other."""
    return Standing(
        net=stirred([one.net for one in tails]),
        logits=np.concatenate([one.logits for one in tails]),
        plain=np.concatenate([one.plain for one in tails]),
        features=np.concatenate([one.features for one in tails]),
        labels=np.concatenate([one.labels for one in tails]),
        twice=tails[0].twice,
        note=tails[0].note if len(tails) == 1 else f"{tails[0].note}, mean of {len(tails)}",
    )


def started(s: Session, choice: Choice, learnt: Cut, held: Cut, *, strength: float, twice: bool) -> Standing:
    """The probe fitted on `learnt` alone: where a tail begins, and how that answers `held`."""
    views = [np.mean(learnt.features, axis=0)] if twice else list(learnt.features)
    fitted = probe.fit(
        views, learnt.labels, classes=len(s.dataset.classes), seed=s.settings.seed, folds=2, strengths=(strength,)
    )
    features = np.mean(held.features, axis=0) if twice else held.features[0]
    net = nets.Classifier(choice.net.body, fitted.head(), choice.net.spec)
    return Standing(
        net=net,
        logits=fitted.logits(features),
        plain=fitted.logits(held.features[0]),
        features=features,
        labels=held.labels,
        twice=twice,
    )


def _one(
    s: Session, choice: Choice, learnt: Cut, held: Cut, *, strength: float, twice: bool, stage: str, share: float
) -> Standing:
    """One tail, tuned on `learnt`."""
    h, plan = s.settings.hyperparam, recipe.tail(s.settings.hyperparam)
    below = started(s, choice, learnt, held, strength=strength, twice=twice)
    net = nets.Classifier(copy.deepcopy(choice.tail), below.net.head, {})
    torch.manual_seed(s.settings.seed)
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing),
        optimizer=torch.optim.AdamW(
            optim.layered(
                [*net.body.children(), net.head],
                learning_rate=h.tail_learning_rate,
                weight_decay=plan.weight_decay,
                decay=plan.decay,
            )
        ),
        schedule=optim.cosine(),
        device=One(channels_last=True),
        train_loader=Views(learnt, batch_size=h.tail_batch_size, seed=s.settings.seed, shuffle=True),
        val_loader=Views(held, batch_size=128),
        hooks=[*s.hooks(last=f"last-{stage}", patience=h.patience), *([hooks.Ema(plan.ema)] if plan.ema else [])],
    )
    s.fit(learner, stage=stage, epochs=h.num_epochs or MOST, share=share)
    s.reasons.chose(tail_epochs=learner.at.epoch)
    note = f"last {TAIL} stages, {learner.at.epoch} epochs"
    return answered(choice, learner.scored, held, twice=twice, note=note)  # type: ignore[arg-type]


def answered(choice: Choice, tuned: nets.Classifier, held: Cut, *, twice: bool, note: str) -> Standing:
    """The standing of a tuned tail and its head, in the whole net."""
    views = [through(tuned.body, view) for view in (held.activations if twice else held.activations[:1])]
    features: Floats = np.mean(views, axis=0)
    net = nets.Classifier(copy.deepcopy(choice.net.body), tuned.head, choice.net.spec)
    for stage, better in zip(nets.stages(net.body)[-TAIL:], tuned.body.children(), strict=True):
        stage.load_state_dict(better.state_dict())
    return Standing(
        net=net,
        logits=headed(tuned, features),
        plain=headed(tuned, views[0]),
        features=features,
        labels=held.labels,
        twice=twice,
        note=note,
    )


class Views:
    """A loader over activations at the cut point: shuffled, each item in one of its views, or in order and plain."""

    def __init__(self, cut: Cut, *, batch_size: int, seed: int = 0, shuffle: bool = False) -> None:
        self.activations, self.labels = torch.from_numpy(cut.activations), torch.from_numpy(cut.labels)
        self.seed, self.shuffle = seed, shuffle
        self.batch_size = min(batch_size, len(cut.labels))
        self._to: torch.device | None = None  # where the items of a batch are sent to, if they lie elsewhere

    def __len__(self) -> int:
        whole, rest = divmod(len(self.labels), self.batch_size)
        return whole if self.shuffle else whole + (rest > 0)

    @property
    def room(self) -> int:
        """Bytes that all views take."""
        return self.activations.nbytes + self.labels.nbytes

    def on(self, device: torch.device, *, held: bool) -> Views:
        """The same batches on `device`: all views lie there if `held`, else those of a batch are sent ahead of it."""
        other = copy.copy(self)
        if held:
            other.activations, other.labels = self.activations.to(device), self.labels.to(device)
        other._to = None if held else device
        return other

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, … of `epoch`."""
        count, place = len(self.labels), self.labels.device
        order, view = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        if self.shuffle:
            order = torch.randperm(count, generator=loader.generator(self.seed, epoch, 0))
            view = torch.randint(len(self.activations), (count,), generator=loader.generator(self.seed, epoch, 1))
        order, view = order.to(place), view.to(place)

        def picked(batch: int) -> tuple[Tensor, ...]:
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            return self.activations[view[rows], rows], self.labels[rows]

        given = map(picked, range(start, len(self)))
        for x, y in given if self._to is None else ahead.sent(given, self._to):
            yield x.float(), y
