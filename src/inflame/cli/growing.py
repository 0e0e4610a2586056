"""The next version of the data, of what people agreed on: for `inflame inbox accept` and `inflame monitor retrain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inflame.errors import DataError

if TYPE_CHECKING:
    from inflame.artifact.grow import Growth, Named
    from inflame.monitor.log import Log
    from inflame.records import Dataset


def grown(
    log: Log, dataset: Dataset, *, new: Sequence[str] = (), test: bool = False, quiet: bool = False
) -> tuple[Growth, dict[str, int]]:
    """The next version of the data, with the classes `new` beside its own; and how many inputs were not kept or are
    kept apart."""
    from tqdm import tqdm

    from inflame.artifact import grow

    named, facts = agreed(log, (*dataset.classes, *new))
    with tqdm(desc="reading", unit=" items", delay=2, leave=False, disable=quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return grow.grow(dataset, named, new=new, test=test, progress=progress), facts


def agreed(log: Log, classes: Sequence[str], *, apart: bool = False) -> tuple[list[Named], dict[str, int]]:
    """What people agreed on and may be learned from, or with `apart` what is never learned from."""
    from inflame.artifact.grow import Named
    from inflame.monitor import inbox as box

    found: list[Named] = []
    facts = {"agreed": 0, "not_kept": 0, "apart": 0}
    for one in box.labels(log).accepted:
        if one.label not in classes:  # a name that is no class yet, or said about another model
            continue
        facts["agreed"] += 1
        facts["apart"] += (aside := box.is_apart(one.entry.input))
        if aside != apart:
            continue
        content = log.kept(one.entry.input)
        facts["not_kept"] += content is None
        if content is not None:
            found.append(Named(content=content, label=one.label, who=one.who, time=one.time, answer=one.entry.id))
    return found, facts


def chosen(log: Log, classes: Sequence[str]) -> tuple[str, ...]:
    """The new names that were given often enough to become classes. None: DataError that says how many are missing."""
    from inflame.monitor import inbox as box

    found = box.newcomers(log, classes)
    ready = tuple(name for name, count in found.items() if count >= box.ENOUGH)
    if not ready:
        told = "; ".join(f"{name}: {count} of {box.ENOUGH}" for name, count in list(found.items())[:10])
        raise DataError(
            f"No new class has enough items: {told or 'nobody has named one'}.",
            where=log.place,
            remedy="Name more of them: inflame inbox, and there +NAME. Without --new-classes they wait.",
        )
    return ready


def left(log: Log, classes: Sequence[str], new: Sequence[str] = ()) -> dict[str, int]:
    """The names that are still no classes, and how many inputs are agreed to be one."""
    from inflame.monitor import inbox as box

    return box.newcomers(log, (*classes, *new))


def tell(made: Growth, facts: Mapping[str, int]) -> None:
    """For people."""
    added = ", ".join(f"{count} to {name}" for name, count in made.added.items())
    print(f"version  {made.number} of {made.name}: {made.items:,} items, {added}")
    for why, count in made.left_out.items():
        print(f"left out {count}: {why}")
    if made.new_classes:
        print(f"new      {', '.join(made.new_classes)}")
    if facts["not_kept"]:
        print(f"left out {facts['not_kept']}: not kept, so there is nothing to learn from")
    print(f"apart    {facts['apart']} of {facts['agreed']} agreed inputs, to compare models by")
    print(f"data     {made.folder}")


def tell_new(counts: Mapping[str, int]) -> None:
    """For people: what waits to become a class."""
    from inflame.monitor.inbox import ENOUGH

    for name, count in counts.items():
        can = "inflame monitor retrain --new-classes" if count >= ENOUGH else f"{ENOUGH} make a class"
        print(f"no class {name}: {count} inputs   {can}")
