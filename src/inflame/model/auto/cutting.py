"""Which backbone, at which size, and where it is cut: what a photo is when the probe and the tail see it.

Pictures run through the frozen part once, plain and mirrored; what comes out at the cut point is kept, so that the
probe takes seconds and an epoch of the tail as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inflame.artifact import loader
from inflame.artifact.loader import Pictures
from inflame.errors import DataError
from inflame.model.engine import nets, probe
from inflame.model.engine.backbones import Backbone, Frozen
from inflame.model.engine.device import One, where
from inflame.model.engine.memory import Parts
from inflame.model.engine.session import Session
from inflame.records import Preprocess

from .plan import CANVAS

SIZES = (CANVAS, 224, 160, 128)  # what a net may see of the squares, the best first
TRIES = 3  # of a batch, to find out what a photo takes
SHARE = 0.7  # of the time that is left, for running all pictures through the frozen part
COMPARED = 160  # pixels at which the backbones compete
SAMPLE = 160  # training pictures on which they do …
EACH = 6  # … after a first round on fewer, so many for each class, which often settles it
WEAK = (3e-3,)  # strength of their probes
FAR = 2.0  # standard errors behind the best, after which a backbone is out
TAIL = 2  # stages that are tuned
MOST = 2 << 30  # bytes of activations at the cut point; larger sets keep features only, and tune nothing

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The backbone that won, at the picture size that the time allows. The body is cut into `stem`, which stays as it
    is, and `tail`; `key` names the stem's features in the cache; `seconds` is what the stem takes for a photo."""

    backbone: Backbone
    preprocess: Preprocess
    net: nets.Classifier
    stem: Frozen
    tail: nn.Module
    key: str
    views: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A split at the cut point: activations float16 [V,N,...] of V views (plain, mirrored), labels [N], features
    float32 [V,N,D] of the untuned tail."""

    activations: NDArray[np.float16]
    labels: NDArray[np.int64]
    features: Floats

    def of(self, rows: NDArray[np.int64]) -> Cut:
        """Those of some rows."""
        return Cut(activations=self.activations[:, rows], labels=self.labels[rows], features=self.features[:, rows])


def joined(cuts: Sequence[Cut]) -> Cut:
    """One after the other."""
    return Cut(
        activations=np.concatenate([cut.activations for cut in cuts], axis=1),
        labels=np.concatenate([cut.labels for cut in cuts]),
        features=np.concatenate([cut.features for cut in cuts], axis=1),
    )


def choose(
    s: Session, found: Sequence[Backbone], pictures: Mapping[str, Pictures], hashes: Mapping[str, str]
) -> tuple[Choice, float]:
    """The backbone whose features separate a sample best in cross-validation, at a size that the time allows; and the
    share of the pictures that it allows. A run that goes on keeps both."""
    plan = s.kept("backbone", lambda: _compete(s, found, pictures, hashes))
    s.reasons.again("size")
    backbone = next((one for one in found if one.name == plan["backbone"]), None)
    if backbone is None:
        raise DataError(
            f"This run was begun with the network {plan['backbone']}, which is no longer at hand.",
            where="weights",
            remedy="Put its file back, or begin anew: fresh=true",
        )
    size, views, share, seconds = (plan[name] for name in ("size", "views", "share", "seconds"))
    return cut_open(s, backbone, size, tail=plan["tail"], views=views, seconds=seconds), share


def _compete(
    s: Session, found: Sequence[Backbone], pictures: Mapping[str, Pictures], hashes: Mapping[str, str]
) -> dict[str, Any]:
    train, everything = pictures["train"], sum(len(part) for part in pictures.values())
    backbone, said = found[0], "the only one at hand"
    if len(found) > 1:
        sample = resized(loader.some(train, SAMPLE / len(train), s.settings.seed), COMPARED)
        stems = {one.name: cut_open(s, one, COMPARED) for one in found}
        backbone, said = _best(
            s, found, lambda one, part: cut_up(s, stems[one.name], part, hashes, views=1).features[0], sample
        )
    seconds = _seconds(cut_open(s, backbone, CANVAS), loader.few(train, probe.BATCH))
    size, views, share = _size(s, seconds, everything)
    few = cut_up(s, cut_open(s, backbone, size), resized(loader.few(train, 2), size), hashes, views=1)
    each = few.activations.nbytes / len(few.labels)
    looks = f"{views} view{'s' if views > 1 else ''}"
    s.say("plan", f"{backbone.name} at {size} px: {said}; {looks}; {_left(s)}")
    if share < 1:
        s.say("plan", f"time for {share:.0%} of the {everything:,} photos; more time, or a GPU, would show it all")
    s.reasons.because("backbone", backbone.name, said)
    _say_size(s, size, looks, share, seconds * (size / CANVAS) ** 2, everything)
    return {
        "backbone": backbone.name,
        "size": size,
        "views": views,
        "share": share,
        "tail": each * views * everything <= MOST,
        "seconds": seconds * (size / CANVAS) ** 2,
    }


def _best(
    s: Session, found: Sequence[Backbone], see: Callable[[Backbone, Pictures], Floats], sample: Pictures
) -> tuple[Backbone, str]:
    """The backbone whose features tell the sample's classes apart best, and the words for it. A first round on a part
    of the sample drops those that are far behind."""
    classes, seen, left = len(s.dataset.classes), dict[str, Floats](), list(found)
    scores: dict[str, tuple[float, float]] = {}
    first = min(EACH * classes, len(sample))
    for start, end in ((0, first), (first, len(sample))):
        if len(left) == 1 or start == end:
            break
        more, labels = loader.picked([sample], np.arange(start, end)), sample.labels[:end].numpy()
        for one in left:
            seen[one.name] = np.concatenate([*([seen[one.name]] if start else []), see(one, more)])
            probed = probe.fit([seen[one.name]], labels, classes=classes, folds=4, seed=s.settings.seed, strengths=WEAK)
            scores[one.name] = (probed.accuracy, -probed.loss)
        best, count = max(scores[one.name][0] for one in left), end
        far = FAR * (2 * best * (1 - best) / count) ** 0.5
        left = [one for one in left if scores[one.name][0] >= best - far]
    winner, *others = sorted(found, key=lambda one: (one in left, scores[one.name]), reverse=True)
    said = f"{scores[winner.name][0]:.2f} on {count} held-out photos, against "
    return winner, said + ", ".join(f"{scores[one.name][0]:.2f} of {one.name}" for one in others[:3])


def _say_size(s: Session, size: int, looks: str, share: float, seconds: float, everything: int) -> None:
    part = "" if share >= 1 else f" of {share:.0%} of them"
    limit = "no time limit" if s.budget is None else f"at most {SHARE:.0%} of {s.left():.0f} s may go there"
    s.reasons.because(
        "size",
        f"{size} px, {looks}{part}",
        f"the frozen part takes {1000 * seconds:.1f} ms for each of the {everything:,} photos and views; {limit}",
    )


def _left(s: Session) -> str:
    return "no time limit" if s.budget is None else f"{s.left():.0f} s left"


def _seconds(choice: Choice, sample: Pictures) -> float:
    """What the frozen part takes for a photo of the canvas, by the fastest of some tries: others may be at work."""
    pixels = resized(sample, CANVAS).pixels[: probe.BATCH].numpy()
    choice.stem(pixels)  # the first time, room is made
    tries = []
    for _ in range(TRIES):
        began = time.perf_counter()
        choice.stem(pixels)
        tries.append(time.perf_counter() - began)
    return min(tries) / len(pixels)


def _size(s: Session, seconds: float, everything: int) -> tuple[int, int, float]:
    """The largest size, and 2 or 1 views, at which all pictures run through the frozen part in `SHARE` of the time; at
    the smallest size a share of the pictures where even that is too much."""
    allowed = SHARE * s.left()
    for size in SIZES:
        for views in (2, 1) if size == SIZES[0] else (1,):
            if seconds * (size / CANVAS) ** 2 * views * everything <= allowed:
                return size, views, 1.0
    possible = allowed / (seconds * (SIZES[-1] / CANVAS) ** 2)
    return SIZES[-1], 1, min(1.0, max(possible, SAMPLE) / everything)


def cut_open(
    s: Session, backbone: Backbone, size: int, *, tail: bool = True, views: int = 1, seconds: float = 0.0
) -> Choice:
    """The backbone, cut before its last stages; without `tail`, or where it can't be cut, after them."""
    net = backbone.load(len(s.dataset.classes)).eval()
    stages = nets.stages(net.body) if tail else []
    parts = stages[:-TAIL] or [net.body]
    last = nn.Sequential(*stages[-TAIL:]) if stages else nn.Identity()
    preprocess = backbone.preprocess(size)
    key = f"{backbone.key()}-{len(parts)}"
    stem = Frozen(nn.Sequential(*parts), preprocess, key=key, device=One().place)
    return Choice(
        backbone=backbone,
        preprocess=preprocess,
        net=net,
        stem=stem,
        tail=last,
        key=key,
        views=views,
        seconds=seconds,
    )


