"""The training, from data to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

from functools import partial
from typing import Any

import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.config import Settings
from inflame.model.engine import conclude, device, hooks, optim, session
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess

from .net import build

USUAL = 512  # the batch size that the learning rate is meant for
PICTURES = Preprocess(size=32, resize=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def train(settings: Settings) -> dict[str, Any]:
    """Trains, tests, bundles and reports; returns the result."""
    h = settings.hyperparam
    with session.begin(settings, canvas=PICTURES, epochs=h.num_epochs) as s:
        # 1. Data: mirrored and moved a little, in whole batches, on the device.
        place = device.pick()
        pictures = loader.load(s.dataset, PICTURES, progress=s.progress("reading"))
        batches = loader.Batches(
            pictures["train"],
            PICTURES,
            batch_size=h.batch_size or USUAL,
            seed=settings.seed,
            shuffle=True,
            transform=augment.chain(augment.flip, partial(augment.shift, by=h.shift, mode="reflect")),
            device=place,
        )
        held = pictures.get("val") or pictures["train"]  # of three pictures none is held out
        held_out = loader.Batches(held, PICTURES, batch_size=1000, device=place)

        # 2. What learns, and how.
        torch.manual_seed(settings.seed)
        net = build(len(s.dataset.classes), settings.net)
        criterion = nn.CrossEntropyLoss(label_smoothing=h.label_smoothing)
        where = s.pace(net, batches, criterion, epochs=h.num_epochs)  # the fastest way on this machine
        rate = h.learning_rate
        if not h.batch_size:  # found by trying, too
            batches = s.sized(net, batches, criterion, where)
            rate = optim.linear(rate, size=batches.batch_size, usual=USUAL)
        optimizer = optim.sgd(net, learning_rate=rate, weight_decay=h.weight_decay, momentum=h.momentum)
        finished = partial(s.model, preprocess=PICTURES, pictures=pictures, how=f"{settings.net} from scratch")
        learner = Learner(
            net=net,
            criterion=criterion,
            optimizer=optimizer,
            schedule=optim.triangle(h.warmup),
            device=where,
            train_loader=batches,
            val_loader=held_out,
            hooks=[*s.hooks(finished, pictures, patience=h.patience), *([hooks.Ema(h.ema)] if h.ema else [])],
        )

        s.hold_back(net, PICTURES, pictures)

        # 3. Train until the epochs or the time are used up.
        s.fit(learner, epochs=h.num_epochs)

        # 4. Calibrate on the held-out photos, look at the test split once, bundle, report.
        return conclude.conclude(s.run, s.dataset, finished(learner), pictures)
