"""The road for photos: majority → the pretrained net's own labels → a probe on its frozen features → a tuned tail →
the whole network tuned → the mean of both, each where a paired test on held-out photos says it is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.config import Settings
from inflame.model.engine import conclude, nets, probe
from inflame.model.engine.backbones import Backbone
from inflame.model.engine.conclude import Model
from inflame.model.engine.session import Session
from inflame.records import Preprocess

from . import balance, cutting, tail, whole
from .cutting import Choice, Cut
from .ladder import Ladder, majority
from .naming import named
from .plan import CANVAS
from .soup import stirred
from .standing import Standing, answered, headed

WORTH = 6.0  # seconds below which tuning isn't begun
LEARNT = ("train", "val")  # splits, in the order in which their photos stand everywhere here
FIRST = 0.35  # share of the time for the tail, where the whole network is to be tuned after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything that isn't the test split, train and then val: photos at the cut point, as squares to be seen and as
    they were decoded, which copies belong together, and the names of all. share: of all photos that there are."""

    cut: Cut
    seen: tuple[Pictures, ...]
    decoded: tuple[Pictures, ...]
    groups: NDArray[np.int64]
    uris: tuple[str, ...]
    splits: tuple[str, ...]
    share: float


def train(s: Session, settings: Settings, found: Sequence[Backbone]) -> dict[str, Any]:
    """Climbs the ladder until the time is over; returns the result. Of several processes the first climbs alone until
    the whole network learns."""
    squares = Preprocess(size=CANVAS, resize=CANVAS)
    s.hold(squares)
    decoded = loader.load(s.dataset, squares, progress=s.progress("decoding"))
    if s.company.follows:
        plan = whole.Plan.from_json(s.company.called())
        seen, larger = _shown(decoded, plan.share, plan.preprocess.size, settings.seed)
        whole.follow(s, plan, _learnt(seen), _learnt(larger))
    s.company.alone()
    hashes = dict(zip(s.dataset.items["uri"].to_pylist(), s.dataset.items["sha256"].to_pylist(), strict=True))
    s.reserve = 4.0
    choice, share = cutting.choose(s, found, decoded, hashes)
    tunes = "val" in decoded and not isinstance(choice.tail, nn.Identity)
    if not tunes:
        s.company.refuse("There is nothing to tune here but a probe")
    s.reasons.stage("backbone")
    pictures, decoded = _shown(decoded, share, choice.preprocess.size, settings.seed)
    known = _known(s, choice, decoded, pictures, hashes, share)
    s.reasons.stage("features")

    ladder = Ladder(s, confidence=settings.hyperparam.confidence)
    first, strength = _probed(s, choice, known, ladder)
    s.reasons.stage("probe")
    looks = len(pictures.get("test", ())) * choice.views * choice.seconds
    s.reserve = min(2.0 + conclude.publish(s.run, s.dataset, first, pictures) * 1.5 + looks, s.most())
    s.reasons.stage("first bundle")
    model = first
    if tunes:
        model = _tuned(s, choice, first, known, ladder, strength)
    model = balance.balanced(ladder, model, pictures["train"].labels.numpy(), classes=len(s.dataset.classes))
    s.reasons.chose(road="photos")
    left = s.budget.left if s.budget is not None else None
    return conclude.conclude(s.run, s.dataset, model, pictures, ladder=ladder.rungs, published=first, left=left)


def _known(
    s: Session,
    choice: Choice,
    decoded: Mapping[str, Pictures],
    pictures: Mapping[str, Pictures],
    hashes: Mapping[str, str],
    share: float,
) -> Known:
    names = [name for name in LEARNT if name in pictures]
    uris = tuple(uri for name in names for uri in pictures[name].uris)
    return Known(
        cut=cutting.joined([cutting.cut_up(s, choice, pictures[name], hashes) for name in names]),
        seen=_learnt(pictures),
        decoded=_learnt(decoded),
        groups=np.unique(np.array([hashes[uri] for uri in uris]), return_inverse=True)[1].astype(np.int64),
        uris=uris,
        splits=tuple(name for name in names for _ in range(len(pictures[name]))),
        share=share,
    )


def _shown(
    decoded: Mapping[str, Pictures], share: float, size: int, seed: int
) -> tuple[dict[str, Pictures], dict[str, Pictures]]:
    """What will be seen: the squares at the chosen size; a random part of them where the time isn't enough for all.
    And that part as it was decoded."""
    larger = {name: loader.some(part, share, seed) for name, part in decoded.items()}
    return {name: cutting.resized(part, size) for name, part in larger.items()}, larger


def _learnt(pictures: Mapping[str, Pictures]) -> tuple[Pictures, ...]:
    """Everything that isn't the test split, train first."""
    return tuple(pictures[name] for name in LEARNT if name in pictures)


