"""What `python app.py …` of every model folder does: words → settings → the folder's `train.py` or `score.py` →
one JSON line, last on stdout. All else goes to stderr. What goes wrong is one message and an exit code.

Exit codes: 0 done · 1 failed · 2 your input · 130 Ctrl-C · 143 SIGTERM (129 SIGHUP).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from inflame import config, store
from inflame.config.schema import ALIASES, COMMON, DEBUG
from inflame.errors import (
    DataError,
    InflameError,
    MissingExtra,
    RunError,
    StorageError,
    UserError,
    did_you_mean,
    nearest,
)
from inflame.plugins import SEAMS
from inflame.records import Record
from inflame.runs import Follows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType

VERBS = {"train": "io.training_input", "score": "io.inference_input"}
FLAGS = ("--json", "--debug", "--help")
SHORT = ("gpu", "input", "text")  # `--gpu N --input URI`, `text=URI`: devices, and what the verb works on
INSIDE = "TORCHELASTIC_RUN_ID"  # set by torchrun for each of several processes
WARM = "INFLAME_WARM"  # set by infra.zygote, which forks processes that train
GO_ON = "Give the same command again; it goes on where this one stopped."

_PACKAGE = Path(__file__).resolve().parents[2]
_TRAIN_EXTRA = ("onnx", "onnxscript", "safetensors", "sklearn", "timm", "torch", "torchvision")


def main(folder: Path, argv: Sequence[str] | None = None) -> int:
    """Does what the words say with the model in `folder`; returns the exit code and raises nothing.

    The folder's module `train` has `train(settings) -> dict` (or a `Record`), `score` has `score(settings)`. Where
    there is a module `alone`, its `alone(settings) -> str` says why several devices would do nothing, if so.
    A key `prediction` with `label` and `probability` is what is printed, or with `--json` the whole.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    folder = folder.resolve()
    if INSIDE in os.environ:  # one of several processes
        return _one_of_many(folder, words)
    code = _done(folder, words)[0]
    if argv is None and sys.orig_argv[1:2] and Path(sys.orig_argv[1]).resolve() == folder / "app.py":
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """Ends the process of `python app.py`, as the interpreter does, but for its last look through millions of objects,
    which takes more than a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _one_of_many(folder: Path, words: list[str]) -> int:
    from inflame.model.engine import many

    many.join()
    if many.over():
        return 0
    code, error = _done(folder, words, silent=not many.first())
    return many.end(code, error)


def _done(folder: Path, words: list[str], *, silent: bool = False) -> tuple[int, Exception | None]:
    """Does what the words say; the exit code, and the error if there was one."""
    stop = _Stop()
    try:
        with stop:
            code = _obey(folder, words)
    except KeyboardInterrupt:
        return (0 if silent else _tell(_Interrupted(stop.signal), words, code=128 + stop.signal)), None
    except SystemExit as done:
        return _left(done), None
    except Follows:
        return 0, None
    except BrokenPipeError:  # whoever read our output has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141, None
    except Exception as error:
        if stop.caught:  # Ctrl-C inside a library can come out as anything
            return _tell(_Interrupted(stop.signal), words, code=128 + stop.signal), None
        known = _named(error, folder)
        if INSIDE in os.environ and _lost(error):
            return known.code, error  # all are started again
        return _tell(known, words, code=known.code), error
    return (128 + stop.signal if stop.caught and code == 0 else code), None


def _lost(error: Exception) -> bool:
    from inflame.model.engine import many

    return many.lost(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words after `app.py`, understood: a verb, settings as `key=value`, and what to print."""

    verb: str = "train"
    settings: tuple[str, ...] = ()
    json: bool = False
    debug: bool = False
    help: bool = False


