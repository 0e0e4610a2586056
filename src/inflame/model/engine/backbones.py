"""Pretrained bodies: which ones are at hand, and running one as a frozen function to a vector.

Places, in this order: the file given by `weights=`; `weights/` of the mirror (INFLAME_MIRROR) and of inflame's home;
timm's hub, when no mirror is set and the network answers. A file is a safetensors state dict of a timm model; its
metadata (`timm`, `pad_type`, `mean`, `std`, `input_size`) or its name (`mobilenetv2_100.TAG.safetensors`) say which.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from inflame import store
from inflame.errors import DataError, InflameError, NetworkError
from inflame.model.engine import freeze, nets
from inflame.model.engine.memory import Parts, joined
from inflame.records import Preprocess

HUB = ("mobilenetv3_large_100", "efficientnet_b0", "resnet18")  # tried from timm's hub, small ones first
HUB_HOST, TORCHVISION_HOST = "huggingface.co", "download.pytorch.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A net of timm or torchvision with its weights: of `file`, else of its hub; fresh ones where not `pretrained`.
    `labels` names its own classes, if known."""

    name: str
    net: str
    file: Path | None
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    labels: tuple[str, ...] = ()
    pretrained: bool = True

    def preprocess(self, size: int) -> Preprocess:
        """The whole picture's centre square at `size` pixels, in the colours this model was trained with."""
        return Preprocess(size=size, resize=size, mean=self.mean, std=self.std)

    def key(self) -> str:
        """A hash of the weights and of how the net is made: features computed with one key are the same."""
        digest = hashlib.sha256(json.dumps([self.net, self.options, self.mean, self.std]).encode())
        digest.update(self.file.read_bytes() if self.file else self.name.encode())
        return digest.hexdigest()[:24]

    def load(self, classes: int, *, head: str = "hellinger") -> nets.Classifier:
        """The body with its weights and a fresh head for `classes` (see `nets.new_head`)."""
        if self.file is None:
            return nets.named(self.net, classes=classes, pretrained=self.pretrained, head=head, **self.options)
        net = nets.named(self.net, classes=classes, head=head, **self.options)
        state, _ = _read(self.file)
        _fill(net.body, state, self.file)
        return net

    def own_head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weight [L,D] and bias [L] of the model's own last layer, where it has one row per label."""
        if self.file is None or not self.labels:
            return None
        state, _ = _read(self.file)
        for name in ("classifier", "fc", "head.fc", "head"):
            weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
            if weight is not None and bias is not None and weight.ndim == 2 and len(weight) == len(self.labels):
                return weight.float().numpy(), bias.float().numpy()
        return None


def at_hand(weights: str, say: Callable[[str], None]) -> list[Backbone]:
    """The pretrained bodies that can be used now. `say` is told in one line when there are none.

    weights: the setting of that name: a file, or empty. Raises DataError when that file isn't one we can use.
    """
    if weights:
        return [_from_file(Path(weights).expanduser(), strict=True)]
    found = [backbone for folder in folders() for backbone in _in_folder(folder)]
    if found or store.mirror() is not None:
        if not found:
            say(f"weights  none in {store.mirror()}/weights: training from scratch")
        return found
    try:
        return [_from_hub(name) for name in HUB[:2]]
    except (NetworkError, OSError, RuntimeError) as error:
        say(f"weights  timm's hub can't be reached ({_short(error)}): training from scratch; or give weights=FILE")
        return []


def of(net: str, weights: str, say: Callable[[str], None]) -> Backbone:
    """The net of that name with the best weights at hand: of the file `weights`, of `weights/` in the mirror and in
    inflame's home, of its hub; fresh ones, which `say` is told, where there are none.

    Raises SettingError for a net that doesn't exist, DataError when the file is of another net.
    """
    bare = net.removeprefix("timm:")
    if weights:
        given = Path(weights).expanduser()
        if bare.startswith("torchvision:"):
            return Backbone(name=given.name.removesuffix(".safetensors"), net=bare, file=given)
        found = _from_file(given, strict=True)
        return replace(found, net=bare) if bare else found
    nets.check(bare)
    for backbone in (one for folder in folders() for one in _in_folder(folder)):
        if backbone.net == bare:
            return backbone
    reason = "none in the mirror's folder weights"
    if store.mirror() is None:
        try:
            return _from_hub(bare)
        except (NetworkError, OSError, RuntimeError) as error:
            reason = f"its hub can't be reached: {_short(error)}"
    say(f"weights  no pretrained ones for {bare} ({reason}): it begins from scratch; or give weights=FILE")
    return Backbone(name=bare, net=bare, file=None, pretrained=False)


def folders() -> list[Path]:
    """The folders `weights` of the mirror and of inflame's home that there are."""
    mirror = store.mirror()
    places = [Path(mirror) / "weights"] if mirror is not None and "://" not in str(mirror) else []
    return [place for place in [*places, store.home() / "weights"] if place.is_dir()]


def _in_folder(folder: Path) -> list[Backbone]:
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(DataError):
            found.append(_from_file(path, strict=False))
    return found


