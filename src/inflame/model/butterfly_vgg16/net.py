"""VGG16 with the best weights at hand, and which of its layers learn."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch import nn

from inflame import store
from inflame.errors import DataError, SettingError
from inflame.model.engine import backbones, keras, nets

PARTS = ("head", "tail", "all")
TAIL = 2  # blocks
HOST = "storage.googleapis.com"


def begin(net: nets.Classifier, weights: str, say: Callable[[str], None]) -> str:
    """Fills the body and gives the name of what with: the file `weights`; a VGG16 in `weights/` of the mirror, of
    inflame's home, or in Keras' cache; Keras' server, when no mirror is set. Empty, and `say` is told, when there is
    none. Raises DataError when the file `weights` is of another net."""
    if weights:
        keras.fill(net, Path(weights).expanduser())
        return Path(weights).name
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    for folder in (*backbones.folders(), cache):
        for file in sorted(folder.glob("vgg16*")):
            with suppress(DataError):
                keras.fill(net, file)
                return file.name
    reason = "none in the mirror's folder weights"
    if store.mirror() is None:
        try:
            backbones.knock(HOST)
            keras.imagenet(net)
            return "ImageNet"
        except Exception as error:  # Keras raises a plain Exception when a download fails
            reason = f"Keras' server can't be reached: {str(error).splitlines()[0][:80]}"
    say(f"no pretrained ones ({reason}): all layers begin from scratch; or give weights=FILE")
    return ""


def layers(net: nets.Classifier, part: str, *, fresh: bool) -> list[nn.Module]:
    """The layers that learn, from the input to the head: the head alone, the last two blocks with it, or all; of a
    `fresh` net always all. The others are frozen in place."""
    if part not in PARTS:
        raise SettingError(f'There is no part "{part}".', remedy=f"Use one of: {', '.join(PARTS)}", where="tune")
    blocks = keras.blocks(net)
    first = {"head": len(blocks), "tail": len(blocks) - TAIL, "all": 0}["all" if fresh else part]
    net.requires_grad_(True)
    for block in blocks[:first]:
        block.requires_grad_(False)
    return [*blocks[first:], net.head]
