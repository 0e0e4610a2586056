"""`inflame monitor retrain`: the data grows by what people labelled, a challenger is trained on it by the recipe of
before, and becomes the champion if it is better."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflame import store
from inflame.cli import growing
from inflame.cli.inbox import log_of, run_of
from inflame.cli.predict import bundle_of
from inflame.cli.show import as_json
from inflame.errors import RunError, UserError
from inflame.records import JobSpec

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from numpy.typing import NDArray

    from inflame.artifact.grow import Growth, Named
    from inflame.factory.contest import Contest
    from inflame.factory.registry import Entry
    from inflame.records import Dataset
    from inflame.runs import Run

    Right = NDArray[np.bool_]

# Of the old command, what named the data, its splits and the place.
_NOT_AGAIN = ("io.training_input", "output", "fresh", "resume", "limit", "splits", "split_seed", "debug")
_BATCH = 64


def retrain(words: Namespace) -> int:
    """Grows, trains, compares, promotes; prints what came of it. 0 also where the champion stays."""
    from inflame.artifact import manifest
    from inflame.runs import Run

    before = Run(path=run_of(words.model))
    dataset, log = manifest.load(before.path), log_of(words)
    new = growing.chosen(log, dataset.classes) if words.new_classes else ()
    made, facts = growing.grown(log, dataset, new=new, quiet=words.json)
    if not words.json:
        growing.tell(made, facts)
        growing.tell_new(growing.left(log, dataset.classes, new))
    spec = _spec(before, made, words)
    after = Run(path=_sent(spec, words) if words.on else _trained(spec))
    recent, _ = growing.agreed(log, (*dataset.classes, *new), apart=True)
    found = _compared(bundle_of(words.model), after, dataset, recent, quiet=words.json)
    return _concluded(words, before, after, found, made, str(words.name or _name(words.model) or dataset.name))


def _concluded(words: Namespace, before: Run, after: Run, found: Contest, made: Growth, name: str) -> int:
    """Promotes the challenger if it is better; says so, and writes both down."""
    from inflame.factory import registry

    if registry.champion(name) is None:
        # By force: what serves is the champion, also where nothing was held out to test it on.
        registry.promote(before, name, force=True, reason="it is what serves when the first challenger comes")
    entry: Entry | None = None
    why = found.told
    try:
        entry = registry.promote(after, name, found=found)
    except registry.NotBetter as refused:
        why = refused.message
    told = {"run": str(after.path), "name": name, "promoted": entry is not None, "why": why}
    if words.json:
        print(as_json({**told, "contest": found.to_json(), "data": made.to_json()}))
        return 0
    for title, bout in found.bouts.items():
        print(f"{title:<9}{bout.champion:.3f} → {bout.challenger:.3f} of {bout.n:,} items: {bout.verdict}")
    if entry is None:
        print(f"stays    the champion of {name}: {found.told}")
        print("next     label more (inflame inbox), or: inflame promote " + f"{after.name} --as {name} --force")
    else:
        print(f"champion {after.name} is the champion of {name} now, version {entry.version}: {found.told}")
        print(f"next     inflame serve {name}   inflame rollback {name}")
    return 0


# --- training --------------------------------------------------------------------------------------------------


def _spec(before: Run, made: Growth, words: Namespace) -> JobSpec:
    """The training of before, on the grown data: its own words, without those that named the data and the place."""
    from inflame.factory.folder import read_json

    facts, settings = (read_json(before.path / name) for name in ("provenance.json", "config.json"))
    given: Sequence[str] = facts.get("argv", ())
    if list(given[1:2]) != ["train"] or not (Path(str(settings.get("folder"))) / "app.py").is_file():
        raise UserError(
            f"The run {before.name} doesn't say by which command it was trained, or its model folder is gone.",
            where=str(before.path / "provenance.json"),
            remedy=f"Train on the grown data yourself: inflame train {made.folder}",
        )
    kept = [word for word in given[2:] if not word.startswith("--") and word.partition("=")[0] not in _NOT_AGAIN]
    if words.budget:
        kept = [word for word in kept if not word.startswith("in=")] + [f"in={words.budget}"]
    return JobSpec(model=str(settings["folder"]), arguments=(*kept, f"io.training_input={made.folder}"))


def _trained(spec: JobSpec) -> Path:
    """The run folder of a training here; its progress goes to stderr. It fails, or is stopped: RunError."""
    from inflame.infra import local

    command = local.Local().request(spec)["command"]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RunError(
            f"The training ended with code {done.returncode}.",
            where=" ".join(spec.arguments),
            remedy="See what it said above; the same command goes on where it was.",
        )
    return Path(json.loads(lines[-1])["run"])


def _sent(spec: JobSpec, words: Namespace) -> Path:
    """The run folder of a training elsewhere, brought here."""
    from dataclasses import replace

    from inflame.cli.jobs import _wait
    from inflame.infra import jobs, launch

    if words.data:
        spec = replace(spec, arguments=(*spec.arguments[:-1], f"io.training_input={_sharded(spec, words)}"))
    sent = launch.plan(replace(spec, output=words.output, machine=words.machine), words.on).send()
    print(f"sent     {sent.id} to {sent.backend}", file=sys.stderr)
    sent = _wait(sent)
    if sent.state != "done":
        raise RunError(
            f"The job {sent.id} is {sent.state}: {sent.reason or 'it gives no reason'}.",
            where=sent.backend,
            remedy=f"See what it said: inflame jobs logs {sent.id}",
        )
    return jobs.fetch(sent)


def _sharded(spec: JobSpec, words: Namespace) -> str:
    """The grown data as shards where the other machine can read them."""
    from inflame.artifact import opening, shard

    data = opening.open(spec.arguments[-1].partition("=")[2])
    place = store.join(words.data, data.version[:16])
    shard.shard(data, place, shard.Recipe(size=0))
    return place


# --- comparing -------------------------------------------------------------------------------------------------


def _compared(champion: Path, after: Run, dataset: Dataset, recent: Sequence[Named], *, quiet: bool) -> Contest:
    """Both models on the locked test items, and on what people labelled of late and nobody learned from."""
    from inflame.artifact.contents import Contents
    from inflame.factory import contest
    from inflame.model.engine.predictor import Predictor

    read, locked = Contents(dataset.root).read, dataset.split("test").items
    items = [(lambda uri=uri: read(uri), label) for uri, label in _pairs(locked)]
    fresh = [(lambda one=one: one.content, one.label) for one in recent]
    rights = []
    for bundle in (champion, after.bundle or after.path / "bundle"):
        predictor = Predictor(bundle)
        rights.append([_right(predictor, part, quiet=quiet) for part in (items, fresh)])
    names = ("locked", "recent")
    return contest.contest({name: (rights[0][row], rights[1][row]) for row, name in enumerate(names)})


def _pairs(items: Any) -> list[tuple[str, str]]:
    return list(zip(items["uri"].to_pylist(), items["label"].to_pylist(), strict=True))


def _right(predictor: Any, items: Sequence[tuple[Any, str]], *, quiet: bool) -> Right:
    """Which of the items the model gets right; one that it can't read it gets wrong."""
    import numpy as np
    from tqdm import tqdm

    from inflame.records import Prediction

    found: list[bool] = []
    steps = range(0, len(items), 64)
    for start in tqdm(
        steps, desc="comparing", unit_scale=64, unit=" items", delay=2, leave=False, disable=quiet or None
    ):
        some = items[start : start + _BATCH]
        said = predictor.predict([content() for content, _ in some], 1, errors="collect")
        found += [
            isinstance(one, Prediction) and one.label == label for one, (_, label) in zip(said, some, strict=True)
        ]
    return np.array(found, dtype=bool)


def _name(word: str | None) -> str:
    """The champion's name, where the word is one."""
    from inflame.factory import registry

    return word if word and "/" not in word and word in registry.names() else ""
