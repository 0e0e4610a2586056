"""The road for photos: majority → the pretrained net's own labels → a probe on its frozen features → a tuned tail.

Pictures run through the frozen part once, plain and mirrored; what comes out at the cut point is kept, so that the
probe takes seconds and an epoch of the tail as well.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.model.engine import conclude, hooks, nets, optim, probe
from inflame.model.engine.backbones import Backbone, Frozen
from inflame.model.engine.conclude import Model
from inflame.model.engine.device import One
from inflame.model.engine.learner import Learner
from inflame.model.engine.session import Session
from inflame.records import Preprocess

from .ladder import Ladder, majority
from .plan import CANVAS

SIZES = (CANVAS, 224, 160, 128)  # what a net may see of the squares, the best first
SHARE = 0.6  # of the time that is left, for running all pictures through the frozen part
SAMPLE = 160  # training pictures on which the backbones compete
TAIL = 2  # stages that are tuned
WORTH = 6.0  # seconds below which tuning isn't begun
MOST = 2 << 30  # bytes of activations at the cut point; larger sets keep features only, and tune nothing

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backbone that won, at the picture size that the time allows. `body` is cut into `stem`, which stays as it
    is, and `tail`; `key` names the stem's features in the cache."""

    backbone: Backbone
    preprocess: Preprocess
    net: nets.Classifier
    stem: Frozen
    tail: nn.Module
    key: str
    views: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A split at the cut point: activations float16 [V,N,...] of V views (plain, mirrored), labels [N], features
    float32 [V,N,D] of the untuned tail."""

    activations: NDArray[np.float16]
    labels: NDArray[np.int64]
    features: Floats


def train(s: Session, settings: Settings, found: Sequence[Backbone]) -> dict[str, Any]:
    """Climbs the ladder until the time is over; returns the result."""
    h, classes = settings.hyperparam, len(s.dataset.classes)
    squares = Preprocess(size=CANVAS, resize=CANVAS)
    s.hold(squares)
    pictures = loader.load(s.dataset, squares, progress=s.progress("decoding"))
    hashes = dict(zip(s.dataset.items["uri"].to_pylist(), s.dataset.items["sha256"].to_pylist(), strict=True))
    s.reserve = 4.0
    choice, share = _choose(s, found, pictures, hashes, seed=settings.seed)
    # What will be seen: the squares at the chosen size; a random part of them where the time isn't enough for all.
    pictures = {
        name: _resized(loader.some(part, share, settings.seed), choice.preprocess.size)
        for name, part in pictures.items()
    }
    known: list[str] = [name for name in ("train", "val") if name in pictures]
    cuts = {name: _cut(s, choice, pictures[name], hashes) for name in known}

    # Everything that isn't the test split is held out once: by cross-validation for the probe.
    labels = np.concatenate([cuts[name].labels for name in known])
    views = [np.concatenate([cuts[name].features[view] for name in known]) for view in range(choice.views)]
    groups = _groups([hashes[uri] for name in known for uri in pictures[name].uris])
    ladder = Ladder(s, confidence=h.confidence)
    best = majority(cuts["train"].labels, labels, classes)
    ladder.first("majority", best, labels)
    fit = partial(probe.fit, labels=labels, classes=classes, folds=h.folds, seed=settings.seed, groups=groups)
    fitted = fit(views)
    head: nn.Module = fitted.head()
    logits, seen, net = fitted.held, views[0], choice.net
    how = f"logistic regression on frozen features of {choice.backbone.name} at {choice.preprocess.size} px"
    named = _named(choice.backbone, s.dataset.classes)
    if named is not None:
        own = nets.Classifier(net.body, named, {**net.spec, "head": "linear"})
        known_already = _logits(named, views[0])
        if ladder.climb("named", best, known_already, labels, note="the network's own labels, no training"):
            best = known_already
    taken = ladder.climb("probe", best, fitted.held, labels, note=f"logistic regression, L2 {fitted.strength:g}")
    if taken:
        best = fitted.held
    elif named is not None and ladder.name == "named":
        head, logits, net, how = named, best, own, f"{choice.backbone.name} at {choice.preprocess.size} px, as it came"
    if choice.views > 1:  # the mean of what a photo and its mirror image show tells more than each
        mean = np.mean(views, axis=0)
        both = fit([mean])
        if ladder.climb("mirrored", best, both.held, labels, note="each photo and its mirror image"):
            head, logits, seen, net = both.head(), both.held, mean, nets.mirrored(choice.net)
    net.head = head
    model = Model(
        net=net,
        preprocess=choice.preprocess,
        logits=logits,
        embedding=seen,
        labels=labels,
        uris=tuple(uri for name in known for uri in pictures[name].uris),
        splits=tuple(name for name in known for _ in range(len(pictures[name]))),
        how=how,
        source="out-of-fold",
    )
    s.reserve = 2.0 + conclude.publish(s.run, s.dataset, model, pictures) * 1.5
    first = model
    if "val" in cuts and s.left() > WORTH and not isinstance(choice.tail, nn.Identity):
        model = _tuned(s, settings, choice, model, cuts, pictures, ladder)
    return conclude.conclude(s.run, s.dataset, model, pictures, ladder=ladder.rungs, published=first)


# --- which backbone, at which size --------------------------------------------------------------------


def _choose(
    s: Session, found: Sequence[Backbone], pictures: Mapping[str, Pictures], hashes: Mapping[str, str], *, seed: int
) -> tuple[Choice, float]:
    """The backbone whose features separate a sample best in cross-validation, at a size that the time allows; and the
    share of the pictures that it allows."""
    train = pictures["train"]
    sample = loader.some(train, SAMPLE / len(train), seed)
    everything = sum(len(part) for part in pictures.values())
    first = _cut_open(s, found[0], CANVAS)
    size, views, share = _size(s, first, sample, looks=len(found) * len(sample), everything=everything)
    scores = []
    for backbone in found:
        choice = first if backbone is found[0] and size == CANVAS else _cut_open(s, backbone, size)
        cut = _cut(s, choice, _resized(sample, size), hashes, views=1)
        fitted = probe.fit(
            [cut.features[0]], cut.labels, classes=len(s.dataset.classes), folds=4, seed=seed, strengths=(3e-3,)
        )
        scores.append((fitted.accuracy, -fitted.loss, backbone, choice, cut.activations.nbytes / len(sample)))
    scores.sort(key=lambda row: row[:2], reverse=True)
    (accuracy, _, backbone, choice, each), *others = scores
    if each * views * everything > MOST:
        choice = _cut_open(s, backbone, size, tail=False)
    text = f"{backbone.name} at {size} px: {accuracy:.2f} on {len(sample)} held-out photos"
    if others:
        text += ", against " + ", ".join(f"{other[0]:.2f} of {other[2].name}" for other in others[:3])
    s.say("plan", f"{text}; {views} view{'s' if views > 1 else ''}; {_left(s)}")
    if share < 1:
        s.say("plan", f"time for {share:.0%} of the {everything:,} photos; more time, or a GPU, would show it all")
    chosen = Choice(
        backbone=backbone,
        preprocess=choice.preprocess,
        net=choice.net,
        stem=choice.stem,
        tail=choice.tail,
        key=choice.key,
        views=views,
    )
    return chosen, share


def _left(s: Session) -> str:
    return "no time limit" if s.budget is None else f"{s.left():.0f} s left"


def _size(s: Session, choice: Choice, sample: Pictures, *, looks: int, everything: int) -> tuple[int, int, float]:
    """The largest size, and 2 or 1 views, at which all pictures run through the frozen part in `SHARE` of the time; at
    the smallest size a share of the pictures where even that is too much."""
    pixels = _resized(sample, CANVAS).pixels[: probe.BATCH].numpy()
    choice.stem(pixels)  # the first time, room is made
    began = time.perf_counter()
    choice.stem(pixels)
    seconds = (time.perf_counter() - began) / len(pixels)
    allowed = SHARE * s.left()
    for size in SIZES:
        for views in (2, 1) if size == SIZES[0] else (1,):
            if seconds * (size / CANVAS) ** 2 * (looks + views * everything) <= allowed:
                return size, views, 1.0
    possible = allowed / (seconds * (SIZES[-1] / CANVAS) ** 2) - looks
    return SIZES[-1], 1, min(1.0, max(possible, SAMPLE) / everything)


def _cut_open(s: Session, backbone: Backbone, size: int, *, tail: bool = True) -> Choice:
    """The backbone, cut before its last stages; without `tail`, or where it can't be cut, after them."""
    net = backbone.load(len(s.dataset.classes)).eval()
    stages = nets.stages(net.body) if tail else []
    parts = stages[:-TAIL] or [net.body]
    last = nn.Sequential(*stages[-TAIL:]) if stages else nn.Identity()
    preprocess = backbone.preprocess(size)
    key = f"{backbone.key()}-{len(parts)}"
    stem = Frozen(nn.Sequential(*parts), preprocess, key=key, device=One().place)
    return Choice(backbone=backbone, preprocess=preprocess, net=net, stem=stem, tail=last, key=key, views=1)