def _probed(s: Session, choice: Choice, known: Known, ladder: Ladder) -> tuple[Model, float]:
    """The first rungs, up to the probe, and its strength. Every photo is held out once, by cross-validation."""
    h, classes, labels = s.settings.hyperparam, len(s.dataset.classes), known.cut.labels
    views = list(known.cut.features)
    best = majority(labels, labels, classes)
    ladder.first("majority", best, labels)
    fit = partial(probe.fit, labels=labels, classes=classes, folds=h.folds, seed=s.settings.seed, groups=known.groups)
    fitted = fit(views)
    head: nn.Module = fitted.head()
    logits, seen, net = fitted.held, views[0], choice.net
    how = f"logistic regression on frozen features of {choice.backbone.name} at {choice.preprocess.size} px"
    layer = named(choice.backbone, s.dataset.classes)
    if layer is not None:
        own = nets.Classifier(net.body, layer, {**net.spec, "head": "linear"})
        known_already = headed(own, views[0])
        if ladder.climb("named", best, known_already, labels, note="the network's own labels, no training"):
            best = known_already
    taken = ladder.climb("probe", best, fitted.held, labels, note=f"logistic regression, L2 {fitted.strength:g}")
    if taken:
        best = fitted.held
    elif layer is not None and ladder.name == "named":
        head, logits, net, how = layer, best, own, f"{choice.backbone.name} at {choice.preprocess.size} px, as it came"
    if choice.views > 1:  # the mean of what a photo and its mirror image show tells more than each
        mean = np.mean(views, axis=0)
        both = fit([mean])
        _looks(s, labels, fitted.held, both.held)
        if ladder.climb("mirrored", best, both.held, labels, note="each photo and its mirror image"):
            head, logits, seen, net = both.head(), both.held, mean, nets.mirrored(choice.net)
    net.head = head
    model = Model(
        net=net,
        preprocess=choice.preprocess,
        logits=logits,
        embedding=seen,
        labels=labels,
        uris=known.uris,
        splits=known.splits,
        how=how,
        source="out-of-fold",
    )
    return model, fitted.strength


def _tuned(s: Session, choice: Choice, first: Model, known: Known, ladder: Ladder, strength: float) -> Model:
    """The rungs that tune the network: the best of them, or the model that there is."""
    if not s.kept("tail", lambda: s.left() > WORTH):
        ladder.skip("tail", f"{s.left():.0f} s are left, {WORTH:g} are the least that helps")
        return first
    twice = bool(first.net.spec.get("mirrored"))
    val = np.array([split == "val" for split in known.splits])
    part = tail.parts(s, choice, known.cut, known.groups, val)
    learnt = np.flatnonzero(part != 0)
    epochs = s.kept("epochs of all", lambda: whole.expected(s, choice, known.seen, learnt, (1 - FIRST) * s.left()))
    everything = epochs >= whole.LEAST
    tails, rows = tail.tuned(
        s, choice, known.cut, part, strength=strength, twice=twice, share=FIRST if everything else 1.0
    )
    s.reasons.stage("tail")
    now = tails.standing
    taken = ladder.climb("tail", first.logits[rows], now.logits, now.labels, note=now.note)
    model = _model(choice, known, now, rows) if taken else first
    if not everything:
        few = f"the time is enough for about {epochs:.1f} epochs, {whole.LEAST:g} are the least that helps"
        ladder.skip("whole", few)
    else:
        held = np.flatnonzero(part == 0)
        below = tails.held if taken else replace(tails.held, logits=first.logits[held])
        learns = all(parameter.requires_grad for parameter in tails.held.net.head.parameters())
        plan = whole.Plan(
            spec=choice.net.spec,
            head=learns,
            preprocess=choice.preprocess,
            share=known.share,
            part=tuple(part.tolist()),
        )
        top = whole.tuned(s, plan, choice, tails.held, known.seen, known.decoded)
        s.reasons.stage("whole network")
        if top is not None and ladder.climb("whole", below.logits, top.logits, top.labels, note=top.note):
            now = _mean(choice, tails.held, top, loader.picked(known.seen, held), ladder)
            model, rows, taken = _model(choice, known, now, held), held, True
    if taken:
        _looks(s, now.labels, now.plain, now.logits)
    return model


def _model(choice: Choice, known: Known, now: Standing, rows: NDArray[np.int64]) -> Model:
    return Model(
        net=nets.mirrored(now.net) if now.twice else now.net,
        preprocess=choice.preprocess,
        logits=now.logits,
        embedding=now.features,
        labels=now.labels,
        uris=tuple(known.uris[row] for row in rows),
        splits=tuple(known.splits[row] for row in rows),
        how=f"{choice.backbone.name} at {choice.preprocess.size} px, {now.note}",
        source="out-of-fold",
    )


def _mean(choice: Choice, below: Standing, top: Standing, held: Pictures, ladder: Ladder) -> Standing:
    """The mean of the last two nets' weights, if it is better than the last one."""
    note = f"{top.note}; mean of the weights with those before"
    both = answered(stirred([top.net, below.net]), choice.preprocess, held, twice=top.twice, note=note)
    taken = ladder.climb("soup", top.logits, both.logits, top.labels, note="mean of both nets' weights, no extra work")
    return both if taken else top


def _looks(s: Session, labels: NDArray[np.int64], plain: Any, mirrored: Any) -> None:
    """Notes how good a photo alone is, beside the photo and its mirror image."""
    one, both = (float((found.argmax(axis=1) == labels).mean()) for found in (plain, mirrored))
    if plain is not mirrored:
        s.run.status(looks={"plain": one, "mirrored": both, "n": len(labels), "split": "held out"})
        s.say("looks", f"plain {one:.3f}, with mirror images {both:.3f} of {len(labels)} held-out photos")
