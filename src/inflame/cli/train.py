"""`inflame train`: what is to be trained on what; then this process becomes the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import plugins
from inflame.cli import places
from inflame.errors import MissingExtra, UserError
from inflame.records import JobSpec

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser


def train_words(parser: Parser) -> None:
    """What to train on, settings, and the time there is."""
    parser.usage = "inflame train DATA|MODEL [--in TIME] [key=value …]"
    parser.description = (
        "Check, split, plan, train, test, report and bundle, in the time you give.\n\n"
        "DATA is a folder with one folder of pictures per class, a zip of one, a CSV of path and label,\n"
        "or a named set (inflame get). MODEL is a built-in model (auto, mnist, fowl_classifier, …) or a\n"
        "folder with an app.py (inflame new). A model's name wins over a data set's; ./mnist is a path.\n"
        "Stopped or killed? The same command goes on where it was."
    )
    parser.epilog = (
        "settings, the same everywhere (inflame train MODEL --help has those of the model):\n"
        "  output=URI  seed=N  limit=N  devices=N  tracker=NAME  fresh=true  io.training_input=DATA\n"
        "  hyperparam.num_epochs=N  hyperparam.learning_rate=X  hyperparam.batch_size=N\n"
        "  debug=overfit (learns it one batch?)  debug=tiny (does all hold?)  debug=profile (where is time?)\n\n"
        "examples:\n"
        "  inflame train photos/ --in 60s\n"
        "  inflame train photos/ --in 5m --explain\n"
        "  inflame train auto text=letters/ --in 20s\n"
        "  inflame train mnist hyperparam.learning_rate=0.01 seed=1\n"
        "  inflame train cifar10_resnet18 io.training_input=photos/ --epochs 5"
    )
    parser.takes_settings = True
    parser.add_argument("words", nargs="*", metavar="DATA|MODEL", help="what to train on; settings as key=value")
    parser.add_argument("--in", dest="budget", metavar="TIME", help="end by then: 60s, 10m, 1h")
    parser.add_argument("--epochs", metavar="N", help="the same as hyperparam.num_epochs=N")
    parser.add_argument("--explain", action="store_true", help="say why each choice was made, where the time went")
    parser.add_argument("--weights", metavar="FILE", help="begin from these weights (.safetensors; for texts a folder)")


def train(words: Namespace) -> int:
    """Becomes the training: `python app.py train …` of the model's folder."""
    from inflame.infra import local

    spec = _job(words)
    local.become(local.Local().request(spec))


def _job(words: Namespace) -> JobSpec:
    targets, settings = divided(words.words)
    from inflame.config.schema import DEBUG

    looks = [word for word in targets if word in DEBUG]
    if words.debug and len(targets) == 2 and looks:  # --debug overfit
        targets.remove(looks[0])
        settings.append(f"debug={looks[0]}")
    if not targets and any(word.startswith("text=") for word in settings):  # the model that takes any data
        targets = ["auto"]
    if len(targets) != 1:
        found = "nothing" if not targets else " and ".join(targets)
        raise UserError(
            f"inflame train takes one thing to train on, and got {found}.",
            remedy="inflame train photos/   or   inflame train mnist   or   inflame train MODEL io.training_input=DATA",
        )
    weights = [f"weights={_weights(words.weights)}"] if words.weights else []
    model, given = target(targets[0])
    given += weights
    if words.budget:
        given.append(f"in={words.budget}")
    if words.epochs:
        given.append(f"hyperparam.num_epochs={words.epochs}")
    if words.explain:
        given.append("explain=true")
    flags = [f"--{flag}" for flag in ("json", "debug", "help") if getattr(words, flag)]
    return JobSpec(model=str(model), arguments=(*given, *settings, *flags))


def _weights(name: str) -> Path:
    """The file, or the folder of a sentence model."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else places.file(name)


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of things, and the settings: the words that are key=value."""
    names, settings = list[str](), list[str]()
    for word in words:
        key, equals, _ = word.partition("=")
        (settings if equals and "/" not in key and not Path(word).exists() else names).append(word)
    return names, settings


def target(word: str) -> tuple[Path, list[str]]:
    """The model folder that trains on `word`, and the settings that tell it so."""
    path = Path(word).expanduser()
    if word in plugins.names("model") or (path / "app.py").is_file() or path.name == "app.py":
        if word in plugins.SEAMS["model"]:
            _demand_torch()
        return plugins.model_folder(word), []
    if path.exists():
        data = str(path.resolve())
    elif word in plugins.names("source") or "://" in word:
        data = word
    else:
        names = {*plugins.names("model"), *plugins.names("source")}
        raise places.nowhere(word, names, "no file or folder here, no model and no named data set")
    _demand_torch()
    return plugins.model_folder("auto"), [f"io.training_input={data}"]


def _demand_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingExtra("Training needs torch, which isn't installed.", extra="train")
