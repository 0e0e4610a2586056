"""Nets of Keras 3 among ours: Keras says what is computed, on torch, and the weights are parameters of torch.

So loop, checkpoints, averages, precision and bundle see a module like any other. `save` writes the trained net as a
`.keras` file that takes pictures and needs neither inflame nor torch; `saved_model` that as TensorFlow's SavedModel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inflame import plugins, store
from inflame.errors import DataError, ExportError, SettingError
from inflame.model.engine import nets
from inflame.model.engine.predictor import Predictor
from inflame.records import Preprocess

# Red, green, blue of ImageNet in the way of Keras' VGG16: the mean taken off, the scale left at 0 … 255.
MEAN, STD = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)
SMALLEST = 32  # pixels, which five poolings bring down to one
WIDTH = 512  # features of VGG16
TENSORFLOW = "INFLAME_TF_PYTHON"  # a Python that has TensorFlow, where ours hasn't
CLOSE = 1e-3  # by how much probabilities may differ after saving

_POLICIES = {torch.bfloat16: "mixed_bfloat16", torch.float16: "mixed_float16"}


def on_torch(who: str = "This net") -> Any:
    """Keras, on torch unless it was told otherwise. MissingExtra, about `who`, where it isn't installed."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return plugins.need("keras", "keras", who)