def understand(words: Sequence[str]) -> Words:
    """The words in order: a verb, then what to work on, `key=value`, `--key value`. Else UserError with a guess."""
    rest, settings, flags = list(words), [], set()
    bare: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--debug" and rest and rest[0] in DEBUG:
            settings.append(f"debug={rest.pop(0)}")
        elif word in FLAGS or word in ("-h", "help"):
            flags.add("--help" if word in ("-h", "help") else word)
        elif word.startswith("--"):
            settings.append(_option(word, rest))
        elif "=" in word:
            settings.append(word)
        else:
            bare.append(word)
    verb = bare.pop(0) if bare and bare[0] in VERBS else "train"
    meant = dict(zip(SHORT, ("devices", VERBS[verb], VERBS[verb]), strict=True))
    settings = [_renamed(setting, meant) for setting in settings]
    named = [f"{VERBS[verb]}={_thing(word)}" for word in bare[:1]]
    if len(bare) > 1:
        raise UserError(
            f"{verb} takes one thing to work on, not {len(bare)}: {' '.join(bare)}.",
            remedy="Name one folder or file; give the rest as key=value.",
        )
    return Words(
        verb=verb,
        settings=(*named, *settings),
        json="--json" in flags,
        debug="--debug" in flags,
        help="--help" in flags,
    )


def package(folder: Path) -> str:
    """The name under which the modules of a model folder are imported: relative imports work, and two folders
    that both have a `train.py` don't meet."""
    if folder.parent == _PACKAGE / "model":
        return f"inflame.model.{folder.name}"
    from importlib.machinery import ModuleSpec
    from importlib.util import module_from_spec, spec_from_file_location

    slug = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in folder.name)
    name = f"inflame_model_{slug}"
    while name in sys.modules and list(sys.modules[name].__path__) != [str(folder)]:
        name += "_"
    if name not in sys.modules:
        init = folder / "__init__.py"
        spec = ModuleSpec(name, None, is_package=True)
        if init.is_file():
            spec = spec_from_file_location(name, init, submodule_search_locations=[]) or spec
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = module_from_spec(spec)
        if spec.loader is not None:
            spec.loader.exec_module(sys.modules[name])
    return name


def help_text(folder: Path) -> str:
    """What the folder is, how it is started, and its settings with their values and what is said about them."""
    head, rows = config.describe(folder)
    width = min(110, max(60, shutil.get_terminal_size().columns))
    given = [row for row in rows if row.value]
    others = [row for row in rows if not row.value]
    lines = [
        *([head, ""] if head else []),
        "python app.py [train|score] [DATA] [key=value …] [--in 60s] [--json] [--debug]",
        "",
        f"settings in {config.FILE}:",
        *_table([(f"{row.key}={row.value}", row.comment) for row in given], width),
        "",
        "other settings:",
        *_table([(row.key, row.comment) for row in others], width),
        "",
        "example: python app.py train in=60s seed=1",
        "Stopped or killed? The same command goes on. Exit codes: 0 done, 1 failed, 2 your input, 130 interrupted.",
    ]
    return "\n".join(lines) + "\n"


class _Stop:
    """Turns SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt in the main thread, and remembers which it was."""

    def __init__(self) -> None:
        self.signal = int(signal.SIGINT)
        self.caught = False
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup and shells mean it when they ignore one
                with contextlib.suppress(ValueError):  # not the main thread
                    self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker just goes
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if INSIDE in os.environ:
            from inflame.model.engine import many

            number = many.meant(number)
        again, self.caught, self.signal = self.caught, True, number
        if not again or number == signal.SIGINT:  # supervisors repeat SIGTERM: that must not disturb the saving
            raise KeyboardInterrupt


class _Interrupted(RunError):
    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted ({signal.Signals(number).name})", remedy=GO_ON)


