"""The road for small pictures: majority → a linear model on the pixels → a small net from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.errors import SettingError, did_you_mean
from inflame.model.engine import conclude, hooks, nets, optim, placing
from inflame.model.engine.conclude import Floats, Model
from inflame.model.engine.device import Device
from inflame.model.engine.learner import Learner
from inflame.model.engine.session import Session
from inflame.records import Preprocess

from . import balance, pairs, recipe
from .ladder import Ladder, majority
from .mixing import mixed
from .plan import Road, may_be_photos

KEPT = 0.6  # share of the linear model's accuracy on mirror images above which those are used
WATCHED = 1000  # held-out pictures that are scored after each epoch; the paired test at the end takes all
HELD = 2500  # held-out pictures that tests and calibration use: more would cost time that is better spent training
NETS = ("auto", "simple", "narrow", "pairs")
NARROW = (16, 48, 96, 128)  # channels of a net whose epoch takes half the time: for grey pictures …
SOON = 8.0  # … where the time is likely to be enough for no more epochs of the usual one
BATCH = 128  # items of a batch, which the learning rate is meant for; a GPU may take more, but …
TIMES, STEPS, EPOCH = 8, 1000, 16  # … no more than so many times that, nor fewer steps in all, nor in an epoch
TRIED = 64  # pictures of a batch by which the pace of a larger net is chosen
FIRST = 3000  # training pictures that the linear model learns from: it is there to be beaten


def train(s: Session, settings: Settings, road: Road) -> dict[str, Any]:
    """Climbs the ladder until the time is over; returns the result."""
    h = settings.hyperparam
    plain = Preprocess(size=road.side, resize=road.side, channels=road.channels)
    pictures = loader.load(s.dataset, plain, progress=s.progress("decoding"))
    if "val" in pictures:
        pictures["val"] = loader.few(pictures["val"], HELD)
    preprocess, held = _coloured(plain, pictures["train"]), pictures.get("val") or pictures["train"]
    classes, labels = len(s.dataset.classes), held.labels.numpy()
    ladder = Ladder(s, confidence=h.confidence)

    if s.company.follows:  # what comes before the net is the first process's
        learner = _learner(s, settings, road, pictures, preprocess, held, safe=s.company.called())
        s.fit(learner, stage="small", epochs=h.num_epochs)
        s.model(learner, preprocess, pictures, how="")  # and what comes after it
    s.company.alone()
    base = majority(pictures["train"].labels.numpy(), labels, classes)
    ladder.first("majority", base, labels)
    published, best = None, _linear(pictures, preprocess, classes, seed=settings.seed)
    if ladder.climb("linear", base, best.logits, labels, note="softmax regression on the pixels"):
        s.reserve = 0.5 + 2 * conclude.publish(s.run, s.dataset, best, pictures)
        published = best

    kept, safe = _mirror_safe(best, preprocess, held)
    s.say("plan", _words(road, kept, safe=safe))
    s.reasons.because(
        "mirror images", "used" if safe else "not used", f"the linear model keeps {kept:.0%} of its accuracy on them"
    )
    s.reasons.stage("linear model")
    s.company.call(safe)
    learner = _learner(s, settings, road, pictures, preprocess, held, safe=safe)
    s.fit(learner, stage="small", epochs=h.num_epochs)
    s.reasons.stage("small net")
    grown = s.model(learner, preprocess, pictures, how=f"a small net from scratch ({road.side} px)")
    if ladder.climb("small net", best.logits, grown.logits, labels, note=f"{learner.at.epoch} epochs"):
        best = grown
        if safe:
            both = _twice(best, held)
            _looks(s, best, both)
            if ladder.climb("mirrored", best.logits, both.logits, labels, note="each picture and its mirror image"):
                best = both
    best = balance.balanced(ladder, best, pictures["train"].labels.numpy(), classes=classes)
    canvas = may_be_photos(settings.io.training_input)
    s.reasons.chose(
        road="small", epochs=learner.at.epoch, side=road.side, channels=road.channels, mirrors=safe, canvas=canvas
    )
    left = s.budget.left if s.budget is not None else None
    return conclude.conclude(s.run, s.dataset, best, pictures, ladder=ladder.rungs, published=published, left=left)


def _learner(
    s: Session,
    settings: Settings,
    road: Road,
    pictures: Mapping[str, Pictures],
    preprocess: Preprocess,
    held: Pictures,
    *,
    safe: bool,
) -> Learner:
    """What learns, and how: by the epochs that the time is likely to be enough for."""
    h, train, classes = settings.hyperparam, pictures["train"], len(s.dataset.classes)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    few = partial(loader.Batches, loader.few(train, FIRST), preprocess, seed=settings.seed, shuffle=True)
    torch.manual_seed(settings.seed)
    net = nets.small(size=road.side, channels=road.channels, classes=classes)
    device = s.pace(net, few(batch_size=h.batch_size or BATCH), criterion, epochs=h.num_epochs)
    size = _size(s, net, few(batch_size=h.batch_size or BATCH), criterion, device, len(train), "batch size")
    epochs = s.kept("epochs", lambda: float(h.num_epochs) or s.left() / max(s.each * len(train), 1e-9))
    kind = s.kept("small net", lambda: _kind(s, road, len(train), epochs))
    paired = kind == "pairs"
    if kind == "narrow":
        torch.manual_seed(settings.seed)
        net = nets.small(size=road.side, channels=road.channels, classes=classes, widths=NARROW)
        epochs = float(h.num_epochs) or 2 * epochs
    elif paired:
        torch.manual_seed(settings.seed)
        net = pairs.build(road, classes)
        device = s.pace(net, few(batch_size=TRIED), criterion, epochs=h.num_epochs, name="pace of pairs")
        size = _size(s, net, few(batch_size=pairs.BATCH), criterion, device, len(train), "batch size of pairs")
        epochs = s.kept("epochs of pairs", lambda: float(h.num_epochs) or s.left() / max(s.each * len(train), 1e-9))
    nets.whiten(net, loader.normalise(loader.few(train, FIRST).pixels, preprocess))
    s.hold_back(net, preprocess, pictures, looks=2 if safe else 1)
    plan = (recipe.paired if paired else recipe.small)(epochs, h)
    s.reasons.because("recipe", plan.words(), plan.why)
    s.reasons.chose(net=kind, recipe=plan.to_json())
    batches = loader.Batches(
        train,
        preprocess,
        batch_size=size,
        seed=settings.seed,
        shuffle=True,
        transform=_moves(road, h.shift if road.channels > 1 else h.shift_grey, plan.cutout, mirror=safe),
    )
    rate = h.learning_rate if h.batch_size else optim.root(h.learning_rate, size=max(size, BATCH), usual=BATCH)
    s.reasons.chose(batch=pairs.rates(size) if paired else {"items": size, "rate": rate})
    adamw = partial(optim.adamw, learning_rate=rate, weight_decay=plan.weight_decay)
    growing = [pairs.growing(road, partial(_said, s))] if paired else []
    return Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=plan.label_smoothing),
        optimizer=pairs.optimizer(net, size) if paired else adamw(net),
        schedule=optim.triangle(0.0 if paired else h.warmup),
        device=device,
        train_loader=mixed(batches, classes=classes, mixup=plan.mixup, cutmix=plan.cutmix),
        val_loader=loader.Batches(loader.few(held, WATCHED), preprocess, batch_size=500),
        step=growing[0] if growing else None,
        hooks=[*s.hooks(patience=h.patience), *growing, *([hooks.Ema(plan.ema)] if plan.ema else [])],
    )


def _size(
    s: Session, net: nn.Module, few: loader.Batches, criterion: nn.Module, device: Device, items: int, name: str
) -> int:
    """Items of a batch. On a GPU more than those of `few` where that makes each quicker and leaves steps enough."""
    usual, set_to, why = few.batch_size, s.settings.hyperparam.batch_size, "as you set"
    if not (set_to and name == "batch size"):
        if device.place.type not in placing.NEAR:
            epochs = s.settings.hyperparam.num_epochs or s.left() / max(s.each * items, 1e-9)
            most = min(TIMES * usual, int(epochs * items / STEPS), items // EPOCH)
            return s.sized(net, few, criterion, device, least=usual, most=max(usual, most), name=name).batch_size
        why = "what the recipe was tuned with on a CPU; a larger one learns less from an item"
    s.reasons.because(name, f"{usual}", why)
    return usual


def _said(s: Session, told: str) -> None:
    """Says whether the step is captured as a graph."""
    s.say("plan", told)
    taken, _, why = told.partition(": ")
    s.reasons.because("graph", taken, why)


def _kind(s: Session, road: Road, items: int, epochs: float) -> str:
    """Which of the small nets it is, by the epochs of the simple one that there is time for."""
    wanted, words = s.settings.hyperparam.small_net, {"simple": "simple, AdamW", "narrow": "narrow, AdamW"}
    if wanted not in NETS:
        raise SettingError(
            f'There is no small net "{wanted}".{did_you_mean(wanted, NETS)}',
            where="hyperparam.small_net",
            remedy=f"Use one of: {', '.join(NETS)}",
        )
    found = str(wanted)
    if wanted == "auto":
        narrow = road.channels == 1 and epochs < SOON and not s.settings.hyperparam.num_epochs
        found = "pairs" if pairs.suits(road, items, epochs) else "narrow" if narrow else "simple"
    told = f"time for {epochs:.1f} epochs of the simple one; pairs gain from {pairs.ENOUGH:g} on, for colour photos; "
    told += f"for grey ones a narrow one, twice as quick, up to {SOON:g}"
    s.reasons.because("small net", words.get(found, "pairs of convolutions, Muon"), told)
    return found


def _coloured(plain: Preprocess, train: Pictures) -> Preprocess:
    """The same with the mean and deviation of the training pictures' colours."""
    sample = train.pixels[:: max(1, len(train) // FIRST)].float() / 255
    mean, std = sample.mean(dim=(0, 1, 2)), sample.std(dim=(0, 1, 2)).clamp_min(0.05)
    return Preprocess.from_json({**plain.to_json(), "mean": mean.tolist(), "std": std.tolist()})


def _moves(road: Road, by: int, hidden: float, *, mirror: bool) -> augment.Transform:
    """Shifts, mirrors where that is safe, and hides a square of side `hidden`."""
    moves: list[augment.Transform] = [augment.flip] if mirror else []
    moves.append(partial(augment.shift, by=by, mode="constant" if road.channels == 1 else "reflect"))
    if hidden:
        moves.append(partial(augment.cutout, side=hidden))
    return augment.chain(*moves)


def _mirror_safe(linear: Model, preprocess: Preprocess, held: Pictures) -> tuple[float, bool]:
    """Whether mirror images keep their class, by evidence: a mirrored shirt is a shirt, a mirrored 3 is none. The share
    of its accuracy that the linear model keeps on mirror images, and whether that is enough."""
    part = loader.few(held, WATCHED)
    flipped = Pictures(pixels=part.pixels.flip(2), labels=part.labels, uris=part.uris)
    labels = part.labels.numpy()
    plain, turned = (
        float((conclude.answers(linear.net, preprocess, pictures)[0].argmax(axis=1) == labels).mean())
        for pictures in (part, flipped)
    )
    kept = turned / max(plain, 1e-9)
    return kept, kept >= KEPT


def _words(road: Road, kept: float, *, safe: bool) -> str:
    colours = "grey" if road.channels == 1 else "colour"
    verdict = "used in training" if safe else "not used"
    return (
        f"a small net from scratch on {road.side} px {colours} pictures; mirror images {verdict} "
        f"(the linear model keeps {kept:.0%} of its accuracy on them)"
    )


def _twice(model: Model, held: Pictures) -> Model:
    """The model, answering for each picture and its mirror image together."""
    net = nets.mirrored(model.net)
    turned = Pictures(pixels=held.pixels.flip(2), labels=held.labels, uris=held.uris)
    again, features = conclude.answers(model.net, model.preprocess, turned)
    logits: Floats = (model.logits + again) / np.float32(2)
    embedding: Floats = (model.embedding + features) / np.float32(2)
    return dataclasses.replace(
        model, net=net, logits=logits, embedding=embedding, how=f"{model.how}, each picture seen twice"
    )


def _looks(s: Session, one: Model, both: Model) -> None:
    """Says how good one look at a picture is, beside that at the picture and its mirror image."""
    plain, mirrored = (float((found.logits.argmax(axis=1) == one.labels).mean()) for found in (one, both))
    s.run.status(looks={"plain": plain, "mirrored": mirrored, "n": len(one.labels), "split": one.splits[0]})


def _linear(pictures: Any, preprocess: Preprocess, classes: int, *, seed: int) -> Model:
    """Softmax regression on the pixels of a sample, by L-BFGS."""
    train, held = pictures["train"], pictures.get("val") or pictures["train"]
    torch.manual_seed(seed)
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
    logits, embedding = conclude.answers(net, preprocess, held)
    return Model(
        net=net,
        preprocess=preprocess,
        logits=logits,
        embedding=embedding,
        labels=held.labels.numpy(),
        uris=held.uris,
        splits=("val" if "val" in pictures else "train",) * len(held),
        how="softmax regression on the pixels",
    )
