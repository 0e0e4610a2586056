"""The road for small pictures: majority → a linear model on the pixels → a small net from scratch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.model.engine import conclude, nets, optim
from inflame.model.engine.conclude import Model
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.session import Session
from inflame.records import Preprocess

from .ladder import Ladder, majority
from .plan import Road

FIRST = 5000  # training pictures that the linear model learns from: it is there to be beaten


def train(s: Session, settings: Settings, road: Road) -> dict[str, Any]:
    """Climbs the ladder until the time is over; returns the result."""
    h = settings.hyperparam
    plain = Preprocess(size=road.side, resize=road.side, channels=road.channels)
    pictures = loader.load(s.dataset, plain, progress=s.progress("decoding"))
    preprocess, held = _coloured(plain, pictures["train"]), pictures.get("val") or pictures["train"]
    classes, labels = len(s.dataset.classes), held.labels.numpy()
    ladder = Ladder(s, confidence=h.confidence)

    base = majority(pictures["train"].labels.numpy(), labels, classes)
    ladder.first("majority", base, labels)
    best = _linear(pictures, preprocess, classes, seed=settings.seed)
    if ladder.climb("linear", base, best.logits, labels, note="softmax regression on the pixels"):
        s.reserve = 1.0 + 2 * conclude.publish(s.run, s.dataset, best, pictures)

    torch.manual_seed(settings.seed)
    net = nets.small(size=road.side, channels=road.channels, classes=classes)
    nets.whiten(net, loader.normalise(pictures["train"].pixels[:FIRST], preprocess))
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=h.label_smoothing),
        optimizer=optim.sgd(
            net,
            learning_rate=h.learning_rate,
            weight_decay=h.weight_decay,
            momentum=h.momentum,
            bias_rate=h.bias_rate,
        ),
        schedule=optim.triangle(h.warmup),
        device=One(precision="bf16", channels_last=True),
        train_loader=loader.Batches(
            pictures["train"],
            preprocess,
            batch_size=h.batch_size,
            seed=settings.seed,
            shuffle=True,
            transform=_moves(road, h.shift),
        ),
        val_loader=loader.Batches(held, preprocess, batch_size=500) if "val" in pictures else None,
        hooks=s.hooks(),
    )
    s.fit(learner, stage="small", epochs=h.num_epochs)
    grown = s.model(learner, preprocess, pictures, how=f"a small net from scratch ({road.side} px)")
    if ladder.climb("small net", best.logits, grown.logits, labels, note=f"{learner.at.epoch} epochs"):
        best = grown
    return conclude.conclude(s.run, s.dataset, best, pictures, ladder=ladder.rungs)


def _coloured(plain: Preprocess, train: Pictures) -> Preprocess:
    """The same with the mean and deviation of the training pictures' colours."""
    sample = train.pixels[:: max(1, len(train) // FIRST)].float() / 255
    mean, std = sample.mean(dim=(0, 1, 2)), sample.std(dim=(0, 1, 2)).clamp_min(0.05)
    return Preprocess.from_json({**plain.to_json(), "mean": mean.tolist(), "std": std.tolist()})


def _moves(road: Road, by: int) -> loader.Transform:
    """Shifts, and mirrors where pictures have colours: a mirrored photo is a photo, a mirrored digit is none."""
    if road.channels == 1:
        return partial(loader.shift, by=by)
    return loader.chain(loader.flip, partial(loader.shift, by=by, mode="reflect"))


def _linear(pictures: Any, preprocess: Preprocess, classes: int, *, seed: int) -> Model:
    """Softmax regression on the pixels of a sample, by L-BFGS."""
    train, held = pictures["train"], pictures.get("val") or pictures["train"]
    net = nets.linear(size=preprocess.size, channels=preprocess.channels, classes=classes)
    rows = torch.randperm(len(train), generator=loader.generator(seed, 0, 2))[:FIRST]
    x, y = loader.normalise(train.pixels[rows], preprocess), train.labels[rows]
    nn.init.zeros_(net.head.weight)  # type: ignore[arg-type]
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        penalty = 0.01 * net.head.weight.square().sum()  # type: ignore[operator]
        loss = nn.functional.cross_entropy(net(x), y) + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    logits = conclude.logits(net, preprocess, held)
    return Model(
        net=net,
        preprocess=preprocess,
        logits=np.ascontiguousarray(logits),
        labels=held.labels.numpy(),
        uris=held.uris,
        splits=("val" if "val" in pictures else "train",) * len(held),
        how="softmax regression on the pixels",
    )