def _obey(folder: Path, given: list[str]) -> int:
    words = understand(given)
    if words.help:
        if WARM in os.environ:  # many will be forked from this process: all that training imports
            config.load(folder, words.settings)
            _function(folder, words.verb)
        _print(help_text(folder))
        return 0
    settings = config.load(folder, words.settings)
    if settings.devices > 1:
        from inflame.model.engine import many

        if words.verb == "train" and (folder / "alone.py").is_file():
            many.refuse(_function(folder, "alone")(settings), settings.devices)
        if INSIDE not in os.environ:
            return many.run(folder / "app.py", given, settings.devices)
    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print: stdout has one JSON line
        result = _looked(folder, words, settings) if settings.debug else _function(folder, words.verb)(settings)
        result = _explained(result) if settings.explain and words.verb == "train" else result
    _print(_last_line(result, whole=words.json))
    return 0


def _looked(folder: Path, words: Words, settings: config.Settings) -> Any:
    """What a look at the training shows; a net that can't learn one batch is an error."""
    from inflame.model.engine import debug

    settings = debug.tiny(settings) if settings.debug == "tiny" else settings
    try:
        return _function(folder, words.verb)(settings)
    except debug.Seen as seen:
        if seen.result.get("learned") is False:
            raise RunError(
                f"{seen.result['steps']} steps on one batch of {seen.result['items']} items left the loss at "
                f"{seen.result['last_loss']:.3g}, with {seen.result['accuracy']:.0%} right.",
                remedy="Look at the labels, the loss, the learning rate, and what is frozen.",
            ) from None
        return seen.result


def _explained(result: Any) -> Any:
    """The result with `why` and `spent` of its run, which people see as a table."""
    from inflame.model.engine import reasons, session

    plain = result.to_json() if isinstance(result, Record) else result
    if not isinstance(plain, dict) or "run" not in plain:
        return result
    told = reasons.of(Path(plain["run"]))
    sys.stderr.write(reasons.table(told, session.since()))
    return {**plain, **told}


def _option(word: str, rest: list[str]) -> str:
    """`--in 60s`, `--in=60s`, `--fresh`: the same as `in=60s` and `fresh=true`."""
    name, equals, value = word[2:].partition("=")
    key = name.replace("-", "_")
    key = ALIASES["epochs"] if key == "epochs" else key
    if key not in COMMON and key not in SHORT and not key.startswith(("hyperparam.", "io.")):
        options = [*FLAGS, "--epochs", *(f"--{name}" for name in SHORT), *(f"--{name}" for name in COMMON)]
        guess = nearest(f"--{name}", options)
        remedy = f"Write {guess}, or see what there is: --help" if guess else "See what there is: --help"
        raise UserError(f"There is no option --{name}.{did_you_mean(f'--{name}', options)}", remedy=remedy)
    if not equals and key in COMMON and COMMON[key].kind == "yesno":
        return f"{key}=true"
    if not equals and not rest:
        raise UserError(f"--{name} needs a value.", remedy=f"For example: --{name} {_example(key)}")
    return f"{key}={value if equals else rest.pop(0)}"


def _renamed(setting: str, meant: dict[str, str]) -> str:
    key, equals, value = setting.partition("=")
    return f"{meant.get(key, key)}{equals}{value}"


def _example(key: str) -> str:
    return COMMON[key].example() if key in COMMON else "VALUE"


def _thing(word: str) -> str:
    """A word that is no verb must be a path or the name of a data set."""
    if os.path.lexists(Path(word).expanduser()) or "/" in word or word in SEAMS["source"]:
        return word
    options = (*VERBS, *SEAMS["source"])
    raise UserError(
        f'"{word}" is no verb, no file or folder here, and no data set.{did_you_mean(word, options)}',
        remedy="python app.py [train|score] [DATA] [key=value …]; --help says more",
    )


def _function(folder: Path, verb: str) -> Any:
    """The function that the folder's module of that name has."""
    from importlib import import_module

    if not (folder / f"{verb}.py").is_file():
        raise DataError(
            f"This model folder has no {verb}.py.", where=str(folder), remedy=f"Write one, with {verb}(settings)."
        )
    module = import_module(f"{package(folder)}.{verb}")
    if not callable(getattr(module, verb, None)):
        raise DataError(
            f"{verb}.py has no function {verb}(settings).", where=str(folder / f"{verb}.py"), remedy="Define it."
        )
    return getattr(module, verb)