def _from_file(path: Path, *, strict: bool) -> Backbone:
    import timm

    if not path.is_file():
        raise DataError(
            f"There is no file {path}.", where="weights", remedy="Give a .safetensors file of a timm model."
        )
    said = _metadata(path)
    net = said.get("timm") or path.name.split(".")[0]
    if not timm.is_model(net):
        raise DataError(
            f"{path.name} doesn't say which timm model it holds.",
            where=str(path),
            remedy='Name it after the model (resnet18.mine.safetensors) or give it the metadata {"timm": "resnet18"}.',
        )
    pad = said.get("pad_type", "")
    usual = timm.get_pretrained_cfg(net)
    # A net with TensorFlow's padding was trained in TensorFlow, where pictures are scaled to -1 … 1.
    half = (0.5, 0.5, 0.5)
    mean, std = (half, half) if pad == "same" else (usual.mean, usual.std) if usual else (half, half)
    return Backbone(
        name=path.name.removesuffix(".safetensors"),
        net=net,
        file=path,
        options={"pad_type": pad} if pad else {},
        mean=_floats(said.get("mean"), mean),
        std=_floats(said.get("std"), std),
        labels=_labels(path),
    )


def _from_hub(name: str) -> Backbone:
    import timm

    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        raise NetworkError("HF_HUB_OFFLINE is set", remedy="Unset it, or give weights=FILE.")
    if name.startswith("torchvision:"):
        knock(TORCHVISION_HOST)
        nets.named(name, classes=2, pretrained=True)
        return Backbone(name=name.partition(":")[2], net=name, file=None)
    knock(HUB_HOST)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        raise NetworkError(f"timm has no weights for {name}", remedy="Give weights=FILE.")
    timm.create_model(name, pretrained=True, num_classes=0)  # into the hub's cache, or out with what is wrong
    return Backbone(name=f"{name}.{cfg.tag}", net=name, file=None, mean=cfg.mean, std=cfg.std)


def knock(host: str, seconds: float = 2.0) -> None:
    """Raises OSError soon when nothing answers, where the hub's own client would try for minutes."""
    with socket.create_connection((host, 443), timeout=seconds):
        return


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, from its header alone."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > 100_000_000:
                raise ValueError("no safetensors header")
            header = json.loads(file.read(size))
        said = header.get("__metadata__", {})
        return {str(key): str(value) for key, value in said.items()}
    except (ValueError, OSError, AttributeError) as error:
        raise DataError(
            f"{path.name} is not a safetensors file.", where=str(path), remedy="Give a .safetensors file."
        ) from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path), _metadata(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path.name} can't be read: {error}", where=str(path), remedy="Get the file again; it may be cut short."
        ) from error


def _fill(body: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Loads the body's share of `state`; says which keys differ when the file is of another net."""
    wanted = body.state_dict()
    missing = sorted(set(wanted) - set(state))
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or shapes:
        raise DataError(
            f"{path.name} doesn't fit: {len(missing)} keys are missing ({', '.join(missing[:3])}), "
            f"{len(shapes)} have another shape ({', '.join(shapes[:3])}).",
            where=str(path),
            remedy="Name the timm model it belongs to: in the file's name, before the first dot.",
        )
    body.load_state_dict({key: state[key].to(wanted[key].dtype) for key in wanted})


def _labels(path: Path) -> tuple[str, ...]:
    """The model's own class names: `TAG_labels.txt` (a line each) or `TAG_classes.csv` (column `name`) beside it."""
    tag = path.name.removesuffix(".safetensors").partition(".")[2]
    lines, table = path.with_name(f"{tag}_labels.txt"), path.with_name(f"{tag}_classes.csv")
    if lines.is_file():
        return tuple(lines.read_text(encoding="utf-8").splitlines())
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as file:
            return tuple(row.get("name", "") for row in csv.DictReader(file))
    return ()


def _floats(text: str | None, otherwise: Sequence[float]) -> tuple[float, ...]:
    numbers = re.findall(r"[-+.\deE]+", text or "")
    return tuple(float(number) for number in numbers) if len(numbers) == 3 else tuple(otherwise)


def _short(error: BaseException) -> str:
    text = error.message if isinstance(error, InflameError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:80]


# --- frozen: a body as a function from pictures to vectors --------------------------------------------


class Frozen:
    """A module in eval mode, run on uint8 pictures [N,S,S,C]: with onnxruntime on a CPU (1.3 to 2 times as fast as
    torch for mobile nets), with torch on a GPU. `layers`: float32 [N,C,H,W] normalised → any one tensor [N,...]."""

    def __init__(self, layers: nn.Module, preprocess: Preprocess, *, key: str, device: torch.device) -> None:
        self.preprocess, self.device, self._few = preprocess, device, Parts()
        self._served = freeze.served(nets.Classifier(layers, nn.Flatten(), {}), preprocess)
        self._session = None if device.type != "cpu" else self._compiled(key)
        if self._session is None:
            self._served.to(device)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The tensor for a batch of pictures, float32 [N,...]."""
        if self._session is not None:
            found: NDArray[np.float32] = self._session.run(["embedding"], {"pictures": np.ascontiguousarray(pixels)})[0]
            return found
        given = torch.from_numpy(np.ascontiguousarray(pixels))
        with torch.inference_mode():
            parts = self._few(lambda part: self._served(part.to(self.device))[1].cpu(), given)
            return joined(parts).numpy()

    def _compiled(self, key: str) -> Any:
        import onnxruntime

        folder = store.home() / "cache" / "backbones" / f"{key}-{self.preprocess.size}"
        if not (folder / "model.onnx").exists():
            with store.atomic_folder(folder) as place:
                freeze.write(self._served, self.preprocess, place)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
