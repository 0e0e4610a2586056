"""`inflame predict`: what is asked, by which model, and the answers in the form that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import runs as folders
from inflame.cli import places
from inflame.cli.show import as_json, table
from inflame.errors import BundleError, DataError, InflameError, UserError
from inflame.records import Prediction

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.model.engine.bundle import Predictor
    from inflame.model.engine.explain import Explanation

EXPLAINED = 24  # answers that are explained
WORDS = 8  # that are named of each


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