def _missing(error: ModuleNotFoundError, folder: Path, where: str) -> UserError:
    name = error.name or str(error)
    top = name.partition(".")[0]
    if top == package(folder).partition(".")[0]:
        return DataError(
            f"There is no module {name.rpartition('.')[2]} here.", where=where, remedy="Correct the import."
        )
    return MissingExtra(
        f"{folder.name} needs the package {top}, which isn't installed.",
        extra="train" if top in _TRAIN_EXTRA else "",
        remedy="" if top in _TRAIN_EXTRA else f"Install what provides it, often: pip install {top}",
        where=where,
    )


def _named(error: Exception, folder: Path) -> InflameError:
    """Any error as one of ours, with the best remedy there is."""
    if isinstance(error, InflameError):
        return error
    text = f"{type(error).__name__}: {error}"
    where = _place(error, folder)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "inflame").startswith("inflame."):
        return _missing(error, folder, where)
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return RunError(
            "There is too little memory.",
            where=where,
            remedy="Take smaller batches (hyperparam.batch_size=…) or limit=N.",
        )
    if isinstance(error, OSError) and store.is_storage(error):
        known = store.storage_error(error, error.filename or "a file")
        return StorageError(known.message, where=str(error.filename or where), remedy=known.remedy)
    return RunError(
        text,
        where=where,
        remedy=f"Add --debug to see the whole story. What is done is kept: {GO_ON[0].lower()}{GO_ON[1:]}",
    )


def _place(error: BaseException, folder: Path) -> str:
    """The line that matters most: the last one in the model folder, else in inflame, else the last."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    for home in (folder, _PACKAGE):
        inside = [frame for frame in frames if home in frame[0].parents and frame[0] != Path(__file__)]
        if inside:
            return f"{inside[-1][0]}:{inside[-1][1]}"
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""


def _tell(error: InflameError, words: Sequence[str], *, code: int) -> int:
    """The message for people on stderr, for programs (`--json`) on stdout as well. Returns the code."""
    with contextlib.suppress(OSError, ValueError):
        if "--debug" in words:
            traceback.print_exc(file=sys.stderr)
        sys.stderr.write(error.explain() + "\n")
        sys.stderr.flush()
    if "--json" in words:
        with contextlib.suppress(OSError, ValueError):
            _print(_json(error.to_json()))
    return code


def _left(done: SystemExit) -> int:
    """The code of a model's own `sys.exit`; words in it go to stderr, as Python does."""
    if done.code is None or isinstance(done.code, int):
        return done.code or 0
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{done.code}\n")
    return 1


def _last_line(result: Any, *, whole: bool) -> str:
    """The result as one line of JSON: all of it, or the label and probability of its sample prediction."""
    plain = result.to_json() if isinstance(result, Record) else result
    prediction = plain.get("prediction") if isinstance(plain, dict) else None
    if whole or not isinstance(prediction, dict):
        return _json(plain)
    probability = prediction.get("probability")
    text = f"{probability:.4f}" if isinstance(probability, (int, float)) else str(probability)
    return _json({"label": str(prediction.get("label")), "probability": text})


def _json(value: Any) -> str:
    def plain(item: Any) -> Any:
        if isinstance(item, Record):
            return item.to_json()
        return item.item() if hasattr(item, "item") else str(item)

    text = json.dumps(value, ensure_ascii=False, default=plain)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, default=plain)
    return text + "\n"


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Two columns; the second one wraps."""
    left = min(44, max((len(name) for name, _ in rows), default=0)) + 2
    lines = []
    for name, comment in rows:
        first, *more = textwrap.wrap(comment, max(20, width - left - 2)) or [""]
        lines.append(f"  {name:<{left}}{first}".rstrip())
        lines += [" " * (left + 2) + line for line in more]
    return lines