def _resized(pictures: Pictures, size: int) -> Pictures:
    """The pictures at `size` pixels: the whole square made smaller, as the decoder would."""
    if pictures.pixels.shape[1] == size:
        return pictures
    x = pictures.pixels.permute(0, 3, 1, 2)
    parts = [
        nn.functional.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round().byte()
        for part in torch.split(x, 64)
    ]
    return Pictures(pixels=torch.cat(parts).permute(0, 2, 3, 1), labels=pictures.labels, uris=pictures.uris)


def _cut(s: Session, choice: Choice, pictures: Pictures, hashes: Mapping[str, str], *, views: int | None = None) -> Cut:
    """The pictures at the cut point, and beyond it by the untuned tail."""
    pixels, known = pictures.pixels.numpy(), [hashes[uri] for uri in pictures.uris]
    found = []
    for mirrored in (False, True)[: views or choice.views]:
        bar = s.progress("mirrored features" if mirrored else "features")
        kept = probe.features(choice.stem, pixels, hashes=known, key=choice.key, mirrored=mirrored, progress=bar)
        found.append(kept.astype(np.float16))
    activations = np.stack(found)
    features = np.stack([_through(choice.tail, view) for view in activations])
    return Cut(activations=activations, labels=pictures.labels.numpy(), features=features)


