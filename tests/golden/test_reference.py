"""docs/reference.md is what the code says: settings, records, errors, seams, in the words of their own docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from inflame import errors, plugins, records
from inflame.config import schema, toml
from inflame.infra.places import Setting

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference.md"
VARIABLES = {
    "INFLAME_HOME": "where data, caches, runs, sweeps and champions are kept; default `~/.inflame`",
    "INFLAME_MIRROR": "a folder or an address that has data sets and weights, asked before the network",
    "INFLAME_LOG": "the log of answers: a file or `postgresql://…`; default in the home ([monitor](monitor.md))",
    "INFLAME_ALERT": "who is told when a rule rings: webhooks, `smtp://…`, with spaces between ([monitor](monitor.md))",
    "INFLAME_WEB_TOKEN": "16 letters or more that open what its owner may see of a website ([website](website.md))",
    "INFLAME_OIDC_ISSUER": "a provider of OpenID Connect that says who the owner is ([website](website.md))",
    "INFLAME_OIDC_CLIENT": "what it knows the website as",
    "INFLAME_OIDC_SECRET": "the secret that they share",
    "INFLAME_OIDC_OWNERS": "who is an owner: verified e-mail addresses, or `CLAIM:VALUE`, with commas between",
    "INFLAME_OIDC_SITE": "the address that browsers know the website by; default `https://` and its first `--name`",
    "INFLAME_OIDC_SCOPE": "what the provider is asked for; default `openid email`",
    "INFLAME_CHAT_URL": "an endpoint that words the answers of the chat; without it they are quoted facts",
    "INFLAME_CHAT_MODEL": "the model that it is asked for; default `default`",
    "INFLAME_CHAT_KEY": "its key",
    "INFLAME_CHAT": "the plugin of the seam `chat` that speaks to it; default `openai`",
    "INFLAME_CHAT_HOURLY": "how many answers a visitor may have worded in an hour",
    "INFLAME_TRACKER_WAIT": "seconds that a tracker may be silent at the end of a training; default 5",
    "INFLAME_ONNXRUNTIME_WEB": "a folder or an address that has onnxruntime-web, for `inflame export --to browser`",
    "INFLAME_TF_PYTHON": "a Python that has TensorFlow, for `saved_model`, where this one hasn't",
    "INFLAME_RAY_CPUS": "cores that each worker of `inflame.infra.ray_train` reserves",
    "INFLAME_RAY_GPUS": "GPUs that each of them reserves",
    "INFLAME_BEAT": "seconds between two signs of life of a job; default 10",
    "INFLAME_HASTY": "set: what is written may be lost in a power cut, and is written sooner",
}
# What processes of inflame tell each other: nobody else sets them.
OURS = {
    *("INFLAME_CALLED", "INFLAME_CODE", "INFLAME_ENDED", "INFLAME_INPUT_", "INFLAME_JOB", "INFLAME_PARTS"),
    *("INFLAME_REUSE", "INFLAME_STAGE", "INFLAME_STARTED", "INFLAME_SWEEP", "INFLAME_TIED", "INFLAME_TRIAL"),
    *("INFLAME_WARM", "INFLAME_WORK"),
}


def test_reference_md(golden: Callable[[Path, str], None]) -> None:
    parts = ["# Reference\n\nWritten by `make docs` from the code; a test keeps it true.\n"]
    parts += [_settings(), _models(), _places(), _variables(), _records(), _errors(), _seams()]
    golden(PAGE, "\n".join(parts))


def test_every_hyperparam_says_what_it_is() -> None:
    assert [
        (model, name) for model in plugins.SEAMS["model"] for name, _, said in _hyperparams(model) if not said
    ] == []


def test_every_place_has_its_settings_here() -> None:
    modules = (ROOT / "src" / "inflame" / "infra" / "places").glob("*.py")
    known = {one for path in modules for one in getattr(_module(path), "SETTINGS", ())}
    assert {one for settings in _by_place().values() for one in settings} == known
    assert [one.name for one in known if not one.help] == []


def test_every_variable_is_one_that_the_page_has_or_ours() -> None:
    named = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"""["'](INFLAME_[A-Z_]+)""", path.read_text(encoding="utf-8"))
    }
    of_places = {name for settings in _by_place().values() for one in settings for name in one.variables}
    of_places = {name for name in of_places if name.startswith("INFLAME_")}
    assert named == VARIABLES.keys() | OURS | of_places
    assert VARIABLES.keys() & OURS == set()


