"""The training, from data to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

from functools import partial
from typing import Any

import torch
from torch import nn

from inflame.artifact import augment, loader
from inflame.config import Settings
from inflame.model.engine import conclude, hooks, optim, session
from inflame.model.engine.learner import Learner
from inflame.model.engine.nets import whiten
from inflame.records import Preprocess

from .net import build

PICTURES = Preprocess(size=28, resize=28, channels=1, mean=(0.1307,), std=(0.3081,))


def train(settings: Settings) -> dict[str, Any]:
    """Trains, tests, bundles and reports; returns the result."""
    h = settings.hyperparam

    # 1. Data: MNIST, or scikit-learn's digits where MNIST can't be had. The run folder, where we may have been before.
    with session.begin(settings, fallback="digits", canvas=PICTURES, epochs=h.num_epochs) as s:
        pictures = loader.load(s.dataset, PICTURES, progress=s.progress("reading"))
        held_out = pictures.get("val") or pictures["train"]  # of three pictures none is held out
        batches = loader.Batches(
            pictures["train"],
            PICTURES,
            batch_size=h.batch_size,
            seed=settings.seed,
            shuffle=True,
            transform=partial(augment.shift, by=h.shift),
        )

        # 2. What learns, and how.
        torch.manual_seed(settings.seed)
        net = build(len(s.dataset.classes))
        whiten(net, loader.normalise(loader.few(pictures["train"], 5000).pixels, PICTURES))
        optimizer = optim.adamw(net, learning_rate=h.learning_rate, weight_decay=h.weight_decay)
        criterion = nn.CrossEntropyLoss(label_smoothing=h.label_smoothing)
        finished = partial(s.model, preprocess=PICTURES, pictures=pictures, how="a small net, trained from scratch")
        learner = Learner(
            net=net,
            criterion=criterion,
            optimizer=optimizer,
            schedule=optim.triangle(h.warmup),
            device=s.pace(net, batches, criterion, epochs=h.num_epochs),  # the fastest way on this machine
            train_loader=batches,
            val_loader=loader.Batches(loader.few(held_out, 1000), PICTURES, batch_size=500),
            hooks=[*s.hooks(finished, pictures, patience=h.patience), *([hooks.Ema(h.ema)] if h.ema else [])],
        )

        s.hold_back(net, PICTURES, pictures)

        # 3. Train until the time or the epochs are used up; a usable bundle is there on the way.
        s.fit(learner, epochs=h.num_epochs)

        # 4. Calibrate on the held-out digits, look at the test split once, bundle, report.
        return conclude.conclude(s.run, s.dataset, finished(learner), pictures)
