"""Where the ladder stands among the rungs that learn from the training split alone and are compared on `val`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inflame.artifact.loader import Pictures
from inflame.model.engine import conclude, nets
from inflame.model.engine.device import where
from inflame.records import Preprocess

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The whole net of the rung, its answers to the held-out photos (labels int64 [N]): `logits` [N,K] and `features`
    [N,D] as they will be served, `plain` [N,K] of the photo alone. twice: what is served is the mean of a photo and its
    mirror image. note: how the net was made; empty for one that needn't be taken."""

    net: nets.Classifier
    logits: Floats
    plain: Floats
    features: Floats
    labels: NDArray[np.int64]
    twice: bool
    note: str = ""


def answered(net: nets.Classifier, preprocess: Preprocess, val: Pictures, *, twice: bool, note: str) -> Standing:
    """The standing of `net`: what it answers to `val`."""
    plain, features = conclude.answers(net, preprocess, val, batch=64)
    logits = plain
    if twice:
        turned = Pictures(pixels=val.pixels.flip(2), labels=val.labels, uris=val.uris)
        features = (features + conclude.answers(net, preprocess, turned, batch=64)[1]) / np.float32(2)
        logits = headed(net, features)
    return Standing(
        net=net,
        logits=logits,
        plain=plain,
        features=features,
        labels=val.labels.numpy(),
        twice=twice,
        note=note,
    )


def headed(net: nets.Classifier, features: Floats) -> Floats:
    """What the head of `net` makes of features [N,D]: logits [N,K]."""
    import torch

    given = torch.from_numpy(np.ascontiguousarray(features)).to(where(net.head))
    with torch.inference_mode():
        return net.head.eval()(given).cpu().numpy()  # type: ignore[no-any-return]
