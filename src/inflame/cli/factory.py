"""The verbs of many runs: sweep, ablate."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.cli import pools
from inflame.cli.show import as_json, table
from inflame.cli.train import divided, target
from inflame.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.config.axes import Axis
    from inflame.factory.ablate import Part
    from inflame.factory.trials import Sweep, Trial
    from inflame.factory.working import Glance

_SHOWN = 25  # trials in the table at the end


# --- sweep ---------------------------------------------------------------------------------------


def sweep_words(parser: Parser) -> None:
    """What is trained, what is varied, and how long."""
    parser.usage = "inflame sweep MODEL|DATA key=a,b,c key=range(…) … [--in TIME] [--trials N]"
    parser.description = (
        "Try many settings, stop the hopeless early, and show what came of it. Values are written\n"
        "  key=a,b,c   key=range(0,10,2)   key=interval(0,1)   key=range(1e-4,1e-2,log)\n"
        "Every key and value is checked before anything starts. The time is that of the whole sweep; in=60s\n"
        "is that of one trial. What was run before with the same settings, data and code is not run again.\n"
        "Stopped or killed? The same command goes on; no trial is lost or run twice.\n"
        "With --output each trial is a job of a place, as `inflame launch` sends it: packed once for all,\n"
        "watched, stopped early, paid within --max-money, its run folder brought here."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame sweep mnist 'hyperparam.learning_rate=range(1e-3,1e-1,log)' --in 10m\n"
        "  inflame sweep photos/ 'seed=range(0,5)' in=60s\n"
        "  inflame sweep mnist hyperparam.shift=0,1,2 hyperparam.ema=0,0.998 in=20s --objective val.low\n"
        "  inflame sweep mnist 'hyperparam.batch_size=range(16,512,log)' in=20s --trials 30 \\\n"
        "      --objective val.accuracy,seconds\n"
        "  inflame sweep mnist --space lr --in 30m      conf/sweep/lr.yaml: a line `key: values` for each\n"
        "  inflame sweep ./my_birds 'hyperparam.learning_rate=range(1e-4,1e-2,log)' in=30m --on sagemaker \\\n"
        "      --machine gpu-small --output s3://bucket/inflame --workers 4 --max-money 20"
    )
    parser.takes_settings = True
    add = parser.add_argument
    add("words", nargs="*", metavar="MODEL|DATA", help="what to train; settings, with one value or several")
    add("--in", dest="budget", metavar="TIME", help="time of the whole sweep: 10m, 2h")
    add("--trials", type=int, metavar="N", help="at most so many points")
    add(
        "--objective",
        metavar="NAME",
        default="val.accuracy",
        help="val.accuracy (default), val_loss, latency_ms … or two: a,b",
    )
    add("--sampler", metavar="NAME", default="", help="grid, random, qmc, tpe, gp, nsga (default: what suits)")
    add("--space", metavar="FILE", help="values from a YAML file, or of conf/sweep/FILE.yaml")
    add("--name", metavar="NAME", default="", help="name of the sweep (default: model and data)")
    add("--no-stopping", action="store_true", help="every trial runs to its end")
    add("--stopping", action="store_true", help="trials compete for time also where they wouldn't: in a grid")
    add("--hang", metavar="TIME", default="5m", help="a trial that says nothing for so long has failed (5m)")
    add("--storage", metavar="URI", default="", help="journal in a database: sqlite:///…, postgresql+psycopg://…")
    add("--sampler-seed", type=int, metavar="N", default=0, help="other points with another N (default: 0)")
    pools.add_words(parser)


def sweep(words: Namespace) -> int:
    """Prints the trials, and what to type next; 1 when none came to its end."""
    from inflame.factory import sweep as planning

    wished = _wish(words)
    planned, axes = planning.plan(wished)
    made, found = _driven(planned, axes, words)
    _report(made, found, whole=words.json)
    return 0 if any(trial.state == "done" for trial in found) else 1


def _driven(planned: Sweep, axes: Sequence[Axis], words: Namespace) -> tuple[Sweep, list[Trial]]:
    """The sweep in its folder, and its trials when all is done."""
    from inflame.factory import sweep as planning
    from inflame.factory.drive import drive

    planned, plan = pools.planned(planned, axes)
    made = planning.begin(planned)
    pool = pools.opened(made, plan, words, axes)
    _announce(made)
    with contextlib.redirect_stdout(sys.stderr), contextlib.closing(pool), _Line(made) as line:  # a cluster prints
        return made, drive(made, axes, pool, line)


# --- ablate --------------------------------------------------------------------------------------


def ablate_words(parser: Parser) -> None:
    """The recipe, how many seeds, and for how long."""
    parser.usage = "inflame ablate MODEL|DATA [key=value …] [--seeds N] [--in TIME]"
    parser.description = (
        "Switch every part of a recipe off in turn (weight decay, label smoothing, shifts …),\n"
        "each with several seeds, and say which earn their place: the mean difference over the seeds with\n"
        "its 95 % interval, corrected for asking about many parts at once (Holm). What was run before is\n"
        "not run again: the same command with more --seeds goes on."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame ablate mnist in=20s --seeds 5\n"
        "  inflame ablate photos/ --in 1h\n"
        "  inflame ablate my_model/ --off hyperparam.width=8"
    )
    parser.takes_settings = True
    add = parser.add_argument
    add("words", nargs="*", metavar="MODEL|DATA", help="the recipe; settings as key=value")
    add("--seeds", type=int, metavar="N", default=5, help="runs of each recipe (default: 5)")
    add("--in", dest="budget", metavar="TIME", help="time of all runs together: 30m, 2h")
    add("--off", action="append", metavar="KEY=VALUE", default=[], help="a part, and the value that switches it off")
    add("--objective", metavar="NAME", default="val.accuracy", help="what is compared (default: val.accuracy)")
    add("--name", metavar="NAME", default="", help="name of the sweep that this is (default: model and data)")
    add("--hang", metavar="TIME", default="5m", help="a run that says nothing for so long has failed (5m)")
    add("--storage", metavar="URI", default="", help="journal in a database: sqlite:///…, postgresql+psycopg://…")
    pools.add_words(parser)


def ablate(words: Namespace) -> int:
    """Prints a row for each part; 1 when no run came to its end."""
    from inflame.factory import ablate as parts

    made, found = _driven(*parts.plan(_wish(words, "ablate"), words.seeds, words.off), words)
    whole, judged = parts.parts(made, found)
    if words.json:
        rows = [part.to_json() for part in judged]
        print(as_json({"sweep": made.name, "folder": made.folder, "whole": whole, "parts": rows}))
        return 0 if judged else 1
    head = ("part", "on", "off", f"{made.objectives[0]} without", "gain", "95 % interval", "p (Holm)", "verdict")
    print(table(head, [_part_row(part) for part in judged]))
    _say(f"whole    {made.objectives[0]} {whole:.4f}, mean of {words.seeds} seeds; gain: with the part less without it")
    failed = [trial for trial in found if trial.state == "failed"]
    if failed:
        _say(f"failed   {len(failed)} of {len(found)} runs; the last one: {failed[-1].reason}")
    _say(f"next     inflame board --sweep {made.name}")
    return 0 if judged else 1


def _part_row(part: Part) -> tuple[object, ...]:
    more = f": about {part.more} seeds would" if part.verdict == "can't tell" and part.more else ""
    interval = f"{part.low:+.4f} to {part.high:+.4f}"
    shown = _shown(part.on), _shown(part.off), f"{part.without:.4f}", f"{part.gain:+.4f}", interval, f"{part.p:.3f}"
    return (part.key, *shown, part.verdict + more)


# --- what both need ------------------------------------------------------------------------------


def _wish(words: Namespace, verb: str = "sweep") -> Any:
    from inflame.config import parse_duration
    from inflame.config.axes import from_file
    from inflame.factory.sweep import Wish, space_file

    targets, settings = divided(words.words)
    if len(targets) != 1:
        found = "nothing" if not targets else " and ".join(targets)
        raise UserError(
            f"inflame {verb} takes one thing to train, and got {found}.",
            remedy=f"inflame {verb} mnist …; see {verb} --help for examples",
        )
    folder, given = target(targets[0])
    told = from_file(space_file(words.space, folder)) if getattr(words, "space", None) else []
    job = pools.job(words, Path(folder))
    stopping = True if getattr(words, "stopping", False) else False if getattr(words, "no_stopping", True) else None
    return Wish(
        model=Path(folder),
        words=(*told, *given, *settings),
        objective=words.objective,
        sampler=getattr(words, "sampler", ""),
        name=words.name,
        budget=_budget(words, paid=job is None),
        most=getattr(words, "trials", None),
        workers=words.workers or (pools.AT_ONCE if job and words.on != "local" else 0),
        where=words.on,
        job=job,
        price=words.price,
        max_money=words.max_money if job else None,
        stopping=stopping,
        storage=words.storage,
        hang=parse_duration(words.hang),
        seed=getattr(words, "sampler_seed", 0),
    )


def _budget(words: Namespace, *, paid: bool) -> float | None:
    """Seconds: the time that was given, and (paid: of this machine) that which the money buys, whichever is less."""
    from inflame.config import parse_duration

    seconds: float | None = parse_duration(words.budget) if words.budget else None
    for name, value in (("--max-money", words.max_money), ("--price", words.price)):
        if value is not None and not value > 0:
            raise UserError(f"{name} takes US dollars, more than 0, not {value:g}.", where=name, remedy=f"{name} 5")
    if words.max_money is None or not paid:
        return seconds
    if words.price is None:
        raise UserError("--max-money needs the price of an hour of this machine.", remedy="--max-money 5 --price 0.90")
    money = 3600.0 * float(words.max_money) / float(words.price)
    return money if seconds is None else min(seconds, money)


def _announce(made: Sweep) -> None:
    """What is going to happen, in a line or two, for people."""
    per = (
        f"{', '.join(f'{rung:g}' for rung in made.rungs)} {made.unit}" if made.rungs else "as long as the recipe takes"
    )
    until = [f"{made.budget:g} s" if made.budget else "", f"{made.most} trials" if made.most else ""]
    until += [f"${made.max_money:g}" if made.max_money else ""]
    price = f" at ${made.price:g} an hour" if made.price else ""
    where = f" on {made.where}{price}" if made.where != "local" else ""
    _say(f"sweep    {made.folder}")
    _say(f"plan     {made.sampler} over {', '.join(made.space)}; {made.workers} at a time{where}; a trial: {per}")
    end = " or ".join(filter(None, until)) or "the grid is filled"
    _say(f"until    {end}; objective {' and '.join(made.objectives)}")


class _Line:
    """One line that tells how it stands: on a terminal again and again, in a log when a trial has ended."""

    def __init__(self, made: Sweep) -> None:
        self._made = made
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._ended: set[int] = set()
        self._said = 0.0

    def __enter__(self) -> Callable[[Glance], None]:
        return self.show

    def __exit__(self, *error: object) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def show(self, glance: Glance) -> None:
        """Writes the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K" + _standing(self._made, glance)[: _columns()])
            sys.stderr.flush()
            return
        ended = {trial.number for trial in glance.trials if trial.ended}
        if ended - self._ended and time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            _say(_standing(self._made, glance))
        self._ended = ended


