"""What a pull request for a better model has in it: models/NAME.json, the report, and a text with the numbers.

    python3 deploy/propose.py RUN --name NAME --verdict verdict.json --champions champions --run-uri gs://… --out FOLDER

RUN is the folder of a run that `inflame promote` took for better, `verdict.json` what that said. It needs nothing of
inflame. models/NAME.json names the run in the bucket; the workflow `deploy` puts to work what it names.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MOST = 1_000_000  # bytes of a report that goes into the repository
CLASSES = 15  # of a matrix that can be read
PAIRS = 10  # of classes that are mistaken, where there are more


def facts(run: Path, verdict: dict[str, Any], uri: str) -> dict[str, Any]:
    """What models/NAME.json says: how good it is, where it lies, and all that it came from."""
    status, config, data = (_read(run / f"{name}.json") for name in ("status", "config", "dataset"))
    keep = ("model", "seed", "budget", "limit", "weights", "net", "hyperparam")
    return {
        "model": status["model"],
        "dataset": status["dataset"],
        "run": uri,
        "bundle": f"{uri}/bundle",
        "test": status["test"],
        "why": verdict["why"],
        "from": {
            "how": status.get("how", ""),
            "code": status.get("code", ""),
            "data": data["version"],
            "items": data["items"],
            "classes": len(data["classes"]),
            **{name: config[name] for name in keep if name in config},
        },
    }


def body(
    new: dict[str, Any], old: dict[str, Any], verdict: dict[str, Any], report: dict[str, Any], champion: Any
) -> str:
    """The text of the pull request, in Markdown."""
    parts = [f"Why: {verdict['why']}.", _numbers(new, verdict, champion), "## What changed", _changes(new, old)]
    return "\n\n".join([*parts, "## Where it is wrong", _wrong(report)]) + "\n"


def _numbers(new: dict[str, Any], verdict: dict[str, Any], champion: dict[str, Any]) -> str:
    rows = [("new", verdict["run"], _accuracy(new["test"]), new["test"]["n"])]
    if champion:
        rows.insert(0, ("champion", champion["run"], _accuracy(champion), champion["n"]))
    told = _table(("", "run", "test accuracy (95 % interval)", "items"), rows)
    difference = verdict["evidence"].get("difference")
    if difference:
        value, low, high = (f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high"))
        told += f"\n\nOn the same test items: {value} points ({low} to {high}), p = {difference['p']:.2g}"
        told += f" ({verdict['evidence']['how']})."
    return told


def _accuracy(test: dict[str, Any]) -> str:
    return f"{100 * test['accuracy']:.1f} % ({100 * test['low']:.1f} to {100 * test['high']:.1f})"


def _changes(new: dict[str, Any], old: dict[str, Any]) -> str:
    before, now = (dict(_flat(one.get("from", {}))) for one in (old, new))
    if not before:
        rows = [(name, value) for name, value in now.items() if not name.startswith("hyperparam.")]
        return "It is the first of its name here. It comes from:\n\n" + _table(("", "now"), rows)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return "Nothing that is noted: the same data, code and settings."
    return _table(("", "before", "now"), [(name, before.get(name, "–"), now.get(name, "–")) for name in names])


def _flat(values: dict[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _wrong(report: dict[str, Any]) -> str:
    """The confusion matrix, or where it would be too large the pairs that are mistaken most."""
    classes, matrix = report["confusion"]["classes"], report["confusion"]["matrix"]
    if len(classes) <= CLASSES:
        rows = [(f"**{name}**", *(count or "·" for count in row)) for name, row in zip(classes, matrix, strict=True)]
        return "Rows are what it is, columns what the model says.\n\n" + _table(("", *classes), rows)
    pairs = report["confusions"][:PAIRS]
    if not pairs:
        return "Nowhere, on the test items."
    rows = [(one["label"], one["predicted"], one["n"], f"{100 * one['share']:.0f} %") for one in pairs]
    return _table(("is", "taken for", "times", "of its class"), rows)


def _table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _champion(folder: Path, verdict: dict[str, Any]) -> dict[str, Any]:
    """What is kept of the champion that it was compared with; empty where there was none."""
    name = verdict["evidence"].get("champion")
    kept = [_read(path) for path in sorted(folder.glob("versions/*/run.json"), reverse=True)]
    return next((one for one in kept if one["run"] == name), {})


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main(given: list[str] | None = None) -> int:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path)
    for word, kind, what in (
        ("--name", str, "the name of the model"),
        ("--verdict", Path, "what inflame promote --json said"),
        ("--champions", Path, "the folder in which the champions of names are"),
        ("--run-uri", str, "where the run is kept"),
        ("--out", Path, "where the proposal goes"),
    ):
        add(word, type=kind, required=True, help=what)
    words = parser.parse_args(given)
    verdict, old = _read(words.verdict), Path("models", f"{words.name}.json")
    new = facts(words.run, verdict, words.run_uri)
    models = words.out / "models"
    models.mkdir(parents=True, exist_ok=True)
    (models / f"{words.name}.json").write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    champion = _champion(words.champions / words.name, verdict)
    report, page = _read(words.run / "report.json"), words.run / "report.html"
    text = body(new, _read(old) if old.is_file() else {}, verdict, report, champion)
    if page.stat().st_size <= MOST:
        shutil.copyfile(page, models / f"{words.name}.html")
        text += f"\nThe whole report is `models/{words.name}.html` of this branch.\n"
    else:
        text += "\nThe whole report is an artifact of the workflow: it is too large for the repository.\n"
    (words.out / "body.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
