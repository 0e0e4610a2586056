"""Why a run did what it did: each choice with its reason, and where the time went. Kept in status.json, told by the
report and by `inflame train --explain`."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from inflame.runs import Run

WIDTH = 100  # of the lines of the table
LAST = "the rest"  # bundle, test and report: what no stage was measured for


@final
class Reasons:
    """Takes notes while a run goes on. `began`: seconds that were over before, for starting and reading the data."""

    def __init__(self, run: Run, began: float = 0.0) -> None:
        self.run, self.spent = run, {"start and data": round(began, 1)} if began else {}
        self.why: list[dict[str, str]] = []
        self.chosen: dict[str, Any] = dict(run.read_status().get("chosen", {}) if run.resumed else {})
        self._mark = time.monotonic()
        self._earlier = {row.get("choice", ""): row for row in run.read_status().get("why", []) if run.resumed}

    def because(self, choice: str, taken: str, why: str) -> None:
        """Notes what was taken for `choice`, and why. A choice that is made again replaces what was noted of it."""
        self.why = [row for row in self.why if row["choice"] != choice]
        self.why.append({"choice": choice, "taken": taken, "why": why})
        self.run.status(why=self.why)

    def again(self, choice: str) -> None:
        """Notes what the earlier sitting of this run said of `choice`, which is kept."""
        row = self._earlier.get(choice)
        if row is not None:
            self.because(choice, row["taken"], row["why"])

    def chose(self, **facts: Any) -> None:
        """Notes, as plain JSON, what the model is in the end: enough to write its training down (`inflame eject`)."""
        self.chosen |= facts
        self.run.status(chosen=self.chosen)

    def stage(self, name: str) -> None:
        """Ends the stage `name`: it took the time since the stage before ended."""
        now = time.monotonic()
        self.spent[name] = round(self.spent.get(name, 0.0) + now - self._mark, 1)
        self._mark = now
        self.run.status(spent=self.spent)


def of(folder: Path) -> dict[str, Any]:
    """`why`, the choices of the run in `folder`, and `spent`, the seconds of each stage of its last sitting."""
    try:
        status = json.loads((folder / "status.json").read_bytes())
    except (OSError, ValueError):
        status = {}
    return {"why": status.get("why") or [], "spent": status.get("spent") or {}}


def table(told: Mapping[str, Any], seconds: float | None = None) -> str:
    """What `of` found, for people: a line for each choice, and one for the time. seconds: of the whole run."""
    rows = told["why"]
    left = max((len(row["choice"]) for row in rows), default=0)
    lines = ["why this model"] if rows else []
    for row in rows:
        head = f"  {row['choice']:<{left}}  {row['taken']}"
        text = f"{head}: {row['why']}" if row["why"] else head
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * (left + 4), break_on_hyphens=False)
    spent = dict(told["spent"])
    if seconds is not None and spent:
        spent[LAST] = round(max(0.0, seconds - sum(spent.values())), 1)
    if spent:
        text = " · ".join(f"{name} {took:.1f} s" for name, took in spent.items())
        lines += ["where the time went", *textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    return "".join(line + "\n" for line in lines)
