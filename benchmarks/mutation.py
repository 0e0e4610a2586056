"""How many small mistakes the tests notice: each mutant of a module (another operator, another constant, a missing
argument) is tried by the module's own unit tests. Needs mutmut 3 (pip install mutmut).

    python -m benchmarks.mutation [artifact.split model.engine.calibrate factory.compare monitor.drift] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "artifact.split": ["artifact/test_split.py", "artifact/test_split_exactly.py"],
    "model.engine.calibrate": ["engine/test_calibrate.py"],
    "factory.compare": ["factory/test_compare.py"],
    "monitor.drift": ["monitor/test_drift.py", "monitor/test_performance.py"],
}
STATES = {0: "survived", 1: "killed", 3: "killed", 5: "untested", 33: "untested", 36: "timeout", -24: "timeout"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), metavar="MODULE", help="of: " + ", ".join(TESTS))
    parser.add_argument("--keep", metavar="FOLDER", help="to look there at what nobody noticed: mutmut browse")
    words = parser.parse_args()
    print("| module | mutants | noticed | score |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for module in words.modules:
            found = tried(Path(words.keep or place) / module, module)
            counts = Counter(found.values())
            noticed = counts["killed"] + counts["timeout"]
            print(f"| `{module}` | {len(found)} | {noticed} | {noticed / len(found):.0%} |", flush=True)


def tried(place: Path, module: str) -> dict[str, str]:
    """What became of each mutant of the module: killed, timeout, survived, untested, …"""
    path = Path("src", "inflame", *module.split(".")).with_suffix(".py")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    words = {
        "source_paths": ["src"],
        "only_mutate": [str(path)],
        "pytest_add_cli_args_test_selection": [f"tests/unit/{name}" for name in TESTS[module]],
        "pytest_add_cli_args": ["-k", "not seventy_thousand"],  # what takes long notices nothing more
    }
    ours = "\n".join(["[tool.mutmut]", *(f"{name} = {json.dumps(value)}" for name, value in words.items())])
    (place / "pyproject.toml").write_text(f"{settings}\n{ours}", encoding="utf-8")
    found = {**os.environ, "OMP_NUM_THREADS": "1"}  # a mutant is a fork, which threads don't outlive
    done = subprocess.run(mutmut("run"), cwd=place, env=found, capture_output=True, text=True, check=False)
    told = place / "mutants" / f"{path}.meta"
    states = json.loads(told.read_text())["exit_code_by_key"] if told.is_file() else {}
    if not states or None in states.values():
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return {name: STATES.get(code, f"ended with {code}") for name, code in states.items()}


def mutmut(*words: str) -> list[str]:
    return [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *words]  # by -m it would be there twice


if __name__ == "__main__":
    main()
