"""The verbs that read many runs: board, compare, why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame.cli.show import as_json, table
from inflame.errors import DataError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.factory.board import Board, Entry, Table
    from inflame.factory.compare import Comparison
    from inflame.factory.why import Why

ROWS = 2000  # of a table of the page
SETTINGS = 6  # in which runs differ, shown in the terminal
_CROSS = {"both": "right in both", "only_a": "only in A", "only_b": "only in B", "neither": "wrong in both"}
_CONDITION = ("=", "<", ">", " LIKE ", " IN ", " IS ", " BETWEEN ")


# --- board -----------------------------------------------------------------------------------------


def board_words(parser: Parser) -> None:
    """Which runs, by what, and where to write them."""
    parser.usage = "inflame board [WHERE …] [--data NAME] [--sweep NAME] [--by SCORE] [--html FILE] [--open]"
    parser.description = (
        "Rank runs that were judged on the same items; seeds of one recipe are put together. Runs that\n"
        "can't be told apart share a rank (paired tests, Holm's correction), and the board says how many\n"
        "more items or seeds would tell. The best of many is chosen, so what to expect of it is said too.\n"
        "WHERE is a run, a name with *, a folder of runs, or a condition (see inflame runs).\n"
        "A SCORE is test or val with accuracy, log_loss, macro_f1 or balanced_accuracy.\n"
        "Prices and watts are assumptions: put yours into costs.toml in the home of inflame."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame board\n"
        "  inflame board 'mnist-*' --by test.macro_f1 --html board.html --open\n"
        "  inflame board \"settings->>'$.hyperparam.batch_size' = 64\" --data fashion-mnist\n"
        "  inflame board --sweep mnist-001 --parquet runs.parquet"
    )
    parser.add_argument("where", nargs="*", metavar="WHERE", help="runs, NAME*, folders of runs, conditions")
    parser.add_argument("--sweep", metavar="NAME", help="the trials of this sweep")
    parser.add_argument("--data", metavar="NAME", help="runs on this data set")
    parser.add_argument("--by", metavar="SCORE", default="test.accuracy", help="the score (default: test.accuracy)")
    parser.add_argument("--each", action="store_true", help="each run for itself, seeds are not put together")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="show and test the best N (default: 20)")
    parser.add_argument("--html", metavar="FILE", help="write it as a page")
    parser.add_argument("--csv", metavar="FILE", help="write every entry as a row")
    parser.add_argument("--parquet", metavar="FILE", help="the same as Parquet")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def board(words: Namespace) -> int:
    """Prints the leaderboard, and writes it where wanted."""
    if not 2 <= words.top <= 200:
        raise UserError(f"--top takes a number from 2 to 200, not {words.top}.", remedy="--top 20")
    from inflame.factory import board as ranking

    ranking.measured(words.by)
    rows, tried = _chosen(words)
    found = ranking.board(rows, by=words.by, top=words.top, each=words.each, tried=tried)
    page = words.html or ("board.html" if words.open else None)
    if page:
        _write_page(found, Path(page))
    for name in filter(None, (words.csv, words.parquet)):
        _write_rows(found, Path(name), parquet=name == words.parquet)
    if words.json:
        print(as_json(found.to_json()))
    else:
        print("\n\n".join(_told(part, found, words.top) for part in found.tables) or _nothing(words, rows))
        if found.tables:
            print(f"\n{_spent(found)}")
    for name in filter(None, (page, words.csv, words.parquet)):
        print(f"wrote {name}", file=sys.stderr)
    if words.open:
        import webbrowser

        webbrowser.open(Path(page or "").resolve().as_uri())
    return 0


def _chosen(words: Namespace) -> tuple[list[dict[str, Any]], int | None]:
    """The rows of the index that the words mean, and how many trials there were where that is known better."""
    from inflame.factory.board import select

    conditions = [word for word in words.where if any(sign in f" {word.upper()} " for sign in _CONDITION)]
    if words.data:
        conditions.append("dataset = '{}'".format(words.data.replace("'", "''")))
    names, tried = [word for word in words.where if word not in conditions], None
    wanted: list[str] | None = None
    if words.sweep:
        from inflame.factory import folder, trials

        made = trials.trials(trials.find(words.sweep))
        wanted, tried = [str(folder.of_trial(trial.run)) for trial in made if trial.run], len(made)
    rows = select(wanted, " AND ".join(f"({condition})" for condition in conditions), words.by)
    if words.data and not rows:
        known = sorted({str(row["dataset"]) for row in select(wanted, "", words.by) if row["dataset"]})
        if words.data not in known:
            raise DataError(
                f'No run is on "{words.data}".{did_you_mean(words.data, known)}',
                remedy=f"Use one of: {', '.join(known) or '(no run yet)'}",
            )
    return (_named(rows, names) if names else rows), tried


def _named(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Those that the names mean: each must mean one at least."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        path = Path(name).expanduser().resolve()
        mine = [
            row
            for row in rows
            if fnmatch(row["name"], name) or Path(row["folder"]) == path or path in Path(row["folder"]).parents
        ]
        if not mine:
            known = [row["name"] for row in rows]
            raise DataError(
                f'"{name}" is no run, no folder of runs and no condition.{did_you_mean(name, known)}',
                where=str(path),
                remedy="See the runs there are: inflame runs",
            )
        found |= {row["folder"]: row for row in mine}
    return list(found.values())


def _told(part: Table, whole: Board, top: int) -> str:
    """A table in words for a terminal."""
    from inflame.factory.page import money

    kind, metric = whole.by.split(".") if "." in whole.by else ("test", whole.by)
    sets = f"{len(part.items)} sets of " if len(part.items) > 1 else ""
    missing = f", {part.unscored:,} of them without a result" if part.unscored else ""
    runs = f"{part.tried:,} run{'s' if part.tried > 1 else ''} tried{missing}"
    head = f"{part.dataset}: {sets}{part.n or '?'} {kind} items, {runs}"
    shown = part.entries[:top]
    names = list(shown[0].settings)[:SETTINGS]
    models = len({entry.model for entry in shown}) > 1
    columns = ["rank", "run", *(["model"] if models else []), metric.replace("_", " "), "seeds", *map(_short, names)]
    cells = [
        ["–" if entry.rank is None else entry.rank, entry.name, *([entry.model] if models else [])]
        + [_score(entry), len(entry.runs)]
        + [_setting(entry.settings.get(name)) for name in names]
        + [f"{entry.cost['cpu_s']:.0f}", money(entry.cost["money"]), entry.version[:8], _code(entry)]
        for entry in shown
    ]
    lines = [head, table([*columns, "CPU s", whole.assumed["currency"], "data", "code"], cells)]
    rest = len(part.entries) - len(shown)
    if rest:
        lines.append(f"and {rest:,} more, not tested against these: --top N, or --csv FILE for all")
    return "\n".join([*lines, *_remarks(part, kind)])


def _remarks(part: Table, kind: str) -> list[str]:
    lines = []
    best, tied = part.entries[0], sum(entry.rank == 1 for entry in part.entries)
    if part.expected is not None and part.tried > 1 and f"{part.expected:.4f}" != f"{best.value:.4f}":
        lines.append(
            f"best     of {part.tried:,}, chosen on these items: its {best.value:.4f} is flattered, on others expect "
            f"about {part.expected:.4f}"
        )
    elif part.tried > 1:
        more = ": its test score says what to expect" if kind == "val" else ""
        lines.append(f"best     of {part.tried:,}, chosen on these items, so flattered{more}")
    if tied > 1:
        lines.append(f"tied     {tied} share rank 1" + (f"; of the first two: {part.advice}" if part.advice else ""))
    if part.note:
        lines.append(f"note     {part.note}")
    return lines


def _score(entry: Entry) -> str:
    bounds = "" if entry.low is None or entry.high is None else f" ({entry.low:.3f}–{entry.high:.3f})"
    return f"{entry.value:.4f}{bounds}"


def _short(name: str) -> str:
    return name.removeprefix("hyperparam.").removeprefix("io.")


def _setting(value: Any) -> str:
    return "–" if value is None or value == "" else f"{value:.4g}" if isinstance(value, float) else str(value)


def _code(entry: Entry) -> str:
    return entry.code[0] if len(entry.code) == 1 else f"{len(entry.code)} versions" if entry.code else "–"


def _spent(found: Board) -> str:
    from inflame.factory.costs import Costs
    from inflame.factory.page import energy, money

    cost, prices = found.cost, Costs.from_json(found.assumed)
    gpu = f", {cost['gpu_s']:,.0f} GPU-s" if cost["gpu_s"] else ""
    return (
        f"cost     {cost['cpu_s']:,.0f} CPU-s{gpu}, {cost['wall_s']:,.0f} s of wall time: "
        f"{money(cost['money'])} {prices.currency} and {energy(cost['energy_wh'])}; {prices.said()}"
    )


def _nothing(words: Namespace, rows: Sequence[Any]) -> str:
    if rows:
        return f"none of these {len(rows):,} runs has {words.by} yet"
    wanted = words.where or words.data or words.sweep
    return "no such runs" if wanted else "no runs yet; begin with: inflame train photos/ --in 60s"


def _write_page(found: Board, path: Path) -> None:
    from inflame import store
    from inflame.factory import page
    from inflame.factory.costs import Costs

    said = Costs.from_json(found.assumed).said()
    store.write(path, page.render("board", board=found, most=ROWS, assumed=said))


def _write_rows(found: Board, path: Path, *, parquet: bool) -> None:
    """Every entry of every table as a row."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from inflame import store

    rows = [
        {
            "dataset": part.dataset,
            "by": found.by,
            "tried": part.tried,
            **{name: value for name, value in entry.to_json().items() if name not in ("cost", "runs", "seeds", "code")},
            **entry.cost,
            "runs": len(entry.runs),
            **{
                name: " ".join(map(str, getattr(entry, name)))
                for name in ("folders", "items", "seeds", "code", "values")
            },
            "settings": json.dumps(entry.settings),
        }
        for part in found.tables
        for entry in part.entries
    ]
    flat = pa.Table.from_pylist(rows)
    with store.atomic(path) as temporary:
        if parquet:
            pa.parquet.write_table(flat, temporary)
        else:
            pa.csv.write_csv(flat, temporary)


