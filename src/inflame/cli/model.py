"""The verbs about models: train, predict, report, runs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import plugins
from inflame import runs as folders
from inflame.cli import places
from inflame.cli.show import as_json, table
from inflame.errors import BundleError, DataError, InflameError, MissingExtra, UserError
from inflame.records import JobSpec, Prediction

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.model.engine.bundle import Predictor
    from inflame.model.engine.explain import Explanation

EXPLAINED = 24  # answers that are explained
WORDS = 8  # that are named of each


# --- train ---------------------------------------------------------------------------------------


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
    targets = [word for word in words.words if not _is_setting(word)]
    settings = [word for word in words.words if _is_setting(word)]
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
    model, given = _target(targets[0])
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


def _is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key and not Path(word).exists()


def _target(word: str) -> tuple[Path, list[str]]:
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


# --- predict -------------------------------------------------------------------------------------


def predict_words(parser: Parser) -> None:
    """The pictures, the model, and the form of the answers."""
    parser.usage = "inflame predict FILE|FOLDER… [--text TEXT] [--model RUN] [--explain] [--json | --csv FILE]"
    parser.description = (
        "Name what is on pictures or in texts, with calibrated probabilities. `unsure` means: the model\n"
        "has not seen enough of the like to promise its error rate. Needs no torch.\n"
        "--explain says why: the words that decide, the training items that are most like it, and writes a\n"
        "page with heat on each picture where the answer comes from."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame predict new.jpg\n"
        "  inflame predict inbox/ --csv answers.csv\n"
        "  inflame predict new.jpg --model mnist-digits-001 --json\n"
        "  inflame predict letter.txt --explain\n"
        '  inflame predict --text "The match ended in a draw."\n'
        "  cut -f3 letters.tsv | inflame predict - --csv answers.csv    (a text a line)"
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE|FOLDER", help="pictures or texts, or folders of them; -: lines of stdin"
    )
    parser.add_argument("--text", metavar="TEXT", action="append", help="a text itself, for a model of texts")
    parser.add_argument(
        "--model", metavar="RUN", help="a run, its folder or bundle, or a champion's name (default: the last run)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the answers to this file")
    parser.add_argument("--top", metavar="K", type=int, default=3, help="name the K likeliest classes (default: 3)")
    parser.add_argument(
        "--explain", action="store_true", help=f"say why (of {EXPLAINED} at most), and make explained.html"
    )


def predict(words: Namespace) -> int:
    """Prints one answer per picture; 1 when one of them could not be read."""
    if words.top < 1:
        raise UserError(f"--top takes a number of classes, 1 or more, not {words.top}.", remedy="--top 3")
    predictor, asked = _asked(words)
    found = predictor.predict([source for _, source in asked], words.top, errors="collect")
    answers = [(name, answer) for (name, _), answer in zip(asked, found, strict=True)]
    why = _explained(predictor, asked, found) if words.explain else {}
    bad = [(file, answer) for file, answer in answers if isinstance(answer, InflameError)]
    good = [(file, answer) for file, answer in answers if isinstance(answer, Prediction)]
    if words.csv:
        _write_csv(Path(words.csv), answers)
        print(f"wrote {len(answers)} answers to {words.csv}", file=sys.stderr)
    if words.json:
        for file, answer in answers:
            more = {"explanation": why[str(file)].to_json()} if str(file) in why else {}
            print(as_json({**_answer(file, answer), **more}))
    elif good and not words.csv:
        print(table(("file", "label", "probability", "else"), [_row(file, answer) for file, answer in good]))
    if why:
        _tell_why(why, _place_of_page(predictor.folder), quiet=words.json or bool(words.csv))
    for file, error in bad:
        print(f"{file}: {error.message.rstrip('.')}: {error.remedy}", file=sys.stderr)
    return 1 if bad else 0


def _asked(words: Namespace) -> tuple[Predictor, list[tuple[Path, Path | bytes]]]:
    """Who is asked, and what: the name of each thing, and the thing."""
    if not words.files and not words.text:
        raise UserError("inflame predict needs a picture or a text.", remedy="inflame predict new.jpg")
    named = [name for name in words.files if name != "-"]
    for name in named:
        if not Path(name).expanduser().is_dir():
            places.file(name)
    bundle = bundle_of(words.model)
    from inflame.model.engine.bundle import Predictor

    predictor = Predictor(bundle)
    text = hasattr(predictor.preprocess, "words")
    if not text and (words.text or len(named) < len(words.files)):
        raise UserError("The model is one of pictures: it can't read a text.", remedy="inflame predict new.jpg")
    files = list(_files(named, "text" if text else "picture"))
    given = {f"text {number}": said.encode() for number, said in enumerate(words.text or (), 1)}
    if len(named) < len(words.files):
        given |= {f"line {number}": line for number, line in enumerate(sys.stdin.buffer, 1) if line.strip()}
    return predictor, [*((file, file) for file in files), *((Path(name), told) for name, told in given.items())]


def _explained(
    predictor: Predictor, asked: Sequence[tuple[Path, Path | bytes]], found: Sequence[Prediction | InflameError]
) -> dict[str, Explanation]:
    """The first explanations by the names of what was asked."""
    good = [pair for pair, answer in zip(asked, found, strict=True) if isinstance(answer, Prediction)]
    return {str(name): predictor.explain(source) for name, source in good[:EXPLAINED]}


def _place_of_page(bundle: Path) -> Path:
    """In the run folder, or here for a bundle that lies elsewhere."""
    inside = bundle.name == "bundle" and (bundle.parent / "status.json").is_file()
    return (bundle.parent if inside else Path.cwd()) / "explained.html"


def _tell_why(why: Mapping[str, Explanation], page: Path, *, quiet: bool) -> None:
    """Words and nearest items on stdout, the page in its file."""
    from inflame import store
    from inflame.model.engine import explained

    for name, one in why.items() if not quiet else ():
        print(f"\n{name}: why {one.label}")
        if one.terms:
            told = ", ".join(f"{term} {value:+.2f}" for term, value in one.terms[:WORDS])
            print(f"  words  {told}")
        if one.near:
            print("  like   " + ", ".join(f"{near.uri} ({near.label}, {near.distance:.3f})" for near in one.near[:3]))
    store.write(page, explained.page(list(why.items()), title="Why the model answers so"))
    print(f"page   {page}", file=sys.stderr if quiet else sys.stdout)


def files_of(names: Sequence[str], kind: str) -> list[Path]:
    """The files of a kind (picture, text) that names of files and folders mean."""
    for name in names:
        if not Path(name).expanduser().is_dir():
            places.file(name)
    return list(_files(names, kind))


def _files(names: Sequence[str], kind: str) -> Iterator[Path]:
    """The files that names mean: themselves, and those of folders that are of this kind (picture, text)."""
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is(file, kind))
            if not found:
                raise DataError(
                    f"There is no {kind} in {name}, and the model is one of {kind}s.",
                    where=str(path),
                    remedy=f"Name a folder of {kind}s.",
                )
            yield from found
        else:
            yield places.file(name)


def _is(file: Path, kind: str) -> bool:
    from inflame.artifact.listing import TEXTS, is_junk, is_picture

    wanted = file.suffix.casefold() in TEXTS if kind == "text" else is_picture(file.name)
    return wanted and not is_junk(file.name) and file.is_file()


def bundle_of(name: str | None) -> Path:
    """The bundle folder that `--model` means; the last one made when it means nothing."""
    if name is not None and (Path(name).expanduser() / "bundle.json").is_file():
        return Path(name).expanduser()
    if name is not None and (champion := _champion(name)) is not None:
        return champion
    run = folders.find(name) if name is not None else folders.latest()
    if run is None:
        raise BundleError("There is no trained model yet.", remedy="inflame train photos/ --in 60s")
    if run.bundle is None:
        raise BundleError(
            f"The run {run.name} has made no model; it is {run.state}.",
            where=str(run.path),
            remedy="Give its training command again, or choose another run: inflame runs",
        )
    return run.bundle


def _champion(name: str) -> Path | None:
    """The bundle of the champion of that name (see `inflame promote`), if there is one."""
    from inflame import store

    if "/" not in name and not (store.home() / "models" / name).is_dir():
        return None
    from inflame.factory import registry

    return registry.champion(name)


def _answer(file: Path, answer: Prediction | InflameError) -> dict[str, Any]:
    """As the last line of `inflame train`: probabilities are texts, with all the digits there are."""
    if isinstance(answer, InflameError):
        return {"source": str(file), **answer.to_json()}
    said = answer.to_json()
    top = [{"label": label, "probability": _digits(p)} for label, p in answer.top]
    return {"label": answer.label, "probability": _digits(answer.probability), **_without(said), "top": top}


def _without(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in ("label", "probability", "top")}


def _digits(probability: float) -> str:
    return f"{probability:.7f}"


def _row(file: Path, answer: Prediction) -> tuple[str, str, str, str]:
    others = ", ".join(f"{label} {p:.3f}" for label, p in answer.top[1:])
    label = answer.label if answer.known else f"unsure ({answer.label}?)"
    return str(file), label, f"{answer.probability:.4f}", others


def _write_csv(path: Path, answers: Iterable[tuple[Path, Prediction | InflameError]]) -> None:
    import csv

    from inflame import store

    with store.open_uri(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file", "label", "probability", "known", "error"))
        for name, answer in answers:
            shown = str(name).encode(errors="backslashreplace").decode()  # a name may be no text at all
            if isinstance(answer, InflameError):
                rows.writerow((shown, "", "", "", answer.message))
            else:
                rows.writerow((shown, answer.label, _digits(answer.probability), str(answer.known).lower(), ""))


# --- report and runs -----------------------------------------------------------------------------


def report_words(parser: Parser) -> None:
    """The run, and whether to show its page."""
    parser.usage = "inflame report [RUN] [--open]"
    parser.description = (
        "Make the page about a run again, from the files of its folder: curves, confusion, results per\n"
        "class, worst mistakes, suspected labels, calibration, faults of the data, where it all came from."
    )
    parser.epilog = "examples:\n  inflame report --open\n  inflame report mnist-digits-001"
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (inflame runs) or its folder; default: the last")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def report(words: Namespace) -> int:
    """Writes report.html and report.json of the run, and prints where they are."""
    run = folders.find(words.run) if words.run else folders.latest(with_bundle=False)
    if run is None:
        raise UserError("There is no run yet.", remedy="inflame train photos/ --in 60s")
    from inflame.model.engine.report import report as make

    page = Path(make(run.path))
    if words.json:
        print(page.with_suffix(".json").read_text(encoding="utf-8"), end="")
    else:
        print(page)
    if words.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def runs_words(parser: Parser) -> None:
    """Which runs, and whether to tell trackers of one."""
    parser.usage = "inflame runs [--where CONDITION] | inflame runs --sync RUN [--to TRACKER]"
    parser.description = (
        "All runs, newest first, with their test accuracy and its 95 % interval; or send one to a tracker\n"
        "that hasn't got all of it. A condition is SQL over name, model, dataset, state, accuracy, low,\n"
        "high, seconds, started, updated (since 1970) and settings (JSON)."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame runs\n"
        "  inflame runs --where \"accuracy > 0.9 AND settings->>'$.hyperparam.batch_size' = 64\"\n"
        "  inflame runs --sync mnist-digits-001\n"
        "  inflame runs --sync mnist-digits-001 --to tensorboard,mlflow"
    )
    parser.add_argument("--where", metavar="CONDITION", default="", help="only the runs that meet it")
    parser.add_argument("--sync", metavar="RUN", help="tell the run's trackers whatever they haven't been told")
    parser.add_argument("--to", metavar="TRACKER", help="with --sync: these trackers instead (several: a,b)")


def runs(words: Namespace) -> int:
    """Prints a table of the run folders, or sends one of them."""
    if words.sync:
        return _sync(words.sync, words.to)
    if words.to:
        raise UserError(
            "--to says where to send a run, and none is named.", remedy="inflame runs --sync RUN --to mlflow"
        )
    found = [_about(folder, json.loads(status)) for folder, status in folders.known(words.where)]
    if words.json:
        print(as_json(found, indent=1))
    elif not found:
        print("no such runs" if words.where else "no runs yet; begin with: inflame train photos/ --in 60s")
    else:
        head = ("run", "model", "data", "test accuracy", "seconds", "state", "age")
        print(table(head, [_line(about) for about in found]))
    return 0


def _sync(name: str, to: str | None) -> int:
    from inflame.model.engine.trackers import following

    run = folders.find(name)
    trackers = following.wanted(to or _trackers(run))
    if not trackers:
        raise UserError(
            f"The run {run.name} has no tracker.", remedy=f"Name one: inflame runs --sync {name} --to mlflow"
        )
    following.sync(run, trackers)
    return 0


def _trackers(run: folders.Run) -> str:
    """The setting `tracker` that the run had."""
    try:
        return str(json.loads((run.path / "config.json").read_bytes())["tracker"])
    except (OSError, ValueError, KeyError):
        return ""


def _about(folder: str, info: dict[str, Any]) -> dict[str, Any]:
    fields = {key: info.get(key) for key in ("model", "dataset", "test", "seconds", "started", "updated")}
    run = folders.Run(path=Path(folder))
    # What is over stays so; whether a process is still at work has to be looked at.
    state = info.get("state") if info.get("state") not in (None, "running") else run.state
    return {"run": run.name, "folder": folder, "state": state, **fields}


def _line(about: dict[str, Any]) -> tuple[object, ...]:
    test = about["test"] if isinstance(about["test"], dict) else {}
    score = (
        "{accuracy:.3f} ({low:.3f}–{high:.3f})".format_map(test) if {"accuracy", "low", "high"} <= set(test) else "-"
    )
    seconds = f"{about['seconds']:.0f}" if isinstance(about["seconds"], (int, float)) else "-"
    shown = (about["model"] or "-", about["dataset"] or "-", score, seconds, about["state"], _age(about["updated"]))
    return about["run"], *shown


def _age(moment: float | None) -> str:
    """How long ago a moment, in seconds since 1970, was."""
    if not isinstance(moment, (int, float)):
        return "-"
    seconds = time.time() - moment
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
