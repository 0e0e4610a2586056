"""A trained net as files: `model.onnx` (pictures in, logits, embedding and map out) and `model.safetensors`.

The only part of a bundle that needs torch. The exporter was chosen by measurement (torch 2.15, one core of a
small CPU, first export in a process, timm MobileNetV2 / a two-layer net):

    dynamo=False (TorchScript)    0.93 s / 0.06 s    one file, silent but for two DeprecationWarnings
    dynamo=True  (torch.export)   8.1 s  / 2.1 s     weights in a second file, imports onnxscript, sympy and triton

A 20-second training can't spend 8 s on its last step, and both give the same answers to 1e-5. The older exporter
is deprecated but kept; should torch drop it, `_write_onnx` is the one place to change.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from inflame.errors import ExportError, MissingExtra
from inflame.records import TextPreprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from inflame.records import Preprocess

OPSET = 17  # read by onnxruntime >= 1.12, its web and mobile builds, OpenVINO, TensorRT and Core ML converters
OUTPUTS = ("logits", "embedding")


class Served(nn.Module):
    """A `Classifier` as it is served: uint8 pictures [N, size, size, channels] → logits [N, K], embedding [N, D]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        if len(preprocess.mean) != preprocess.channels or len(preprocess.std) != preprocess.channels:
            raise ExportError(
                f"Pictures have {preprocess.channels} channels, but mean and std have {len(preprocess.mean)} and "
                f"{len(preprocess.std)} values.",
                where="Preprocess",
                remedy="Give mean and std one value per channel.",
            )
        self.body = cast("nn.Module", net.body)
        self.head = cast("nn.Module", net.head)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of uint8 pictures."""
        x = pictures.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        embedding = self.body(x)
        return self.head(embedding), embedding


class ServedText(nn.Module):
    """A `Classifier` of texts as it is served: ids int64 [N, L], counts float32 [N, L] → logits [N, K], embedding
    [N, D]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.body, self.head = cast("nn.Module", net.body), cast("nn.Module", net.head)

    def forward(self, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding of counted texts."""
        embedding = self.body(ids, counts)
        return self.head(embedding), embedding


def served(net: nn.Module, preprocess: Preprocess | TextPreprocess) -> Served | ServedText:
    """A float32 copy of `net` on the CPU in eval mode, ready to serve; `net` itself is left as it is."""
    plain = copy.deepcopy(getattr(net, "_orig_mod", net)).cpu().float()  # torch.compile wraps the net in another module
    frozen = ServedText(plain) if isinstance(preprocess, TextPreprocess) else Served(plain, preprocess)
    return frozen.eval().requires_grad_(False)


def answer(net: nn.Module, inputs: Mapping[str, NDArray[Any]], batch: int = 16) -> tuple[NDArray[Any], NDArray[Any]]:
    """What torch says: logits and embedding of inputs by name, as the bundle takes them."""
    count = len(next(iter(inputs.values())))
    with torch.inference_mode():
        parts = [
            net(*(torch.from_numpy(value[i : i + batch]) for value in inputs.values())) for i in range(0, count, batch)
        ]
    logits, embedding = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return logits, embedding


def write(net: Served | ServedText, preprocess: Preprocess | TextPreprocess, folder: Path) -> None:
    """Puts `model.onnx` and `model.safetensors` (the state dict of the net, keys as in the net) into `folder`."""
    from safetensors.torch import save_file

    _write_onnx(net, preprocess, folder / "model.onnx")
    state = {key: value for key, value in net.state_dict().items() if key not in ("scale", "shift")}
    # Tied tensors share storage, which the format refuses; a clone is a tensor of its own.
    save_file({key: value.detach().clone().contiguous() for key, value in state.items()}, folder / "model.safetensors")


def example(preprocess: Preprocess | TextPreprocess) -> dict[str, Tensor]:
    """Two inputs, so that a batch size that got frozen into the graph shows when others are tried."""
    if isinstance(preprocess, TextPreprocess):
        return {"ids": torch.zeros(2, 3, dtype=torch.int64), "counts": torch.ones(2, 3)}
    shape = (2, preprocess.size, preprocess.size, preprocess.channels)
    return {"pictures": torch.zeros(*shape, dtype=torch.uint8)}


def _write_onnx(net: nn.Module, preprocess: Preprocess | TextPreprocess, path: Path) -> None:
    inputs = example(preprocess)
    free = {0: "n", 1: "l"} if isinstance(preprocess, TextPreprocess) else {0: "n"}
    axes = {**dict.fromkeys(inputs, free), **{name: {0: "n"} for name in OUTPUTS}}
    common: dict[str, Any] = {"input_names": list(inputs), "output_names": list(OUTPUTS), "dynamic_axes": axes}
    try:
        with _quiet():
            torch.onnx.export(net, tuple(inputs.values()), path, dynamo=False, opset_version=OPSET, **common)
    except ImportError as error:
        raise MissingExtra(
            "Writing model.onnx needs the package onnx, which isn't installed.", extra="train"
        ) from error
    except torch.onnx.errors.OnnxExporterError as error:
        if "not installed" in str(error):
            raise MissingExtra(
                "Writing model.onnx needs the package onnx, which isn't installed.", extra="train"
            ) from error
        raise _unexportable(error) from error
    except RuntimeError as error:
        raise _unexportable(error) from error
    _show_map(path)


_THROUGH = {"Flatten", "Reshape", "Squeeze", "Identity", "Cast", "Add", "Div", "Mul"}  # the last three: `nets.Mirrored`
_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}


def _show_map(path: Path) -> None:
    """Makes what the last pooling looks at one more output, `map` float32 [N, D, h, w], where the embedding is nothing
    but that pooling. It costs nothing, and heat maps can be had without torch (explain.py)."""
    import onnx

    model = onnx.load(str(path))
    made = {name: node for node in model.graph.node for name in node.output}
    node = made.get("embedding")
    while node is not None and node.op_type in _THROUGH:
        node = made.get(node.input[0])
    if node is None or node.op_type not in _POOLS or node.input[0] not in made:
        return
    model.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], ["map"]))
    shape = ["n", "channels", "height", "width"]
    model.graph.output.append(onnx.helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, str(path))


def _unexportable(error: Exception) -> ExportError:
    return ExportError(
        f"The net can't be written as ONNX: {str(error).strip().splitlines()[0]}",
        where="model.onnx",
        remedy="Use layers that ONNX knows (see the list of torch.onnx), and no Python branches on tensor values.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about itself, and about sizes it takes as constants (they are: one input size;
    a constant batch size is found by trying others). The graph it prints when it fails is kept off stdout."""
    torch._C._jit_set_onnx_log_output_stream("stderr")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
