"""The net: a small convolutional one, 28 x 28 grey pictures in, ten logits out."""

from inflame.model.engine import nets


def build(classes: int) -> nets.Classifier:
    """A fresh net for `classes` classes."""
    return nets.small(size=28, channels=1, classes=classes)