def _standing(made: Sweep, glance: Glance) -> str:
    from inflame.factory.results import ranked

    counts = {
        state: sum(1 for trial in glance.trials if trial.state == state) for state in ("done", "stopped", "failed")
    }
    waiting = sum(1 for trial in glance.trials if trial.state == "waiting" and trial.values)
    parts = [f"{counts['done']} done", f"{len(glance.working)} at work"]
    parts += [f"{waiting} waiting"] if waiting else []
    parts += [f"{counts[state]} {state}" for state in ("stopped", "failed") if counts[state]]
    known = [trial for trial in ranked(made, glance.trials) if trial.values]
    top = f" · best {known[0].values[0]:.4f} (#{known[0].number})" if known else ""
    money = f" · ${glance.money:.2f}" if glance.money else ""
    return f"trials   {', '.join(parts)}{top} · {glance.seconds:.0f} s{money}"


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1


def _report(made: Sweep, found: Sequence[Trial], *, whole: bool) -> None:
    """The trials, the best first, and what to type next."""
    from inflame.factory.results import best, ranked

    order = ranked(made, found)
    top = best(made, found)
    bills = [trial.cost for trial in found if trial.cost is not None]
    cost = round(sum(bills), 4) if bills else None
    if whole:
        plain = {"sweep": made.name, "folder": made.folder, "objectives": list(made.objectives), "cost": cost}
        print(as_json({**plain, "best": [one.to_json() for one in top], "trials": [one.to_json() for one in found]}))
        return
    print(_table(made, order[:_SHOWN]))
    if len(order) > _SHOWN:
        print(f"… and {len(order) - _SHOWN} more")
    _say(f"tried    {len(found)} points in {made.seconds:.0f} s: " + _counted(found))
    if cost is not None:
        _say(f"cost     ${cost:.2f}, at ${made.price:g} for an hour of a machine at work")
    if set(made.space) == {"seed"}:
        _say(_seeds(made, found))
    elif len(made.objectives) > 1:
        _say(f"front    {', '.join(f'#{one.number}' for one in top)}: none of the others is better in both")
    elif top:
        _say(f"best     #{top[0].number} of {len(found)} tried: {_settings(top[0])}")
    _say(f"next     inflame why {made.name}   inflame board --sweep {made.name}")