def _through(tail: nn.Module, activations: NDArray[np.float16]) -> Floats:
    """What the tail makes of activations [N,...] in eval mode: features float32 [N,D]."""
    tail.eval()
    with torch.inference_mode():
        parts = [tail(torch.from_numpy(activations[i : i + 64]).float()) for i in range(0, len(activations), 64)]
    return torch.cat(parts).float().numpy()


def _groups(hashes: Sequence[str]) -> NDArray[np.int64]:
    """Copies of one file are one group."""
    return np.unique(np.array(hashes), return_inverse=True)[1].astype(np.int64)


# --- the network's own labels ---------------------------------------------------------------------------


def _named(backbone: Backbone, classes: Sequence[str]) -> nn.Linear | None:
    """The network's own last layer for these classes, if its label list names every one of them."""
    own = backbone.own_head()
    if own is None:
        return None
    names = [_names(label) for label in backbone.labels]
    rows = []
    for wanted in classes:
        hits = [row for row, known in enumerate(names) if _plain(wanted) in known]
        if len(hits) != 1:
            return None
        rows += hits
    layer = nn.Linear(own[0].shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(own[0][rows]))
        layer.bias.copy_(torch.from_numpy(own[1][rows]))
    return layer


def _logits(head: nn.Module, features: Floats) -> Floats:
    with torch.inference_mode():
        return head.eval()(torch.from_numpy(np.ascontiguousarray(features))).numpy()  # type: ignore[no-any-return]


