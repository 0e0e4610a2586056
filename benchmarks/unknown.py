"""Does the website know what it doesn't know? Test items of a run against strangers, and its surest answers.

    python -m benchmarks.unknown RUN [DATA…] [--items 1000]

DATA: a folder of pictures or the name of a data set, of which the test items are taken; noise and flat colours come by
themselves. First, what refusing gains: the accuracy of the 80 % of test items that it is surest of, and of those that
the website answers plainly. Then for each kind of stranger the area under the ROC curve of what the website tells "I
have not seen anything like this" by (1: all strangers have more of it than all test items), of the distance from the
nearest training item shown alone and of the doubt (1 - probability) alone, and the share that is told so; for the test
items that share is the false alarms. On the bundle as it is served.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from inflame import artifact
from inflame.artifact.contents import Contents
from inflame.web.answers import Answer
from inflame.web.models import Model
from inflame.web.settings import Settings

KEPT = 0.8  # of the answers; the others are refused
DRAWS = 2000  # of the bootstrap
MADE = 200  # strangers of each kind that is made here


def area(known: np.ndarray, strange: np.ndarray) -> float:
    """The chance that a stranger has more of it than a known thing; ties count half."""
    known = np.sort(known)
    below, upto = np.searchsorted(known, strange, "left"), np.searchsorted(known, strange, "right")
    return float((below + upto).mean() / (2 * len(known)))


def surest(sureness: np.ndarray, right: np.ndarray) -> float:
    """The accuracy of the surest of the answers."""
    order = np.argsort(-sureness, kind="stable")
    return float(right[order[: round(KEPT * len(order))]].mean())


def lift(sureness: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """By how much that is more than the accuracy of all, with its 95 % interval (bootstrap over the items)."""
    rng, count = np.random.default_rng(0), len(right)
    drawn = (rng.integers(0, count, count) for _ in range(DRAWS))
    low, high = np.quantile(
        [surest(sureness[rows], right[rows]) - right[rows].mean() for rows in drawn], (0.025, 0.975)
    )
    return surest(sureness, right) - float(right.mean()), float(low), float(high)


def png(pixels: np.ndarray) -> bytes:
    """The pixels as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def made(size: int) -> Iterator[tuple[str, list[bytes]]]:
    """Strangers that are no photos: noise of several kinds, the first as fine as the net sees, and single colours."""
    rng, large = np.random.default_rng(0), max(96, size)
    kinds = {
        "noise": lambda: rng.integers(0, 256, (size, size, 3)),
        "noise, larger than the net sees": lambda: rng.integers(0, 256, (3 * size, 3 * size, 3)),
        "noise about grey": lambda: rng.normal(128, 32, (size, size, 3)).clip(0, 255),
        "noise, smooth": lambda: Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((size, size)),
        "flat colours": lambda: np.full((large, large, 3), rng.integers(0, 256, 3)),
    }
    for name, one in kinds.items():
        yield name, [png(np.asarray(one(), np.uint8)) for _ in range(MADE)]


def items(data: str, most: int) -> list[bytes]:
    """The test items of a data set, or of one without any; at most so many, from all over them."""
    dataset = artifact.open(data)
    uris = (dataset.split("test") if len(dataset.split("test")) else dataset).items["uri"].to_pylist()
    source = Contents(dataset.root)
    return [source.read(uris[row]) for row in np.linspace(0, len(uris) - 1, min(most, len(uris))).astype(int)]


def answers(model: Model, contents: list[bytes]) -> list[Answer]:
    """What the model says of all that can be read."""
    found = [one for start in range(0, len(contents), 32) for one in model.answer(contents[start : start + 32])]
    return [one for one in found if isinstance(one, Answer)]


def signs(model: Model, found: list[Answer]) -> dict[str, np.ndarray]:
    """What the strange should have more of than the known: what it is told by, and what that could have been."""
    vectors = np.array([np.frombuffer(one.embedding, np.float16) for one in found], np.float32)
    return {
        "told by": np.array([one.distance for one in found]),
        "nearest": model.nearest.distance(vectors) if model.nearest is not None else np.zeros(len(found)),
        "doubt": np.array([1 - one.probability for one in found]),
    }


def gained(found: list[Answer], right: np.ndarray) -> Iterator[str]:
    """What refusing gains, in lines."""
    sureness = np.array([one.probability for one in found])
    more, low, high = lift(sureness, right)
    yield (
        f"accuracy {right.mean():.4f} of {len(right)}; of the {KEPT:.0%} that it is surest of, by probability, "
        f"{surest(sureness, right):.4f}: {100 * more:+.1f} points ({100 * low:.1f} to {100 * high:.1f})"
    )
    plain = np.array([one.known and not one.unlike for one in found])
    yield f"answered plainly {plain.mean():.3f}, accuracy {right[plain].mean():.4f}"
    unlike = np.array([one.unlike for one in found])
    if unlike.any():
        yield f"told unlike {unlike.mean():.4f}; of those the label is right for {right[unlike].mean():.2f}"


def main() -> None:
    """Prints both tables."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("run", type=Path)
    words.add_argument("data", nargs="*")
    words.add_argument("--items", type=int, default=1000)
    given = words.parse_args()
    model = Model("model", given.run / "bundle", Settings())
    rows = [row for row in pq.read_table(given.run / "items.parquet").to_pylist() if row["split"] == "test"]
    rows = [rows[place] for place in np.linspace(0, len(rows) - 1, min(given.items, len(rows))).astype(int)]
    source = Contents(json.loads((given.run / "dataset.json").read_text())["root"])
    known = answers(model, [source.read(row["uri"]) for row in rows])
    right = np.array([one.label == row["label"] for one, row in zip(known, rows, strict=True)])
    for line in gained(known, right):
        print(line)
    print("\n| strangers | items | area | nearest item | doubt | told unlike |\n|---|---|---|---|---|---|")
    usual = signs(model, known)
    strangers = itertools.chain(made(model.size), ((Path(data).name, items(data, given.items)) for data in given.data))
    for name, contents in strangers:
        found = answers(model, contents)
        areas = [f"{area(usual[key], values):.3f}" for key, values in signs(model, found).items()]
        told = np.mean([one.unlike for one in found])
        print(f"| {name} | {len(found)} | {' | '.join(areas)} | {told:.2f} |")


if __name__ == "__main__":
    main()
