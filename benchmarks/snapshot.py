"""How long it takes to take code along: 1,500 files; 200 MB with a change of 5 MB. And a dry run from the command line.

python -m benchmarks.snapshot
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inflame.infra.pack import package, snapshot
from inflame.records import JobSpec

MB = 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INFLAME_HOME"] = f"{folder}/home"
        print(f"1,500 files: {small(Path(folder) / 'small'):.2f} s (changed one, second time)")
        whole, changed, sent = large(Path(folder) / "large", f"{folder}/place")
        print(f"200 MB: first time {whole:.1f} s; after a change of 5 MB {changed:.2f} s, {sent / MB:.1f} MB uploaded")
        print(f"inflame launch --dry-run: {dry(Path(folder)):.2f} s")


def small(root: Path) -> float:
    model = repository(root, 1500, 4000)
    snapshot.take(model)
    (model / "app.py").write_text("changed = 1\n")
    return timed(lambda: snapshot.take(model))


def large(root: Path, place: str) -> tuple[float, float, int]:
    model = repository(root, 200, MB)
    spec = JobSpec(model=str(model), output=place)
    limit = 500 * MB  # these are binaries, which is what a repository of that size is made of

    def send() -> int:
        return package.upload(package.collect(spec, place, limit=limit), place).bytes

    whole = timed(send)
    for number in range(5):
        (root / f"{number}.bin").write_bytes(os.urandom(MB))
    sent = []
    return whole, timed(lambda: sent.append(send())), sent[0]


def dry(folder: Path) -> float:
    words = [sys.executable, "-m", "inflame", "launch", "mnist", "--on", "local", "--dry-run"]
    return min(timed(lambda: subprocess.run(words, check=True, capture_output=True, cwd=folder)) for _ in range(5))


def repository(root: Path, files: int, size: int) -> Path:
    model = root / "model"
    model.mkdir(parents=True)
    (model / "app.py").write_text("x = 1\n")
    for number in range(files):
        (root / f"{number}.bin").write_bytes(os.urandom(size))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    return model


def timed(act: object) -> float:
    began = time.perf_counter()
    act()  # type: ignore[operator]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
