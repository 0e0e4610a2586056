"""The network's own labels: where a pretrained net already names every class, its last layer needs no training."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from inflame.model.engine.backbones import Backbone


def named(backbone: Backbone, classes: Sequence[str]) -> nn.Linear | None:
    """The network's own last layer for these classes, if its label list names every one of them."""
    own = backbone.own_head()
    if own is None:
        return None
    names = [names_of(label) for label in backbone.labels]
    rows = []
    for wanted in classes:
        hits = [row for row, known in enumerate(names) if plain(wanted) in known]
        if len(hits) != 1:
            return None
        rows += hits
    layer = nn.Linear(own[0].shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(own[0][rows]))
        layer.bias.copy_(torch.from_numpy(own[1][rows]))
    return layer


def names_of(label: str) -> set[str]:
    """`Danaus plexippus (Monarch)` → its Latin and common name; `tench, Tinca tinca` → both."""
    return {plain(part) for part in re.split(r"[,()]", label) if part.strip()}


def plain(name: str) -> str:
    """Small letters and digits, a space between words."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