def _seeds(made: Sweep, found: Sequence[Trial]) -> str:
    """Seeds are not chosen among: their mean and spread."""
    import statistics

    values = [trial.values[0] for trial in found if trial.state == "done"]
    spread = f", standard deviation {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    mean = f"{statistics.fmean(values):.4f}" if values else "unknown"
    return f"mean     {made.objectives[0]} {mean}{spread}, {len(values)} seeds"


def _table(made: Sweep, order: Sequence[Trial]) -> str:
    head = (
        "trial",
        *(key.removeprefix("hyperparam.") for key in made.space),
        *made.objectives,
        "for",
        "s",
        "state",
        "",
    )
    rows = []
    for trial in order:
        values = [f"{value:.4f}" for value in trial.values] or ["-"] * len(made.objectives)
        budget = f"{trial.budget:g} {made.unit}" if trial.budget else "-"
        settings = [_shown(trial.settings.get(key)) for key in made.space]
        rows.append((trial.number, *settings, *values, budget, f"{trial.seconds:.1f}", trial.state, trial.reason))
    return table(head, rows)


def _counted(found: Sequence[Trial]) -> str:
    states = [trial.state for trial in found]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _settings(trial: Trial) -> str:
    return " ".join(f"{key}={_shown(value)}" for key, value in trial.settings.items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