@contextmanager
def quiet() -> Iterator[None]:
    """Keras asks torch for arrays in a way that numpy no longer likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


# --- Keras' layers as a module of torch ----------------------------------------------------------------


@final
class Layers(nn.Module):
    """A functional model of Keras as a module of torch: `forward(x)` is `model(x)` with the weights of this module.

    They are named by layer: `layers.block1_conv1.kernel`. Nothing else of the model may change in training: no batch
    norms.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._graph = _Graph(model)
        self.layers = nn.ModuleDict(
            {
                layer.name: nn.ParameterDict(
                    {one.name: nn.Parameter(one.value.detach().clone()) for one in layer.weights}
                )
                for layer in model.layers
                if layer.weights
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """What the model makes of x, in the precision of torch's autocast."""
        return self._graph(x, self.layers, training=self.training)

    def arrays(self) -> dict[str, dict[str, NDArray[np.float32]]]:
        """The weights as arrays, by layer and name."""
        return {
            layer: {name: value.detach().float().cpu().numpy() for name, value in weights.items()}  # type: ignore[operator]
            for layer, weights in self.layers.items()
        }

    def take(self, arrays: Mapping[str, Mapping[str, NDArray[np.float32]]], where: Path | str) -> None:
        """Puts these weights in place of its own. Layers that are missing or have another shape: DataError."""
        wanted = self.arrays()
        missing = sorted(set(wanted) - set(arrays))
        shapes = [
            layer
            for layer in wanted
            if layer in arrays
            and any(
                name not in arrays[layer] or arrays[layer][name].shape != of.shape for name, of in wanted[layer].items()
            )
        ]
        if missing or shapes:
            raise DataError(
                f"{Path(where).name} doesn't fit: {len(missing)} layers are missing ({', '.join(missing[:3])}), "
                f"{len(shapes)} have another shape ({', '.join(shapes[:3])}).",
                where=str(where),
                remedy="Give a .keras or .h5 file with the convolutions of Keras' VGG16 (include_top=False).",
            )
        with torch.no_grad():
            for layer, weights in self.layers.items():
                for name, value in weights.items():  # type: ignore[operator]
                    value.copy_(torch.from_numpy(np.ascontiguousarray(arrays[layer][name], np.float32)))


class _Graph:
    """What a model of Keras computes, with weights that are given; copies of a net share it."""

    def __init__(self, model: Any) -> None:
        self._keras, self._model = on_torch(), model
        self._variables = [(one, layer.name, one.name) for layer in model.layers for one in layer.weights]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __call__(self, x: Tensor, weights: nn.ModuleDict, *, training: bool) -> Tensor:
        kind = x.device.type
        lower = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self._compute("float32" if lower is None else _POLICIES[lower])
        given = [(one, weights[layer][name]) for one, layer, name in self._variables]  # type: ignore[index]
        with self._keras.device(str(x.device)), self._keras.StatelessScope(given):
            found: Tensor = self._model(x, training=training)
        return found

    def _compute(self, policy: str) -> None:
        """Keras' own mixed precision: it would turn what torch's autocast makes back to float32 after each layer."""
        if self._model.dtype_policy.name != policy:
            for layer in (*self._model.layers, self._model):
                layer.dtype_policy = policy


# --- VGG16 ---------------------------------------------------------------------------------------------


def vgg16(*, size: int, classes: int, dropout: float = 0.0) -> nets.Classifier:
    """VGG16 of `keras.applications` without its top, with fresh weights; mean pooling, dropout and one dense layer.

    After Simonyan & Zisserman (2015, arXiv:1409.1556). Takes pictures in the colours of `MEAN` and `STD`. Raises
    SettingError for pictures below 32 pixels.
    """
    if size < SMALLEST:
        raise SettingError(
            f"VGG16 can't see pictures of {size} pixels.", remedy=f"Take {SMALLEST} or more.", where="hyperparam.size"
        )
    keras = on_torch()
    with quiet(), keras.device("cpu"):
        pictures = keras.Input((3, size, size))
        with _colours_first(keras):
            body = keras.Model(pictures, _features(keras, pictures, axis=1))
        features = keras.Input((WIDTH,))
        head = keras.Model(features, _logits(keras, features, classes, dropout))
        spec = {"kind": "keras", "name": "vgg16", "size": size, "classes": classes, "dropout": dropout}
        return nets.Classifier(Layers(body), Layers(head), spec)


def blocks(net: nets.Classifier) -> list[nn.Module]:
    """The weights of VGG16's five blocks, from the input on."""
    found: dict[str, nn.ModuleList] = {}
    for name, layer in net.body.layers.items():  # type: ignore[union-attr, operator]
        found.setdefault(name.partition("_")[0], nn.ModuleList()).append(layer)
    return list(found.values())


@contextmanager
def _colours_first(keras: Any) -> Iterator[None]:
    """Layers that are made inside have their colours first, as torch likes it; with them last Keras copies every
    picture twice before each convolution."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def _features(keras: Any, pictures: Any, *, axis: int) -> Any:
    """Features [N,512] of pictures whose colours are at `axis`; the weights are for blue, green, red."""
    turned = keras.ops.flip(pictures, axis=axis)
    return keras.applications.VGG16(include_top=False, weights=None, input_tensor=turned, pooling="avg").output


def _logits(keras: Any, features: Any, classes: int, dropout: float) -> Any:
    return keras.layers.Dense(classes, name="predictions")(keras.layers.Dropout(dropout)(features))


# --- files ---------------------------------------------------------------------------------------------


def imagenet(net: nets.Classifier) -> None:
    """Gives the body the weights that Keras has learnt from ImageNet, from its cache or from its server."""
    keras = on_torch()
    with quiet(), keras.device("cpu"):
        net.body.take(_arrays(keras.applications.VGG16(include_top=False)), "imagenet")  # type: ignore[operator]


def fill(net: nets.Classifier, file: Path) -> None:
    """Gives the body the weights of VGG16 in a `.keras` file, or in a file of weights (`.h5`) of VGG16 without its
    top. Raises DataError for any other."""
    if not file.is_file():
        raise DataError(f"There is no file {file}.", where="weights", remedy="Give a .keras or .h5 file of VGG16.")
    keras = on_torch()
    try:
        with quiet(), keras.device("cpu"):
            if file.suffix == ".keras":
                model = keras.saving.load_model(file, compile=False)
            else:
                model = keras.applications.VGG16(include_top=False, weights=None)
                model.load_weights(file)
            arrays = _arrays(model)
    except Exception as error:  # h5py, zipfile and Keras: what reading can raise has no common class
        raise DataError(
            f"{file.name} can't be read: {str(error).strip().splitlines()[0]}",
            where=str(file),
            remedy="Give a .keras file, or the weights (.h5) of Keras' VGG16 with include_top=False.",
        ) from error
    net.body.take(arrays, file)  # type: ignore[operator]


def whole(net: nets.Classifier, predictor: Predictor) -> Any:
    """The net as a model of Keras with what comes before and after it in the bundle: uint8 pictures [N,size,size,3] →
    calibrated probabilities [N,K]."""
    keras = on_torch()
    spec, preprocess = net.spec, predictor.preprocess
    assert isinstance(preprocess, Preprocess)
    pictures = keras.Input((spec["size"], spec["size"], 3), dtype="uint8", name="pictures")
    mean, variance = ([value * 255 for value in preprocess.mean], [(value * 255) ** 2 for value in preprocess.std])
    x = keras.layers.Normalization(axis=-1, mean=mean, variance=variance)(pictures)
    logits = _logits(keras, _features(keras, x, axis=-1), spec["classes"], spec["dropout"])
    calmed = keras.layers.Rescaling(1 / predictor.calibration.temperature)(logits)
    probabilities = keras.layers.Softmax(name="probabilities")(calmed)
    model = keras.Model(pictures, probabilities, name="vgg16")
    arrays = {**net.body.arrays(), **net.head.arrays()}  # type: ignore[operator]
    for layer in model.layers:
        if layer.name in arrays:
            layer.set_weights([arrays[layer.name][one.name] for one in layer.weights])
    return model


def save(net: nets.Classifier, predictor: Predictor, place: Path, *, examples: NDArray[np.uint8]) -> None:
    """Writes the `whole` net as a `.keras` file, which must answer for the examples like `predictor`, the bundle's;
    else ExportError."""
    keras = on_torch()
    with quiet(), keras.device("cpu"):
        with store.atomic(place) as part:
            whole(net, predictor).save(part)
        loaded = keras.saving.load_model(place, compile=False)
        with torch.no_grad():
            answers = loaded(examples, training=False).numpy()
    _same(answers, predictor, examples, place)


def tensorflow() -> str:
    """The Python that has TensorFlow: what INFLAME_TF_PYTHON names, or this one; empty where there is none."""
    return os.environ.get(TENSORFLOW) or (sys.executable if find_spec("tensorflow") else "")


def saved_model(file: Path, folder: Path, predictor: Predictor, *, examples: NDArray[np.uint8]) -> bool:
    """Writes the `.keras` file as TensorFlow's SavedModel, where there is TensorFlow (see `tensorflow`), else gives
    False; ExportError when it fails or answers otherwise.

    Keras can't do that on torch, so another process loads the file on TensorFlow.
    """
    python = tensorflow()
    if not python:
        return False
    env = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as scratch, store.atomic_folder(folder) as place:
        given, answers = Path(scratch) / "given.npy", Path(scratch) / "answers.npy"
        np.save(given, examples)
        words = [python, "-c", _ON_TENSORFLOW, str(file), str(place), str(given), str(answers)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise ExportError(
                f"TensorFlow can't write the SavedModel: {(done.stderr.strip().splitlines() or ['it just ended'])[-1]}",
                where=python,
                remedy=f"Install a TensorFlow with Keras {on_torch().__version__} there, or unset {TENSORFLOW}.",
            )
        _same(np.load(answers), predictor, examples, folder)
    return True


_ON_TENSORFLOW = """
import sys
import keras, numpy, tensorflow
file, folder, given, answers = sys.argv[1:]
keras.saving.load_model(file, compile=False).export(folder, format="tf_saved_model", verbose=False)
loaded = tensorflow.saved_model.load(folder)  # kept: without it its variables would go
numpy.save(answers, loaded.serve(numpy.load(given)).numpy())
"""


def _arrays(model: Any) -> dict[str, dict[str, NDArray[np.float32]]]:
    """The weights of a model's layers, and of the models in it."""
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= _arrays(layer)
        elif layer.weights:
            found[layer.name] = {one.name: one.value.detach().cpu().numpy() for one in layer.weights}
    return found


def _same(answers: NDArray[Any], predictor: Predictor, examples: NDArray[np.uint8], place: Path) -> None:
    """Raises ExportError where probabilities aren't those of the bundle."""
    expected = predictor.calibration.apply(predictor.run({"pictures": examples})[0])
    difference = float(np.abs(answers - expected).max())
    if not difference <= CLOSE:  # "not <=" because NaN is neither
        raise ExportError(
            f"{place.name} doesn't answer like the bundle: probabilities differ by up to {difference:.2g}.",
            where=str(place),
            remedy="Use the bundle (inflame predict, inflame export --to onnx), and report this as a fault of inflame.",
        )