# --- compare ---------------------------------------------------------------------------------------


def compare_words(parser: Parser) -> None:
    """The two sides."""
    parser.usage = "inflame compare A B [--by SCORE] [--html FILE] [--open]"
    parser.description = (
        "Say whether B is better than A, by how much, and how sure that is: settings, scores with\n"
        "intervals, what one gets right and the other wrong (with pictures), curves, on one page.\n"
        "A and B are runs, several runs of a recipe with commas between them, or a sweep over seeds. They\n"
        "must have been judged on the same items."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame compare mnist-digits-001 auto-digits-003 --open\n"
        "  inflame compare a-001,a-002,a-003 b-001,b-002,b-003 --by log_loss"
    )
    parser.add_argument("a", metavar="A", help="a run, runs with commas between, or a sweep")
    parser.add_argument("b", metavar="B", help="what it is compared with")
    parser.add_argument("--by", metavar="SCORE", default="accuracy", help="the score that decides (default: accuracy)")
    parser.add_argument("--html", metavar="FILE", help="the page (default: compare.html in the folder of B)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def compare(words: Namespace) -> int:
    """Prints the verdict and writes the page."""
    from inflame import store
    from inflame.factory import compare as comparing

    found = comparing.compare(words.a, words.b, words.by)
    page = Path(words.html) if words.html else Path(found.b.folders[0]) / "compare.html"
    store.write(page, comparing.html(found, **_shown()))
    if words.json:
        print(as_json({**found.to_json(), "page": str(page)}))
    else:
        print(_compared(found))
        print(f"page     {page}")
    if words.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def _shown() -> dict[str, Any]:
    """How items are shown: the factory knows no data."""
    from inflame.artifact.contents import Contents
    from inflame.model.engine.report import snippet, thumbnail

    sources: dict[str, Contents] = {}
    return {
        "thumbnail": thumbnail,
        "snippet": lambda root, uri: snippet(sources.setdefault(root, Contents(root)), uri),
    }


def _compared(found: Comparison) -> str:
    a, b = found.a, found.b
    lines = [found.sentence, "", f"A {a.name}, B {b.name}: the same {found.main.items:,} {found.part} {found.thing}"]
    rows = [
        [
            one.metric.replace("_", " "),
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.difference.value:+.4f}",
            f"{one.difference.low:+.4f} to {one.difference.high:+.4f}",
            f"{one.difference.p:.2g}",
            {"untold": "can't be told", "better": "B", "worse": "A"}[one.verdict],
        ]
        for one in found.verdicts
    ]
    lines.append(table(("score", "A", "B", "B - A", "95 %", "p", "better"), rows))
    lines += ["", f"how      {found.main.how}"]
    lines += [f"note     {side.name}: {side.note}" for side in (a, b) if side.note]
    both = [row for row in found.settings if None not in row]
    lines += ["", table(("differs", "A", "B"), both)] if both else []
    for side, place in (("A", 1), ("B", 2)):
        only = [_short(row[0]) for row in found.settings if row[place] is not None and None in row]
        lines += [f"only {side}   {', '.join(only)}"] if only else []
    counts = found.items
    told = [f"{counts[key]:,} {name}" for key, name in _CROSS.items()]
    lines += ["", f"items    {', '.join(told)}"]
    spent = [f"{side.cost['cpu_s']:,.0f} CPU-s in {side.cost['wall_s']:,.0f} s" for side in (a, b)]
    lines.append(f"cost     A {spent[0]}, B {spent[1]}")
    return "\n".join(lines)


