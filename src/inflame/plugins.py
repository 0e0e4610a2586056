"""The one door for names that arrive from outside the program: sources, models, trackers and so on.

A seam is a table of names; a name is a `module:attribute`, imported on use. Strangers join by Python entry
points in the group `inflame.<seam>` and are found by the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.errors import DataError, MissingExtra, UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Where a name leads: `module:attribute` (for a model: the package that is its folder), the extra that brings
    what it needs, and the package among that without which it isn't worth trying."""

    target: str
    extra: str = ""
    needs: str = ""


def _source(name: str) -> Plugin:
    return Plugin(target=f"inflame.artifact.sources:{name}", extra="data")


def _model(name: str) -> Plugin:
    return Plugin(target=f"inflame.model.{name}", extra="train")


def _tracker(name: str) -> Plugin:
    return Plugin(target=f"inflame.model.engine.trackers.{name}:{name.capitalize()}", extra=name, needs=name)


def _exporter(name: str) -> Plugin:
    return Plugin(target=f"inflame.model.engine.exporters.{name}:write")


SEAMS: dict[str, dict[str, Plugin]] = {
    "source": {
        "digits": _source("digits"),
        "mnist": _source("mnist"),
        "fashion-mnist": _source("fashion_mnist"),
        "cifar10": _source("cifar10"),
        "clothing": _source("clothing"),
        "butterflies": _source("butterflies"),
        "fowl": _source("fowl"),
        "20newsgroups": _source("newsgroups20"),
        "bbc-news": _source("bbc_news"),
    },
    "model": {
        name: _model(name)
        for name in (
            "auto",
            "mnist",
            "cifar10_resnet18",
            "cifar10_speedrun",
            "fowl_classifier",
            "butterfly_vgg16",
            "news_text",
        )
    },
    "tracker": {
        "jsonl": Plugin(target="inflame.model.engine.hooks:Metrics", extra="train"),
        **{name: _tracker(name) for name in ("mlflow", "wandb", "tensorboard", "clearml")},
    },
    "launcher": {
        "local": Plugin(target="inflame.infra.local:Local"),
        "sagemaker": Plugin(target="inflame.infra.places.sagemaker:SageMaker", extra="aws", needs="boto3"),
        "vertexai": Plugin(target="inflame.infra.places.vertexai:VertexAI", extra="gcp", needs="requests"),
        "azureml": Plugin(target="inflame.infra.places.azureml:AzureML", extra="azure", needs="requests"),
        "clearml": Plugin(target="inflame.infra.places.clearml:ClearML", extra="clearml", needs="requests"),
        "slurm": Plugin(target="inflame.infra.places.slurm:Slurm"),
        "kubernetes": Plugin(target="inflame.infra.places.kubernetes:Kubernetes"),
        "ray": Plugin(target="inflame.infra.places.ray:Ray", extra="ray", needs="requests"),
    },
    "exporter": {name: _exporter(name) for name in ("onnx", "torch", "keras", "int8", "browser")},
    "runtime": {
        "onnxruntime": Plugin(target="inflame.web.runtimes:onnxruntime", needs="onnxruntime"),
        "onnxruntime-cuda": Plugin(target="inflame.web.runtimes:onnxruntime_cuda", needs="onnxruntime"),
        "onnxruntime-int8": Plugin(target="inflame.web.runtimes:int8", needs="onnxruntime"),
        "openvino": Plugin(target="inflame.web.runtimes:openvino", extra="openvino", needs="openvino"),
        "openvino-bf16": Plugin(target="inflame.web.runtimes:openvino_bf16", extra="openvino", needs="openvino"),
        "openvino-int8": Plugin(target="inflame.web.runtimes:openvino_int8", extra="openvino", needs="openvino"),
    },
    "chat": {"openai": Plugin(target="inflame.web.chat:openai", extra="web")},
}


