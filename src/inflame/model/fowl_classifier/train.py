"""The training, from photos to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from inflame.artifact import augment, loader, reading
from inflame.config import Settings
from inflame.errors import SettingError
from inflame.model.engine import backbones, conclude, hooks, nets, optim, probe, pruning, session
from inflame.model.engine.learner import Learner

from .net import layers

USUAL = 32  # the batch size that the learning rate is meant for


def train(settings: Settings) -> dict[str, Any]:
    """Fine-tunes, prunes if that is wanted, tests, bundles and reports; returns the result."""
    h = settings.hyperparam
    with session.begin(settings, fallback="clothing", epochs=h.num_epochs) as s:
        # 1. Data: decoded once into a cache on disk; every epoch another window of each photo, mirrored every other.
        pretrained = backbones.of(settings.net, settings.weights, lambda text: s.say("plan", text))
        plan = replace(pretrained.preprocess(h.size), resize=round(h.size * h.margin))
        stream = partial(reading.Stream, plan=plan, batch_size=h.batch_size or USUAL, seed=settings.seed)
        read = partial(stream, cache_gb=settings.cache_gb, say=lambda text: s.say("data", text))
        changes = augment.chain(
            partial(augment.zoom, size=h.size, smallest=h.smallest), augment.flip, partial(augment.colour, by=h.colour)
        )
        batches = read(s.dataset.split("train"), shuffle=True, transform=changes)
        held_out = read(s.dataset.split("val"))
        pictures = loader.load(s.held_out(), plan, progress=s.progress("decoding"))

        # 2. What learns, and how: the last layer at the full rate, earlier ones slower.
        torch.manual_seed(settings.seed)
        net = pretrained.load(len(s.dataset.classes))
        if pretrained.pretrained:  # the head begins with what the untuned body can tell
            net.head = probe.start(net, read(s.dataset.split("train")), classes=len(s.dataset.classes))
        criterion = nn.CrossEntropyLoss(label_smoothing=h.label_smoothing)

        def fit(net: nets.Classifier, stage: str, share: float) -> Learner:
            learning, frozen = layers(net, h.tune)
            where = s.pace(net, batches, criterion, epochs=h.num_epochs)  # the fastest way on this machine
            given, rate = batches, h.learning_rate
            if not h.batch_size:  # found by trying, too
                given = s.sized(net, batches, criterion, where)
                rate = optim.root(rate, size=given.batch_size, usual=USUAL)
            rates = optim.layered(learning, learning_rate=rate, weight_decay=h.weight_decay, decay=h.layer_decay)
            average = [hooks.Ema(h.ema)] if h.ema else []
            learner = Learner(
                net=net,
                criterion=criterion,
                optimizer=optim.adam(rates),
                schedule=optim.cosine(h.warmup),
                device=where,
                train_loader=given,
                val_loader=held_out,
                hooks=[*s.hooks(last=f"last-{stage}", patience=h.patience), hooks.Freeze(*frozen), *average],
            )
            if h.prune and learner.device.spread:
                remedy = "prune=0, or strategy=ddp where the net fits into one device"
                raise SettingError("A net that is spread can't be pruned.", where="hyperparam.prune", remedy=remedy)
            s.fit(learner, stage=stage, epochs=h.num_epochs, share=share)
            s.best(learner)
            return learner

        # 3. Train until the epochs or the time are used up; what pruning cuts out is made good by training on.
        learner = fit(net, "net", 0.6 if h.prune else 1.0)
        how = f"{pretrained.name}, {h.tune} fine-tuned at {h.size} px"
        if h.prune:
            before = pruning.size(learner.scored)
            smaller = pruning.prune(
                learner.scored,  # type: ignore[arg-type]
                next(iter(held_out.epoch(0)))[0],
                h.prune,
            )
            s.say("prune", f"{before / 1e6:.1f} → {pruning.size(smaller) / 1e6:.1f} million numbers; training on")
            learner = fit(smaller, "pruned", 1.0)
            how += f", pruned by {h.prune:.0%}"

        # 4. Calibrate on the held-out photos, look at the test split once, bundle, report.
        return conclude.conclude(s.run, s.dataset, s.model(learner, plan, pictures, how=how), pictures)
