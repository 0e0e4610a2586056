"""Does the website know what it doesn't know? Test items of a run against noise, flat colours and other photos.

    python -m benchmarks.unknown RUN FOLDER… [--items 150]

For each kind of stranger: the area under the ROC curve of the distance from the nearest training item shown (1: all
strangers lie farther out than all test items), that of the doubt (1 - probability) alone, and the share that is told
"I have not seen anything like this"; for the test items that share is the false alarms. On the bundle as it is served.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from inflame.artifact.contents import Contents
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.settings import Settings

_KINDS = {".jpg", ".jpeg", ".png", ".webp"}


def area(known: np.ndarray, strange: np.ndarray) -> float:
    """The chance that a stranger has more of it than a known thing; ties count half."""
    more = (strange[:, None] > known[None]).mean() + 0.5 * (strange[:, None] == known[None]).mean()
    return float(more)


def png(pixels: np.ndarray) -> bytes:
    """The pixels as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def answers(model: Model, contents: list[bytes]) -> list[Answer]:
    """What the model says of all that can be read."""
    found = [one for start in range(0, len(contents), 32) for one in model.answer(contents[start : start + 32])]
    return [one for one in found if isinstance(one, Answer)]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("run", type=Path)
    words.add_argument("folders", type=Path, nargs="*")
    words.add_argument("--items", type=int, default=150)
    given = words.parse_args()
    model = Model("model", given.run / "bundle", Settings())
    rows = [row for row in pq.read_table(given.run / "items.parquet").to_pylist() if row["split"] == "test"]
    source = Contents(json.loads((given.run / "dataset.json").read_text())["root"])
    known = answers(model, [source.read(row["uri"]) for row in rows[: given.items]])
    rng = np.random.default_rng(0)
    strangers = {
        "noise": [png(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)) for _ in range(60)],
        "flat colours": [png(np.full((96, 96, 3), rng.integers(0, 256, 3), np.uint8)) for _ in range(60)],
    }
    for folder in given.folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _KINDS)
        step = max(1, len(files) // given.items)
        strangers[folder.parent.name] = [path.read_bytes() for path in files[::step][: given.items]]
    near = np.array([one.distance for one in known])
    doubt = np.array([1 - one.probability for one in known])
    print(
        f"limit {model.limit:.3f}; {len(known)} test items, told unlike: {np.mean([one.unlike for one in known]):.3f}\n"
    )
    print("| strangers | items | area, distance | area, doubt | told unlike |\n|---|---|---|---|---|")
    for name, contents in strangers.items():
        found = answers(model, contents)
        far, unsure = (
            np.array(values) for values in zip(*((a.distance, 1 - a.probability) for a in found), strict=True)
        )
        told = np.mean([one.unlike for one in found])
        print(f"| {name} | {len(found)} | {area(near, far):.3f} | {area(doubt, unsure):.3f} | {told:.2f} |")


if __name__ == "__main__":
    main()