def names(seam: str) -> tuple[str, ...]:
    """The names that `seam` knows, built in and installed, sorted."""
    return tuple(sorted({*SEAMS[seam], *(entry.name for entry in _entries(seam))}))


def load(seam: str, name: str) -> Any:
    """What `name` stands for in `seam`, imported now. Unknown: UserError; not installed: MissingExtra."""
    plugin = _find(seam, name)
    module, _, attribute = plugin.target.partition(":")
    found: Any = need(module, plugin.extra, f"The {seam} {name}")
    for part in filter(None, attribute.split(".")):
        if not hasattr(found, part):
            raise UserError(
                f"The {seam} {name} leads to {plugin.target}, where there is no {part!r}.",
                where=plugin.target,
                remedy=f"Install the version of its package that fits, or correct its entry point inflame.{seam}.",
            )
        found = getattr(found, part)
    return found


def demand(seam: str, name: str) -> None:
    """Looks, importing nothing, whether `name` can be loaded. Unknown: UserError; not installed: MissingExtra."""
    from importlib.util import find_spec

    plugin = _find(seam, name)
    if plugin.needs and find_spec(plugin.needs) is None:
        raise MissingExtra(
            f"The {seam} {name} needs the package {plugin.needs}, which isn't installed.",
            extra=plugin.extra,
            where=f"{seam}={name}",
        )


def need(module: str, extra: str, who: str = "This") -> ModuleType:
    """The module, imported; when a package is missing, MissingExtra with the line that installs it.
    `who` begins the sentence: "The tracker wandb"."""
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if missing.partition(".")[0] == "inflame":
            raise  # our own mistake, not the user's
        line = "" if extra else f"Install what provides it, often: pip install {missing.partition('.')[0]}"
        raise MissingExtra(
            f"{who} needs the package {missing}, which isn't installed.", extra=extra, remedy=line, where=module
        ) from error


def model_folder(name: str | Path) -> Path:
    """The folder of a model: a name (`mnist`), or the path of a folder with an `app.py`.

    A name of the seam wins over a folder of that name; `./mnist` is always the folder.
    """
    text = str(name)
    path = Path(text).expanduser()
    known = text in SEAMS["model"] or ("/" not in text and any(text == entry.name for entry in _entries("model")))
    folder = _package_folder(text, _find("model", text)) if known else path.resolve()
    if (folder / "app.py").is_file():
        return folder
    if not known and path.is_file() and path.name == "app.py":
        return path.resolve().parent
    if known or path.is_dir():
        raise DataError(
            f"{folder} is not a model folder: it has no app.py.",
            where=str(folder),
            remedy="Name a model folder, or make one: inflame new my_model",
        )
    raise _unknown("model", text, "Name one of these, or a folder with an app.py: ")


def _find(seam: str, name: str) -> Plugin:
    if name in SEAMS[seam]:
        return SEAMS[seam][name]
    for entry in _entries(seam):
        if entry.name == name:
            return Plugin(target=entry.value, extra="")
    raise _unknown(seam, name, "Use one of: ")


def _unknown(seam: str, name: str, remedy: str) -> UserError:
    options = names(seam)
    return UserError(
        f'There is no {seam} "{name}".{did_you_mean(name, options)}',
        remedy=remedy + (", ".join(options) or "(none yet)"),
    )


def _package_folder(name: str, plugin: Plugin) -> Path:
    """The folder of a package, found without importing it: a model may need what isn't installed."""
    from importlib.util import find_spec

    module, _, _ = plugin.target.partition(":")
    if module.startswith("inflame."):
        return Path(__file__).parent.joinpath(*module.split(".")[1:])
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"The model {name} leads to {module}, which is not a package.",
            where=plugin.target,
            remedy="Correct its entry point inflame.model: the name of a package whose folder has an app.py.",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _entries(seam: str) -> Iterable[Any]:
    from importlib.metadata import entry_points

    return entry_points(group=f"inflame.{seam}")
