"""Where the trials of a sweep run: the words that say it, and the pool that they mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inflame import plugins
from inflame.cli import jobs
from inflame.errors import UserError, did_you_mean
from inflame.records import JobSpec

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.config.axes import Axis
    from inflame.factory.trials import Sweep
    from inflame.infra.launch import Plan
    from inflame.infra.pools.pool import Pool

AT_ONCE = 4  # jobs at a place, where nobody says how many
_NEAR = ("local", "ray")  # places whose processes can share this home


def add_words(parser: Parser) -> None:
    """Where, how many at a time, on which machines, for how much."""
    add, far = parser.add_argument, [name for name in jobs.backends() if name not in _NEAR]
    add("--workers", type=int, metavar="N", default=0, help="at a time (default: one for each core or GPU; jobs: 4)")
    add("--on", metavar="PLACE", default="local", help="local (default), ray, or with --output: " + ", ".join(far))
    add("--address", metavar="HOST", default="", help="with --on ray: the cluster (default: one made here)")
    jobs.place_words(parser, "each trial is a job of PLACE, kept there and brought here: s3:// gs:// az:// or a folder")
    add("--no-rehearsal", action="store_true", help="don't try a job here first")
    add("--max-money", type=float, metavar="X", help="stop when it has cost so many US dollars")
    add("--price", type=float, metavar="X", help="what an hour of a machine costs (default: as machines.toml has it)")


def job(words: Namespace, folder: Path) -> JobSpec | None:
    """What all trials have in common as jobs of a place; None where they are processes that share this home. UserError
    for a place that there isn't, and for words that don't go together."""
    known = plugins.names("launcher")
    if words.on not in known:
        guess = did_you_mean(words.on, known)
        raise UserError(f"A sweep can't run on {words.on}.{guess}", where="--on", remedy=f"One of: {', '.join(known)}")
    if words.output and words.address:
        raise UserError(
            "--address names a cluster that sees this home; jobs are sent to the address below [on.ray].",
            where="--address",
            remedy="Leave --address out, or --output.",
        )
    if words.output:
        return replace(jobs.placed(words), model=str(folder))
    if words.on not in _NEAR:
        raise UserError(
            f"A trial on {words.on} is a job, whose run folder must be kept where its machine and this one reach it.",
            where="--output",
            remedy="Say where: --output s3://my-bucket/inflame (gs:// az:// or a shared folder)",
        )
    alone = {"--spot": words.spot, "--image": words.image, "--env": words.env, "--data": words.data}
    if found := [name for name, value in alone.items() if value]:
        raise UserError(
            f"{found[0]} is for trials that are jobs of a place.", where=found[0], remedy="Add --output URI."
        )
    return None


def planned(sweep: Sweep, varied: Sequence[Axis]) -> tuple[Sweep, Plan | None]:
    """The sweep with what an hour of its machines costs, and the plan of one of its jobs, where it has some. Nothing is
    sent; what can't be is refused."""
    if sweep.job is None:
        return sweep, None
    from inflame.infra import launch

    plan = launch.plan(_example(sweep, varied), sweep.where)
    price = plan.machine.price if sweep.price is None else sweep.price
    if sweep.max_money is not None and price is None:
        raise UserError(
            f"What an hour of {plan.machine.native or plan.machine.name or sweep.where} costs is unknown, so "
            "--max-money can't be kept.",
            where="--max-money",
            remedy="Say it: --price 0.90, or limit the sweep by --in TIME or --trials N.",
        )
    if sweep.price is None:  # the job knows that price as well: it ends also where nobody looks any more
        plan = replace(plan, spec=replace(plan.spec, max_money=sweep.max_money))
    return replace(sweep, price=price), plan


def opened(made: Sweep, plan: Plan | None, words: Namespace, varied: Sequence[Axis]) -> Pool:
    """The pool of the sweep. A job that is the first of its kind is rehearsed, unless somebody doesn't want it."""
    if plan is not None:
        from inflame.infra import launch
        from inflame.infra.pools.elsewhere import PACKAGE, Elsewhere

        if not (made.path / PACKAGE).is_file():
            if made.where != "local" and not words.no_rehearsal:
                jobs.rehearsed(_example(made, varied), made.where, quiet=words.json)
            for line in launch.report(plan.luggage):
                print(line, file=sys.stderr)
        return Elsewhere(plan, made.path, workers=made.workers, mark=made.mark, price=made.price)
    from inflame.factory.sweep import cards, slots

    if made.where == "local":
        from inflame.infra.pools.warm import Warm

        return Warm(slots(made.workers), cards(made.workers, made.devices))
    from inflame.infra import machines
    from inflame.infra.pools.ray import Ray

    each = machines.find(words.machine, "ray") if words.machine else None
    cores, gpus = (each.cores or 1, each.gpus or 0) if each else (1, 0)
    return Ray(words.address, workers=made.workers, cpus=cores, gpus=gpus)


def _example(sweep: Sweep, varied: Sequence[Axis]) -> JobSpec:
    from inflame.factory.words import example

    assert sweep.job is not None
    return replace(sweep.job, arguments=example(sweep, varied))