def _names(label: str) -> set[str]:
    """`Danaus plexippus (Monarch)` → its Latin and common name; `tench, Tinca tinca` → both."""
    return {_plain(part) for part in re.split(r"[,()]", label) if part.strip()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


# --- tuning the tail ----------------------------------------------------------------------------------


def _tuned(
    s: Session,
    settings: Settings,
    choice: Choice,
    below: Model,
    cuts: Mapping[str, Cut],
    pictures: Mapping[str, Pictures],
    ladder: Ladder,
) -> Model:
    """Fine-tunes the last stages from the probe on, on the training split; the better of the two models.

    First the head, then the tail with it: LP-FT (Kumar et al., 2022, arXiv:2202.10054). Batch norms are trained
    too: frozen ones cost half of the accuracy on these networks.
    """
    h, classes = settings.hyperparam, len(s.dataset.classes)
    twice = bool(below.net.spec.get("mirrored"))
    held, labels, train = cuts["val"], cuts["val"].labels, cuts["train"]
    views = [np.mean(train.features, axis=0)] if twice else list(train.features)
    start = probe.fit(views, train.labels, classes=classes, seed=settings.seed, folds=h.folds)
    reference = start.logits(np.mean(held.features, axis=0) if twice else held.features[0])
    if below.net.spec["head"] == "linear":  # the network's own labels, which nothing was fitted for
        reference = below.logits[-len(labels) :]
    net = nets.Classifier(copy.deepcopy(choice.tail), start.head(), {})
    torch.manual_seed(settings.seed)
    layers = [*net.body.children(), net.head]
    groups = optim.layered(
        layers, learning_rate=h.tail_learning_rate, weight_decay=h.tail_weight_decay, decay=h.tail_decay
    )
    learner = Learner(
        net=net,
        criterion=nn.CrossEntropyLoss(label_smoothing=h.tail_label_smoothing),
        optimizer=torch.optim.AdamW(groups),
        schedule=optim.cosine(),
        device=One(channels_last=True),
        train_loader=Views(cuts["train"], batch_size=h.tail_batch_size, seed=settings.seed, shuffle=True),
        val_loader=Views(held, batch_size=128),
        hooks=[*s.hooks(), hooks.Ema(h.tail_ema)],
    )
    s.fit(learner, stage="tail", epochs=h.num_epochs)
    scored = learner.scored
    logits, features = _answers(scored, held, twice=twice)
    note = f"last {TAIL} stages, {learner.at.epoch} epochs"
    if not ladder.climb("tail", reference, logits, labels, note=note):
        return below
    _replace(choice.net, scored)
    return Model(
        net=nets.mirrored(choice.net) if twice else choice.net,
        preprocess=choice.preprocess,
        logits=logits,
        embedding=features,
        labels=labels,
        uris=pictures["val"].uris,
        splits=("val",) * len(labels),
        how=f"{choice.backbone.name} at {choice.preprocess.size} px, {note}",
    )


class Views:
    """A loader over activations at the cut point: shuffled, each item in one of its views, or in order and plain."""

    def __init__(self, cut: Cut, *, batch_size: int, seed: int = 0, shuffle: bool = False) -> None:
        self.cut, self.seed, self.shuffle = cut, seed, shuffle
        self.batch_size = min(batch_size, len(cut.labels))

    def __len__(self) -> int:
        whole, rest = divmod(len(self.cut.labels), self.batch_size)
        return whole if self.shuffle else whole + (rest > 0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, … of `epoch`."""
        count = len(self.cut.labels)
        order, view = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        if self.shuffle:
            order = torch.randperm(count, generator=loader.generator(self.seed, epoch, 0))
            view = torch.randint(len(self.cut.activations), (count,), generator=loader.generator(self.seed, epoch, 1))
        for batch in range(start, len(self)):
            rows = order[batch * self.batch_size : (batch + 1) * self.batch_size].numpy()
            x = self.cut.activations[view[rows].numpy(), rows]
            yield torch.from_numpy(x).float(), torch.from_numpy(self.cut.labels[rows])


def _answers(net: nn.Module, cut: Cut, *, twice: bool) -> tuple[Floats, Floats]:
    """Logits [N,K] and features [N,D] in eval mode: of the plain view, or of the mean of both views' features."""
    views = cut.activations if twice else cut.activations[:1]
    features = np.mean([_through(net.body, view) for view in views], axis=0)  # type: ignore[arg-type]
    return _logits(net.head, features), features  # type: ignore[arg-type]


def _replace(net: nets.Classifier, tuned: nn.Module) -> None:
    """Puts tuned tail and head into the whole net, whose stages the tail was copied from."""
    stages = nets.stages(net.body)[-TAIL:]
    for stage, better in zip(stages, tuned.body.children(), strict=True):  # type: ignore[union-attr]
        stage.load_state_dict(better.state_dict())
    net.head = tuned.head  # type: ignore[assignment]
