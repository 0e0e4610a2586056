"""How long it takes before a job is on its way: a dry run at every place, what `inflame train` adds to the training
that it becomes, and a snapshot of a large repository.

python -m benchmarks.launching
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.snapshot import MB, large

TIMES = 10
PLACES = {
    "local": "",
    "sagemaker": "s3://bucket/x",
    "vertexai": "gs://bucket/x",
    "azureml": "az://box/x",
    "clearml": "s3://bucket/x",
    "slurm": "/shared/x",
    "kubernetes": "gs://bucket/x",
    "ray": "/shared/x",
}
SETTINGS = """
[on.sagemaker]
role = "arn:aws:iam::123456789012:role/inflame"
region = "us-east-1"
[on.vertexai]
project = "p"
location = "us-central1"
[on.azureml]
subscription = "s"
group = "g"
workspace = "w"
account = "a"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["INFLAME_HOME"] = str(folder / "home")
        (folder / "inflame.toml").write_text(SETTINGS)
        for place, output in PLACES.items():
            words = ["-m", "inflame", "launch", "mnist", "--on", place, "--dry-run"]
            words += ["--output", output] if output else []
            print(f"dry run, {place}: {told(timed(words, folder))}")
        print(f"inflame train less python app.py train: {told(added(folder))}")
        whole, changed, sent = large(folder / "large", f"{folder}/place")
        print(f"200 MB: first time {whole:.1f} s; after a change of 5 MB {changed:.2f} s, {sent / MB:.1f} MB uploaded")


def added(folder: Path) -> list[float]:
    """What the command line adds to a training that does nothing: pairs, one after the other."""
    model = folder / "nothing"
    model.mkdir()
    (model / "app.py").write_text("")
    pairs = []
    for _ in range(TIMES):
        (with_us,) = timed(["-m", "inflame", "train", str(model)], folder, 1)
        (alone,) = timed([str(model / "app.py"), "train"], folder, 1)
        pairs.append(with_us - alone)
    return pairs


def timed(words: list[str], folder: Path, times: int = TIMES) -> list[float]:
    """Seconds of each of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=folder)
        found.append(time.perf_counter() - began)
    return found


def told(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
