"""timm's ResNet-18 for 32 x 32 pictures: a 3 x 3 stem that keeps the size, and no pooling after it."""

from inflame.model.engine import nets


def build(classes: int, name: str) -> nets.Classifier:
    """A fresh net for `classes` classes; name: of any timm model. A ResNet gets the small stem."""
    net = nets.from_timm(name, classes=classes)
    if name.startswith("resnet"):
        nets.small_stem(net)
    return net
