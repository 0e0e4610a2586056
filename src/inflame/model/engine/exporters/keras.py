"""A net as a model of Keras 3: every operation of its graph becomes one of Keras, or the export is refused.

What `torch.export` sees of the net (convolutions, pooling, sums) is translated one by one, so it makes no difference
which kind of net it is; one that is of Keras already is written as it is. Keras has its colours last, torch first:
values with four dimensions are kept Keras's way all along, and axes are renamed on the way. The file loads under each
backend of Keras, without inflame and without torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from inflame import plugins
from inflame.errors import ExportError
from inflame.model.engine.export import Floats, Inputs, Subject, Written
from inflame.records import TextPreprocess

FILE = "model.keras"
LAST = {0: 0, 1: 3, 2: 1, 3: 2}  # the axis in Keras of each axis in torch, of a value with four


def write(subject: Subject, place: Path) -> Written:
    """`model.keras`: uint8 pictures [N,H,W,C], N free → probabilities float32 [N,K]."""
    if isinstance(subject.predictor.preprocess, TextPreprocess):
        raise ExportError(
            "A model of texts can't be written for Keras: its words are counted outside of the net.",
            where="keras",
            remedy="--to onnx",
        )
    plugins.need("torch", "train", "Writing a model of Keras")
    from inflame.model.engine import keras as ours
    from inflame.model.engine.exporters.torch import program

    keras = ours.on_torch("Writing a model of Keras")
    with ours.quiet():
        native = subject.predictor.info["net"].get("kind") == "keras"
        model = (
            ours.whole(subject.net(), subject.predictor) if native else _Translation(keras, program(subject)).model()
        )
        model.save(str(place / FILE))
        loaded = keras.saving.load_model(str(place / FILE), compile=False)

    def answer(inputs: Inputs) -> Floats:
        with ours.quiet():
            return np.asarray(loaded.predict_on_batch(inputs["pictures"]), np.float32)

    return Written(answer=answer)


@final
class _Translation:
    """The graph of a program of torch as a functional model."""

    def __init__(self, keras: Any, program: Any) -> None:
        self.keras, self.ops, self.layers = keras, keras.ops, keras.layers
        self.graph, self.signature = program.graph, program.graph_signature
        self.weights = {**program.state_dict, **program.constants}
        self.values: dict[Any, Any] = {}

    def model(self) -> Any:
        """The model. ExportError names the operation that Keras has no match for."""
        inputs: list[Any] = []
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, inputs)
            elif node.op == "call_function":
                self.values[node] = self._called(node)
            elif node.op == "output":
                return self.keras.Model(inputs[0], self.values[node.args[0][0]])
        raise AssertionError("every graph has an output")

    def _placeholder(self, node: Any, inputs: list[Any]) -> None:
        of = {**self.signature.inputs_to_parameters, **self.signature.inputs_to_buffers}
        name = of.get(node.name) or self.signature.inputs_to_lifted_tensor_constants.get(node.name)
        if name is None:
            shape = tuple(int(side) for side in node.meta["val"].shape[1:])
            found = self.keras.Input(shape, dtype="uint8", name="pictures")
            inputs.append(found)
            # What comes as colours last is turned to torch's order first, which here is no work at all.
            self.values[node] = _Turned(found)
        else:
            self.values[node] = self.weights[name].detach().numpy()

    def _called(self, node: Any) -> Any:
        if node.target is operator.getitem:
            return self._of(node.args[0])[node.args[1]]
        name = node.target.__name__.partition(".")[0].removesuffix("_")
        if name.startswith("_assert"):
            return None
        make: Callable[[Any], Any] | None = getattr(self, f"_{name}", None) or self._simple(name)
        if make is None:
            raise ExportError(
                f"Keras has no match for the operation {name} of this net.", where=FILE, remedy="--to onnx or torch"
            )
        return make(node)

    # --- values --------------------------------------------------------------------------------------

    def _of(self, thing: Any) -> Any:
        """What stands for an argument: a value of Keras, an array, or the number itself."""
        if isinstance(thing, (list, tuple)):
            return [self._of(part) for part in thing]
        return self.values[thing] if hasattr(thing, "meta") else thing

    def _given(self, node: Any, place: int, default: Any) -> Any:
        return self._of(node.args[place]) if len(node.args) > place else default

    def _axes(self, node: Any, axes: int | Sequence[int], *, of: int | None = None) -> Any:
        """The axes in Keras of the node's first argument."""
        dims = of or node.args[0].meta["val"].dim()
        if isinstance(axes, int):
            return LAST[axes % 4] if dims == 4 else axes % dims
        return tuple(LAST[axis % 4] if dims == 4 else axis % dims for axis in axes)

    def _aligned(self, thing: Any, dims: int) -> Any:
        """An array beside a value of `dims` dimensions."""
        if isinstance(thing, np.ndarray) and thing.ndim == 4 and dims == 4:
            return np.ascontiguousarray(thing.transpose(0, 2, 3, 1))
        return thing

    # --- operations: each named as in ATen -----------------------------------------------------------

    def _simple(self, name: str) -> Callable[[Any], Any] | None:
        """Operations that look at each number alone."""
        two = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "true_divide"}
        one = {"relu": "relu", "sigmoid": "sigmoid", "silu": "silu", "hardsigmoid": "hard_sigmoid", "sqrt": "sqrt"}
        one |= {"hardswish": "hard_silu", "tanh": "tanh", "abs": "absolute", "exp": "exp", "log": "log"}
        if name in two:
            return lambda node: getattr(self.ops, two[name])(
                *(self._aligned(self._of(part), node.meta["val"].dim()) for part in node.args[:2])
            )
        if name in one:
            return lambda node: getattr(self.ops, one[name])(self._of(node.args[0]))
        same = {"dropout", "contiguous", "alias", "detach", "clone", "lift_fresh_copy", "feature_dropout"}
        return (lambda node: self._of(node.args[0])) if name in same else None

    def _to(self, node: Any) -> Any:
        x = self._of(node.args[0])
        dtype = str(node.meta["val"].dtype).removeprefix("torch.")
        return x if isinstance(x, np.ndarray) else self.ops.cast(x, dtype)

    def _permute(self, node: Any) -> Any:
        x = self._of(node.args[0])
        if not isinstance(x, _Turned) or list(node.args[1]) != [0, 3, 1, 2]:
            raise ExportError("A net that turns its axes can't be written for Keras.", where=FILE, remedy="--to onnx")
        return x.value

    def _gelu(self, node: Any) -> Any:
        return self.ops.gelu(self._of(node.args[0]), approximate=node.kwargs.get("approximate", "none") != "none")

    def _hardtanh(self, node: Any) -> Any:
        return self.ops.clip(self._of(node.args[0]), self._given(node, 1, -1.0), self._given(node, 2, 1.0))

    def _clamp_min(self, node: Any) -> Any:
        return self.ops.maximum(self._of(node.args[0]), float(node.args[1]))

    def _softmax(self, node: Any) -> Any:
        return self.ops.softmax(self._of(node.args[0]), axis=self._axes(node, node.args[1]))

    def _conv2d(self, node: Any) -> Any:
        x, kernel, bias = self._of(node.args[0]), self._of(node.args[1]), self._given(node, 2, None)
        padding, groups = self._given(node, 4, [0, 0]), self._given(node, 6, 1)
        layer = self.layers.Conv2D(
            kernel.shape[0],
            kernel.shape[2:],
            strides=_pair(self._given(node, 3, [1, 1])),
            dilation_rate=_pair(self._given(node, 5, [1, 1])),
            groups=groups,
            use_bias=bias is not None,
            data_format="channels_last",
            padding="same" if padding == "same" else "valid",
        )
        if not isinstance(padding, str):
            x = self._padded(x, _pair(padding), 0.0)
        found = layer(x)
        weights = [np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))]
        layer.set_weights(weights if bias is None else [*weights, bias])
        return found

    def _padded(self, x: Any, by: Sequence[int], value: float) -> Any:
        if not any(by):
            return x
        return self.ops.pad(x, [[0, 0], [by[0]] * 2, [by[1]] * 2, [0, 0]], constant_values=value)

    def _pad(self, node: Any) -> Any:
        left, right, top, bottom = (*self._of(node.args[1]), 0, 0)[:4]
        value = self._given(node, 3, None) or 0.0
        sides = [[0, 0], [top, bottom], [left, right], [0, 0]]
        return self.ops.pad(self._of(node.args[0]), sides, constant_values=value)

    _constant_pad_nd = _pad

    def _batch_norm(self, node: Any) -> Any:
        x, *arrays = (self._of(part) for part in node.args[:5])
        layer = self.layers.BatchNormalization(axis=-1, epsilon=float(node.args[7]))
        found = layer(x)
        layer.set_weights(arrays)
        return found

    def _max_pool2d(self, node: Any) -> Any:
        size = _pair(node.args[1])
        strides = _pair(self._given(node, 2, None) or size)
        if _pair(self._given(node, 4, [1, 1])) != (1, 1) or self._given(node, 5, False):
            raise ExportError("Pooling with holes can't be written for Keras.", where=FILE, remedy="--to onnx")
        x = self._padded(self._of(node.args[0]), _pair(self._given(node, 3, [0, 0])), -3e38)
        return self.ops.max_pool(x, size, strides, padding="valid", data_format="channels_last")

    def _avg_pool2d(self, node: Any) -> Any:
        size = _pair(node.args[1])
        if any(_pair(self._given(node, 3, [0, 0]))):
            raise ExportError("Mean pooling with padding can't be written for Keras.", where=FILE, remedy="--to onnx")
        strides, padding = _pair(self._given(node, 2, None) or size), "valid"
        if self._given(node, 4, False):  # the last window may reach over the edge, which doesn't count
            if size != strides:
                raise ExportError(
                    "Overlapping windows beyond the edge aren't in Keras.", where=FILE, remedy="--to onnx"
                )
            padding = "same"
        return self.ops.average_pool(
            self._of(node.args[0]), size, strides, padding=padding, data_format="channels_last"
        )

    def _adaptive_avg_pool2d(self, node: Any) -> Any:
        if _pair(node.args[1]) != (1, 1):
            raise ExportError(
                "Adaptive pooling to more than one number isn't in Keras.", where=FILE, remedy="--to onnx"
            )
        return self.ops.mean(self._of(node.args[0]), axis=(1, 2), keepdims=True)

    def _mean(self, node: Any) -> Any:
        return self.ops.mean(
            self._of(node.args[0]), axis=self._axes(node, node.args[1]), keepdims=self._given(node, 2, False)
        )

    def _amax(self, node: Any) -> Any:
        return self.ops.max(
            self._of(node.args[0]), axis=self._axes(node, node.args[1]), keepdims=self._given(node, 2, False)
        )

    def _linalg_vector_norm(self, node: Any) -> Any:
        x, axis = self._of(node.args[0]), self._axes(node, node.args[2])
        total = self.ops.sum(self.ops.square(x), axis=axis, keepdims=self._given(node, 3, False))
        return self.ops.sqrt(total)

    def _flip(self, node: Any) -> Any:
        return self.ops.flip(self._of(node.args[0]), axis=self._axes(node, node.args[1]))

    def _cat(self, node: Any) -> Any:
        dims = node.meta["val"].dim()
        return self.ops.concatenate(self._of(node.args[0]), axis=self._axes(node, self._given(node, 1, 0), of=dims))

    def _flatten(self, node: Any) -> Any:
        """To [N,D], in torch's order."""
        x = self._of(node.args[0])
        if node.meta["val"].dim() != 2:
            raise ExportError("Only whole items can be flattened for Keras.", where=FILE, remedy="--to onnx")
        if node.args[0].meta["val"].dim() == 4:
            x = self.ops.transpose(x, (0, 3, 1, 2))
        return self.ops.reshape(x, (-1, int(node.meta["val"].shape[1])))

    _view = _reshape = _flatten

    def _linear(self, node: Any) -> Any:
        weight, bias = self._of(node.args[1]), self._given(node, 2, None)
        layer = self.layers.Dense(weight.shape[0], use_bias=bias is not None)
        found = layer(self._of(node.args[0]))
        layer.set_weights([weight.T] if bias is None else [weight.T, bias])
        return found


@final
class _Turned:
    """The input before the net turns it from colours last to colours first."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _pair(value: Any) -> tuple[int, int]:
    """A size as torch gives it: one number, a list of one, or of two."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