def _settings() -> str:
    head = "| setting | takes | is |\n|---|---|---|"
    tables = [
        ("everywhere", {name: key for name, key in schema.COMMON.items() if not name.startswith("_")}),
        ("`[io]`: `io.NAME`", schema.IO),
        ("`[hyperparam]` of every model that has it: `hyperparam.NAME`", schema.KNOWN),
    ]
    parts = [
        "## Settings\n",
        "Words like `seed=1` or `--seed 1`; `model-config.toml` has their defaults.\n",
    ]
    for title, keys in tables:
        rows = [f"| `{name}` | {key.expects()} | {key.help} |" for name, key in keys.items()]
        parts.append(f"### {title}\n\n{head}\n" + "\n".join(rows) + "\n")
    others = ", ".join(f"`{name}` is `{meant}`" for name, meant in sorted(schema.ALIASES.items()))
    return "\n".join([*parts, f"Who gives a name from elsewhere is told ours: {others}.\n"])


def _models() -> str:
    parts = [
        "## Hyperparams of each model\n",
        "`hyperparam.NAME=VALUE`; the defaults are those of its `model-config.toml`.\n",
    ]
    for model in plugins.SEAMS["model"]:
        rows = [f"| `{name}` | `{value}` | {said} |" for name, value, said in _hyperparams(model)]
        parts.append(f"### {model}\n\n| setting | default | is |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _hyperparams(model: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning: what the file says beside or above it, else what is said of it everywhere."""
    config = toml.parse(plugins.model_folder(model) / "model-config.toml")
    known = {name: key.help for name, key in schema.KNOWN.items()}
    return [
        (name, _literal(value), (config.comments.get(f"hyperparam.{name}") or known.get(name, "")).replace("|", "\\|"))
        for name, value in config.values["hyperparam"].items()
    ]


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _places() -> str:
    parts = [
        "## Settings of places\n",
        "`[on.PLACE]` of `inflame.toml`, or else the first of these variables that is set ([places](places.md)).\n",
    ]
    for place, settings in _by_place().items():
        rows = [
            f"| `{one.name}`{', needed' if one.required else ''} | {', '.join(f'`{name}`' for name in one.variables)} "
            f"| {f'`{one.default}`' if one.default else ''} | {one.help} |"
            for one in settings
        ]
        head = "| setting | variables | default | is |\n|---|---|---|---|"
        parts.append(f"### {place}\n\n{head}\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _by_place() -> dict[str, tuple[Setting, ...]]:
    """The settings of each place that has some."""
    found = {}
    for name, plugin in plugins.SEAMS["launcher"].items():
        module = importlib.import_module(plugin.target.partition(":")[0])
        if settings := getattr(module, "SETTINGS", ()):
            found[name] = settings
    return found


def _module(path: Path) -> object:
    return importlib.import_module(f"inflame.infra.places.{path.stem}")


def _variables() -> str:
    rows = [f"| `{name}` | {said} |" for name, said in VARIABLES.items()]
    head = "| variable | is |\n|---|---|"
    others = (
        "Beside those of places. Accounts and trackers are told by the names that their makers gave them (`AWS_…`, "
        "`MLFLOW_…`, `WANDB_…`: [places](places.md), [trackers](trackers.md)); `NO_COLOR`, `COLUMNS`, "
        "`HF_HUB_OFFLINE`, "
        "`OMP_NUM_THREADS` and `CUDA_VISIBLE_DEVICES` mean what they mean everywhere.\n"
    )
    return "\n".join(["## Environment variables\n", others, head, *rows, ""])


def _records() -> str:
    parts = ["## Records\n", "What travels between rooms and lies in run folders: frozen, JSON both ways.\n"]
    for name, record in _classes(records, records.Record):
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(record))
        parts.append(f"### {name}\n\n{_said(record)}\n\n{fields}\n")
    return "\n".join(parts)


def _errors() -> str:
    parts = [
        "## Errors\n",
        "Each says what is wrong, where, and what to do: with `--json` too.\n",
    ]
    head = "| error | is a | exit code | means |\n|---|---|---|---|"
    rows = [
        f"| `{name}` | `{error.__bases__[0].__name__}` | {error.code} | {_said(error)} |"
        for name, error in _classes(errors, errors.InflameError)
    ]
    return "\n".join([*parts, head, *rows, ""])


def _seams() -> str:
    parts = ["## Seams\n", "Names that arrive from outside; others join by entry points `inflame.<seam>`.\n"]
    head = "| seam | built in | extra |\n|---|---|---|"
    rows = []
    for seam, names in plugins.SEAMS.items():
        extras = sorted({plugin.extra for plugin in names.values()} - {""})
        rows.append(f"| {seam} | {', '.join(f'`{name}`' for name in names)} | {', '.join(extras)} |")
    return "\n".join([*parts, head, *rows, ""])


def _classes(module: object, above: type) -> Iterator[tuple[str, type]]:
    """The classes below `above` that the module defines, in its order."""
    for name, found in vars(module).items():
        ours = inspect.isclass(found) and issubclass(found, above) and found.__module__ == above.__module__
        if ours and found is not above:
            yield name, found


def _said(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split()).replace("|", "\\|")