# --- why -------------------------------------------------------------------------------------------


def why_words(parser: Parser) -> None:
    """The sweep."""
    parser.usage = "inflame why SWEEP [--by OBJECTIVE] [--html FILE] [--open]"
    parser.description = (
        "Say which settings of a sweep mattered and where the best trials have them: permutation importance\n"
        "of a random forest, judged on trials that it hasn't seen. The page draws all trials as lines across\n"
        "their settings, to be filtered by hand, and the score against each setting."
    )
    parser.epilog = "examples:\n  inflame why mnist-digits-001 --open\n  inflame why mnist-digits --by latency_ms"
    parser.add_argument("sweep", metavar="SWEEP", help="a sweep, or its folder")
    parser.add_argument("--by", metavar="OBJECTIVE", default="", help="one of its objectives (default: the first)")
    parser.add_argument("--html", metavar="FILE", help="the page (default: why.html in the folder of the sweep)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def why(words: Namespace) -> int:
    """Prints the importances and writes the page."""
    from inflame import store
    from inflame.factory import trials
    from inflame.factory import why as reasons

    sweep = trials.find(words.sweep)
    found = reasons.why(sweep, trials.trials(sweep), words.by)
    page = Path(words.html) if words.html else sweep.path / "why.html"
    store.write(page, reasons.html(found))
    if words.json:
        print(as_json({**found.to_json(), "page": str(page)}))
    else:
        print(_mattered(found))
        print(f"page     {page}")
    if words.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0


def _mattered(found: Why) -> str:
    lines = [f"{found.sweep}: {found.scored} of {len(found.points)} trials have {found.objective} ({found.direction})"]
    if found.predicted is not None:
        lines.append(f"the settings predict {100 * found.predicted:.0f} % of its spread among unseen trials")
    rows = [
        [
            _short(param.name),
            "–" if param.importance is None else f"{param.importance:.2f} ± {param.error:.2f}",
            param.best or "–",
        ]
        for param in found.params
    ]
    lines.append(table(("setting", "importance", "where it was best"), rows) if rows else "no setting was varied")
    return "\n".join([*lines, f"how      {found.method}", *([f"note     {found.note}"] if found.note else [])])
