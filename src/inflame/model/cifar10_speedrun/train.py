"""The training, from data to bundle, as it happens. Change anything: nothing here is hidden behind a class."""

import copy
import os
import time
from functools import partial
from typing import Any

import torch
from torch import nn

from inflame import store
from inflame.artifact import augment, loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.model.engine import conclude, device, graphs, hooks, metrics, muon, nets, optim, session
from inflame.model.engine.learner import Learner
from inflame.records import Preprocess

from .clocks import Clocks, marker, said
from .net import PART, build, selective

PICTURES = Preprocess(size=32, resize=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
SEEN = 5000  # training pictures that the stem is whitened by
TRIED = 64  # items of a batch by which the pace is chosen on a CPU, and speed is measured


def train(settings: Settings) -> dict[str, Any]:
    """Trains, tests, bundles and reports; returns the result, with `clocks` and `selective`."""
    h = settings.hyperparam
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(store.home() / "cache" / "inductor"))
    with session.begin(settings, canvas=PICTURES, epochs=h.num_epochs) as s:
        # 1. Data: one tensor on the device; mirrored every other epoch and moved a little, in whole batches, there.
        place = device.pick()
        clocks = Clocks(place)
        pictures = loader.load(s.dataset, PICTURES, progress=s.progress("reading"))
        moves = augment.chain(augment.flip, partial(augment.shift, by=h.shift, mode="reflect"))
        batch = partial(loader.Batches, preprocess=PICTURES, seed=settings.seed, shuffle=True, transform=moves)
        batches = batch(pictures["train"], batch_size=h.batch_size, device=place)
        held = pictures.get("val") or pictures["train"]  # of three pictures none is held out
        held_out = loader.Batches(held, PICTURES, batch_size=1000, device=place)

        # 2. What learns, and how. On CUDA the whole step is one graph for each size of pictures.
        torch.manual_seed(settings.seed)
        net = build(len(s.dataset.classes), h.widths)
        if place.type == "cuda":
            _rehearse(net, place)
        with clocks.running():
            some = batches.pixels[:: max(1, len(batches.pixels) // SEEN)]
            nets.whiten(net, loader.normalise(some, PICTURES))
        criterion = nn.CrossEntropyLoss(label_smoothing=h.label_smoothing)
        finished = partial(s.model, preprocess=PICTURES, pictures=pictures, how="speed run from scratch")
        growing = graphs.Growing(h.sides, h.until, compiled=h.compiled, say=partial(s.say, "plan"))
        few = batch(loader.few(pictures["train"], TRIED), batch_size=TRIED)
        cuda = place.type == "cuda" and s.device is None
        learner = Learner(
            net=net,
            criterion=criterion,
            optimizer=_optimizer(net, h, batches.batch_size),
            schedule=optim.triangle(0.0),
            device=device.One(channels_last=True) if cuda else s.pace(net, few, criterion, epochs=h.num_epochs),
            train_loader=batches,
            val_loader=held_out,
            step=growing,
            hooks=[*s.hooks(finished, pictures), growing, *([hooks.Ema(h.ema)] if h.ema else []), clocks],
        )

        # 3. Train until the epochs or the time are used up.
        s.reserve = min(s.reserve + _answering(learner, pictures, h), s.most())
        s.fit(learner, epochs=h.num_epochs)

        # 4. The clocks stop when the test split is answered with six looks at what is hard. Nothing is chosen by that.
        beside = _beside(learner, pictures, clocks, h.tta) if "test" in pictures else None
        seen = clocks.read(marker(settings, place), None if s.run.resumed else session.since())
        s.say("clocks", said(seen))
        if beside is not None:
            unsure = f"six looks at the least sure {h.tta:.0%}, not served"
            s.say("beside", f"accuracy {beside['accuracy']:.4f} with {unsure}")

        # 5. Calibrate on the held-out photos, test what is served, bundle, report.
        if h.mirrored:
            learner.scored = nets.mirrored(learner.scored)  # type: ignore[arg-type]
        how = "speed run from scratch" + ", each picture seen twice" * h.mirrored
        result = conclude.conclude(s.run, s.dataset, finished(learner, how=how), pictures)
        s.run.status(clocks=seen, selective=beside)
        return {**result, "clocks": seen, "selective": beside}


def _optimizer(net: nets.Classifier, h: Any, items: int) -> muon.Muon:
    """Muon for the filters, SGD for biases and the last layer; `items` in a batch."""
    learning = [p for p in net.body.parameters() if p.requires_grad]
    rate = h.sgd_rate * items
    sgd = {"momentum": h.sgd_momentum, "weight_decay": h.weight_decay}
    filters = [p for p in learning if p.ndim == 4]
    biases = [p for p in learning if p.ndim == 1]
    return muon.Muon(
        [
            {"params": filters, "lr": h.learning_rate, "momentum": h.momentum, "orthogonal": True},
            {"params": biases, "lr": h.bias_multiplier * rate, **sgd},
            {"params": list(net.head.parameters()), "lr": rate / 81, **sgd},
        ],
        rounds=h.rounds,
    )


def _rehearse(net: nets.Classifier, place: torch.device) -> None:
    """Has the kernels of whitening and of answering loaded, on random pictures and a copy of the net."""
    other = copy.deepcopy(net).eval()
    x = torch.randn(PART, 3, PICTURES.size, PICTURES.size, device=place, generator=torch.Generator(place))
    nets.whiten(other, x)
    other.to(place).to(memory_format=torch.channels_last)
    with torch.inference_mode(), device.One(channels_last=True).autocast():
        selective(other, x.contiguous(memory_format=torch.channels_last), 0.25)


def _answering(learner: Learner, pictures: dict[str, Pictures], h: Any) -> float:
    """Seconds that all the answers after training will take, by the quicker of two tries."""
    few, tries = loader.few(pictures["train"], TRIED), []
    for _ in range(2):
        began = time.perf_counter()
        conclude.answers(learner.net, PICTURES, few)  # type: ignore[arg-type]
        tries.append(time.perf_counter() - began)
    served, test = 2 if h.mirrored else 1, len(pictures.get("test", ()))
    looked: float = (len(pictures.get("val", ())) + test) * served + test * (1 + 6 * h.tta)
    return looked * min(tries) / len(few)


def _beside(learner: Learner, pictures: dict[str, Pictures], clocks: Clocks, share: float) -> dict[str, Any]:
    """Accuracy on the test split with six looks at the `share` of which the net is least sure, on the clock."""
    place, test = learner.device.place, pictures["test"]
    net, pixels = learner.scored.eval(), test.pixels.to(place)
    with clocks.running(), torch.inference_mode(), learner.device.autocast():
        found = selective(net, loader.normalise(pixels, PICTURES), share).argmax(1).cpu().numpy()
    rate = metrics.accuracy(test.labels.numpy(), found)
    return {"accuracy": rate.value, "low": rate.low, "high": rate.high, "n": rate.n, "share": share}
