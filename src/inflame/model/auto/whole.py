"""The last rung for photos: the whole network learns, from the weights of the rung below, on photos that look different
in every epoch.

Head first, then the last stages, now all of it (LP-FT; Kumar et al., 2022, arXiv:2202.10054), earlier stages slower
than later ones. It is begun only where the time is enough for some epochs: with few it gains less than a tuned tail.
Batch norms are trained too: frozen ones cost half of the accuracy on these networks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inflame.artifact import augment, loader
from inflame.artifact.loader import Pictures
from inflame.model.engine import hooks, nets, optim, pace
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.session import Session
from inflame.records import Preprocess, Record
from inflame.runs import Follows

from . import recipe
from .cutting import Choice
from .mixing import mixed
from .standing import Standing, answered

LEAST = 6.0  # epochs below which it isn't begun
MOST = 60  # epochs after which it ends, however much time there is
CHEAP = 12.0  # a photo costs less in training than so many answers of the frozen network
ANSWERS = 8  # times that the held-out photos are answered afterwards, in passes of the frozen network
SMALLEST = 0.5  # share of a photo that a window shows at least
FEW = 8  # photos in the batches by which the pace is chosen
TRIALS = 15 * FEW  # photos that this takes


def expected(s: Session, choice: Choice, seen: Sequence[Pictures], learnt: NDArray[np.int64], seconds: float) -> float:
    """Epochs over the photos `learnt` that `seconds` are likely to be enough for, by a step on a copy of the network;
    0 without a step where that would take too much of the time."""
    if s.budget is None:
        return float(s.settings.hyperparam.num_epochs + LEAST)
    if seconds < TRIALS * CHEAP * choice.seconds:
        return 0.0
    x, y = next(iter(loader.Batches(loader.picked(seen, learnt[:FEW]), choice.preprocess, batch_size=FEW).epoch(0)))
    with torch.random.fork_rng():
        took, _ = pace.step(One(channels_last=True), choice.net, x, y, nn.CrossEntropyLoss())
    each = took / len(y)
    return max(0.0, seconds - TRIALS * each) / (each * len(learnt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Record):
    """What all processes must know of the network and its photos: `spec` of the one and whether its `head` learns (one
    that is an average of weights doesn't), `share` of those that there are, and which `part` each is of, in the order
    of the splits."""

    spec: dict[str, Any]
    head: bool
    preprocess: Preprocess
    share: float
    part: tuple[int, ...]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The plan that `to_json` described."""
        return super(Plan, cls).from_json({**value, "preprocess": Preprocess.from_json(value["preprocess"])})


def tuned(
    s: Session,
    plan: Plan,
    choice: Choice,
    below: Standing,
    seen: Sequence[Pictures],
    decoded: Sequence[Pictures],
) -> Standing | None:
    """The whole network, tuned from the weights of `below` on the photos that are not of part 0, and how it stands on
    those that are. None where the time turns out to be too short. Of several processes all take part.

    seen: photos as the network sees them; decoded: the same as they were decoded, larger.
    """
    s.company.call(plan.to_json())
    held = _held(plan, seen)
    after = ANSWERS * len(held) * choice.seconds
    learner = _learned(s, plan, copy.deepcopy(below.net), seen, decoded, after=after)
    if learner is None:
        return None
    net = learner.device.plain(learner.scored)
    note = f"all of it, {learner.at.epoch} epochs"
    return answered(net, plan.preprocess, held, twice=below.twice, note=note)  # type: ignore[arg-type]


def follow(s: Session, plan: Plan, seen: Sequence[Pictures], decoded: Sequence[Pictures]) -> NoReturn:
    """The share of another process than the first, which gives the weights: they are sent when training begins."""
    net = nets.build(plan.spec)
    net.head.requires_grad_(plan.head)
    learner = _learned(s, plan, net, seen, decoded)
    if learner is not None:
        learner.device.plain(learner.scored)
    raise Follows


def _held(plan: Plan, seen: Sequence[Pictures]) -> Pictures:
    return loader.picked(seen, np.flatnonzero(np.array(plan.part) == 0))


def _learned(
    s: Session,
    chosen: Plan,
    net: nets.Classifier,
    seen: Sequence[Pictures],
    decoded: Sequence[Pictures],
    *,
    after: float = 0.0,
) -> Learner | None:
    """What has learned from `net` on; None where the time turns out to be too short. after: seconds that will be needed
    then."""
    h, classes, preprocess = s.settings.hyperparam, len(s.dataset.classes), chosen.preprocess
    learnt = np.flatnonzero(np.array(chosen.part) != 0)
    few = loader.Batches(loader.picked(seen, learnt[:FEW]), preprocess, batch_size=FEW)
    device = s.pace(net, few, nn.CrossEntropyLoss(label_smoothing=0.1), epochs=h.num_epochs, name="pace of all")
    plan = recipe.Recipe.from_json(s.kept("recipe of all", lambda: _recipe(s, len(learnt)).to_json()))
    if not h.num_epochs and plan.epochs < LEAST:
        s.reasons.because("rung whole", "not begun", f"time for {plan.epochs:.1f} epochs, {LEAST:g} are the least")
        return None
    torch.manual_seed(s.settings.seed)
    batches = loader.Batches(
        loader.picked(decoded, learnt),
        preprocess,
        batch_size=h.tail_batch_size,
        seed=s.settings.seed,
        shuffle=True,
        transform=_moves(plan, preprocess.size),
    )
    layers = [*nets.stages(net.body), net.head]
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing),
        optimizer=torch.optim.AdamW(
            optim.layered(layers, learning_rate=h.whole_learning_rate, weight_decay=plan.weight_decay, decay=plan.decay)
        ),
        schedule=optim.cosine(),
        device=device,
        train_loader=mixed(batches, classes=classes, mixup=plan.mixup, cutmix=plan.cutmix),
        val_loader=loader.Batches(_held(chosen, seen), preprocess, batch_size=64),
        hooks=[*s.hooks(last="last-whole", patience=h.patience), *([hooks.Ema(plan.ema)] if plan.ema else [])],
    )
    s.reserve += after
    s.fit(learner, stage="whole", epochs=h.num_epochs or MOST)
    s.reasons.chose(whole_epochs=learner.at.epoch)
    return learner


def _recipe(s: Session, items: int) -> recipe.Recipe:
    h = s.settings.hyperparam
    epochs = float(h.num_epochs) or min(float(MOST), s.left() / max(s.each * items, 1e-9))
    found = recipe.whole(epochs, h)
    s.reasons.because("recipe of all", found.words(), found.why)
    return found


def _moves(plan: recipe.Recipe, size: int) -> augment.Transform:
    """Another window of the photo every time, mirrored every other epoch."""
    moves: list[augment.Transform] = [partial(augment.zoom, size=size, smallest=SMALLEST), augment.flip]
    if plan.trivial:
        moves.append(augment.trivial)
    if plan.cutout:
        moves.append(partial(augment.cutout, side=plan.cutout))
    return augment.chain(*moves)
