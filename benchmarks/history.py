"""What was measured when, a line a number, in history.jsonl: `python -m benchmarks.history` shows it as a table.

Benchmarks write into it by `note`. Numbers of other machines aren't compared, and the load that others made is kept
beside each: a number that was measured at a high one says little.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("history.jsonl")
_BARS = "▁▂▃▄▅▆▇█"
_LAST = 12  # values in a line of bars

Row = dict[str, Any]


def note(name: str, value: float, unit: str, *, ratio: float | None = None, file: Path = FILE) -> None:
    """Adds a line: what was measured, how much, in what unit; and, beside a peer, how many times the peer's it is."""
    row = {
        "date": date.today().isoformat(),
        "commit": _git("describe", "--always", "--dirty", "--exclude=*"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "name": name,
        "value": float(f"{value:.5g}"),
        "unit": unit,
        "ratio": None if ratio is None else float(f"{ratio:.4g}"),
    }
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def machine() -> str:
    """Cores and processor, by which numbers are comparable."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} x {' '.join(model.split())}"


def read(file: Path = FILE) -> list[Row]:
    """All lines, the oldest first."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(rows: Iterable[Row]) -> str:
    """A Markdown table: of each number on each machine the newest, the one before, and how it went."""
    series: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        series.setdefault((row["machine"], row["name"]), []).append(row)
    lines, on = [], ""
    for (where, name), found in sorted(series.items(), key=lambda one: one[0][0]):
        if where != on:
            head = "| what | now | before | change | so far | × peer | when | load |\n|---|---|---|---|---|---|---|---|"
            lines += [f"{where}\n\n{head}" if not on else f"\n{where}\n\n{head}"]
            on = where
        lines.append(_line(name, found))
    return "\n".join(lines) or "Nothing has been measured yet."


def _line(name: str, found: list[Row]) -> str:
    now, before = found[-1], found[-2] if len(found) > 1 else None
    told, change = "", ""
    if before is not None:
        told = f"{before['value']:g}"
        change = f"{now['value'] / before['value'] - 1:+.1%}" if before["value"] else ""
    ratio = "" if now["ratio"] is None else f"{now['ratio']:g}"
    bars = sparkline([row["value"] for row in found[-_LAST:]])
    when = f"{now['date']} {now['commit']}"
    return (
        f"| {name} | {now['value']:g} {now['unit']} | {told} | {change} | {bars} | {ratio} | {when} | {now['load']:g} |"
    )


def sparkline(values: list[float]) -> str:
    """The values as bars between the smallest and the largest of them."""
    low, high = min(values), max(values)
    if low == high:
        return _BARS[0] * len(values)
    return "".join(_BARS[int((value - low) / (high - low) * (len(_BARS) - 1) + 0.5)] for value in values)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=FILE.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    print(table(read(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)))