def resized(pictures: Pictures, size: int) -> Pictures:
    """The pictures at `size` pixels: the whole square made smaller, as the decoder would."""
    if pictures.pixels.shape[1] == size:
        return pictures
    x = pictures.pixels.permute(0, 3, 1, 2)
    parts = [
        nn.functional.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True).round().byte()
        for part in torch.split(x, 64)
    ]
    return Pictures(pixels=torch.cat(parts).permute(0, 2, 3, 1), labels=pictures.labels, uris=pictures.uris)


def cut_up(
    s: Session, choice: Choice, pictures: Pictures, hashes: Mapping[str, str], *, views: int | None = None
) -> Cut:
    """The pictures at the cut point, and beyond it by the untuned tail."""
    known = [hashes[uri] for uri in pictures.uris]
    pixels = pictures.pixels.numpy()
    found = []
    for mirrored in (False, True)[: views or choice.views]:
        bar = s.progress("mirrored features" if mirrored else "features")
        kept = probe.features(choice.stem, pixels, hashes=known, key=choice.key, mirrored=mirrored, progress=bar)
        found.append(kept.astype(np.float16))
    activations = np.stack(found)
    features = np.stack([through(choice.tail, view) for view in activations])
    return Cut(activations=activations, labels=pictures.labels.numpy(), features=features)


def through(tail: nn.Module, activations: NDArray[np.float16]) -> Floats:
    """What the tail makes of activations [N,...] in eval mode: features float32 [N,D]."""
    tail.eval()
    place, few, found = where(tail), Parts(), []
    with torch.inference_mode():
        for start in range(0, len(activations), 64):
            some = torch.from_numpy(activations[start : start + 64])
            found += few(lambda part: tail(part.to(place).float()).float().cpu(), some)
    return torch.cat(found).numpy()
