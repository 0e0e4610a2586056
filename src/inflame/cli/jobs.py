"""The verbs about trainings on other machines: launch, jobs, rehearse."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inflame.cli.show import as_json, bold, findings, table
from inflame.cli.train import divided, target
from inflame.errors import InflameError, UserError, did_you_mean

if TYPE_CHECKING:
    from argparse import Namespace

    from inflame.cli.words import Parser
    from inflame.infra.jobs import Sent
    from inflame.infra.launch import Plan
    from inflame.records import JobSpec

POLL = 2.0  # seconds between two looks at a job
ACTS = ("list", "status", "logs", "stop", "fetch", "wait")
_WAITS = (1.0, 1.0, 2.0, 5.0, 10.0)  # between looks at a job that runs elsewhere


# --- launch --------------------------------------------------------------------------------------


def launch_words(parser: Parser) -> None:
    """What to train, where, on which machine, and what it may cost."""
    parser.usage = "inflame launch MODEL|DATA --on BACKEND [--output URI] [--machine NAME] [key=value …]"
    parser.description = (
        "Train on another machine with the words you would train with here. The code goes along as it is,\n"
        "committed or not, with inflame and the list of packages; it is rehearsed here first. The run folder,\n"
        "the log and the verdict come to --output, whatever becomes of the machine. Caps are kept by the job\n"
        "itself: it saves, stops and says why. Given again, the command sends nothing twice."
    )
    parser.epilog = (
        "machines, the same names everywhere: cpu-small cpu-medium cpu-large gpu-small gpu-1 gpu-4 gpu-8\n\n"
        "examples:\n"
        "  inflame launch mnist --on local\n"
        "  inflame launch mnist --on sagemaker --machine gpu-small --output s3://bucket/inflame --dry-run\n"
        "  inflame launch ./my_birds --on vertexai --spot --output gs://bucket/inflame --max-money 5 in=1h\n"
        "  inflame launch mnist --on azureml --max-time 2h --output az://container/inflame --env HF_TOKEN"
    )
    _job_words(parser)
    parser.add_argument("--dry-run", action="store_true", help="show all that would be sent, and send nothing")
    parser.add_argument("--no-rehearsal", action="store_true", help="don't try it here first")


def launch(words: Namespace) -> int:
    """Plans, rehearses, sends; with --dry-run prints the request."""
    from inflame.infra import launch as launching

    spec = _spec(words)
    plan = launching.plan(spec, words.on)
    if words.dry_run:
        _show(plan, quiet=words.json)
        return 0
    if not words.no_rehearsal and words.on != "local":
        launching.demand_affordable(spec, plan.machine, rehearsed(spec, words.on, quiet=words.json))
    for line in launching.report(plan.luggage):
        _say(line)
    sent = plan.send()
    if words.json:
        print(as_json(_about(sent)))
        return 0
    print(f"sent   {sent.id} to {sent.backend}: {sent.state}")
    print(f"next   inflame jobs logs -f {sent.id}   inflame jobs wait {sent.id}   inflame jobs stop {sent.id}")
    return 0


def rehearsed(spec: JobSpec, backend: str, *, quiet: bool) -> float | None:
    """The seconds that the job is expected to take; RunError where it would fail. quiet: findings aren't printed."""
    from inflame.infra import rehearse as rehearsing

    done = rehearsing.rehearse(spec, backend, say=_say)
    if not quiet:
        print(_findings(done.findings), file=sys.stderr)
    rehearsing.demand_well(done)
    return done.seconds


def _job_words(parser: Parser) -> None:
    parser.takes_settings = True
    add = parser.add_argument
    add("words", nargs="*", metavar="MODEL|DATA", help="what to train; settings as key=value")
    add("--on", metavar="BACKEND", default="", help="where: " + ", ".join(backends()))
    add("--count", metavar="N", type=int, default=1, help="machines (default: 1)")
    place_words(parser, "where code, run folders and logs go: s3:// gs:// az:// or a folder")
    add("--in", dest="budget", metavar="TIME", help="the same as in=TIME")
    add("--max-time", metavar="TIME", help="the job saves and stops then: 90m, 2h")
    add("--max-money", metavar="X", type=float, help="the job saves and stops when it has cost so many US dollars")


def place_words(parser: Parser, output: str) -> None:
    """What is asked of a place for any job. output: the help of --output."""
    add = parser.add_argument
    add("--machine", metavar="NAME", default="", help="cpu-small … gpu-8, or a name of the provider's own")
    add("--spot", action="store_true", help="machines that may be taken away, for less money")
    add("--output", metavar="URI", default="", help=output)
    add("--image", metavar="IMAGE", default="", help="container image or environment (default: the provider's own)")
    add("--env", metavar="NAME", action="append", default=[], help="environment variable to pass on (several times)")
    add("--data", metavar="URI", action="append", default=[], help="input that the provider is to mount")


def placed(words: Namespace) -> JobSpec:
    """What `place_words` say, of a job without a model."""
    from inflame.records import JobSpec

    return JobSpec(
        model="",
        environment=tuple(words.env),
        machine=words.machine,
        image=words.image,
        inputs=tuple(words.data),
        output=_absolute(words.output),
        spot=words.spot,
    )


def _absolute(output: str) -> str:
    """A folder of this machine from its root on: a job works somewhere else. A uri stays as it is."""
    from inflame.store import local

    folder = local(output) if output else None
    return output if folder is None or folder.is_absolute() else str(folder.absolute())


def backends() -> tuple[str, ...]:
    """The places that come with inflame."""
    from inflame.plugins import SEAMS

    return tuple(SEAMS["launcher"])


def _spec(words: Namespace) -> JobSpec:
    if not words.on:
        raise UserError("Where should it run?", where="--on", remedy=f"--on BACKEND, one of: {', '.join(backends())}")
    if words.count < 1:
        raise UserError(f"--count takes a number of machines, 1 or more, not {words.count}.", remedy="--count 2")
    if words.max_money is not None and not words.max_money > 0:
        raise UserError(f"--max-money takes US dollars, more than 0, not {words.max_money:g}.", remedy="--max-money 5")
    targets, settings = divided(words.words)
    if len(targets) != 1:
        raise UserError(
            f"One thing to train is needed, and {len(targets)} are given.", remedy="inflame launch mnist --on local"
        )
    folder, given = target(targets[0])
    if any(word.startswith("output=") for word in settings):
        raise UserError("The job's output is named by --output.", where="output=", remedy="--output URI")
    return replace(
        placed(words),
        model=str(folder),
        arguments=(*given, *([f"in={words.budget}"] if words.budget else []), *settings),
        count=words.count,
        max_time=_seconds(words.max_time) if words.max_time else None,
        max_money=words.max_money,
    )


def _seconds(text: str) -> float:
    from inflame.config.schema import parse_duration

    return parse_duration(text)


def _show(plan: Plan, *, quiet: bool) -> None:
    """The request as it would go; around it, for people, what it carries and costs."""
    from inflame.infra import launch as launching

    if quiet:
        told = {"id": plan.id, "backend": plan.backend, "request": plan.request, "package": plan.package.to_json()}
        print(as_json({**told, "price": plan.machine.price, "price_date": plan.machine.date}))
        return
    for line in launching.report(plan.luggage):
        _say(line)
    needs = launching.requirements_of(plan.luggage)
    _say(f"needs   {len(needs)} packages: {' '.join(needs[:6])} …")
    _say(f"machine {plan.machine.native or plan.machine.name or 'as it is'} x {plan.spec.count}: {plan.machine.said()}")
    print(json.dumps(plan.request, indent=2, ensure_ascii=False))


# --- jobs ----------------------------------------------------------------------------------------


def jobs_words(parser: Parser) -> None:
    """What to do, and with which job."""
    parser.usage = "inflame jobs [list|status|logs|stop|fetch|wait] [JOB]"
    parser.description = (
        "What became of the jobs that were sent from here, wherever they run. Without JOB: the last one.\n"
        "  list    all of them             status  one, with the reason for its state\n"
        "  logs    what it says; -f goes on until it ends\n"
        "  stop    it saves and ends       wait    until it has ended; the exit code is its\n"
        "  fetch   its run folder comes here: report, board, predict work as if it had run here\n"
        "States: queued starting running preempted done failed stopped. A job whose machine was taken away\n"
        "is sent again by any of these, up to five times, and goes on from its last checkpoint."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame jobs\n"
        "  inflame jobs logs -f\n"
        "  inflame jobs wait mnist-3f0c1a && inflame jobs fetch mnist-3f0c1a && inflame report mnist-3f0c1a"
    )
    parser.add_argument("act", nargs="?", metavar="ACT", default="list", help="list (default), " + ", ".join(ACTS[1:]))
    parser.add_argument("job", nargs="?", metavar="JOB", help="a job, or how its name begins (default: the last one)")
    parser.add_argument("-f", "--follow", action="store_true", help="logs: go on until the job ends")


def jobs(words: Namespace) -> int:
    """Does what is asked with one job, or lists them."""
    from inflame.infra import jobs as store

    if words.act not in ACTS:
        raise UserError(
            f'inflame jobs can\'t "{words.act}".{did_you_mean(words.act, ACTS)}',
            remedy=f"Say one of: {', '.join(ACTS)}",
        )
    if words.act == "list":
        return _list([store.refresh(one) for one in store.every()], quiet=words.json)
    sent = store.get(words.job) if words.job else store.latest()
    if words.act == "logs":
        return _logs(sent, follow=words.follow)
    if words.act == "wait":
        sent = _wait(sent)
    elif words.act == "fetch":
        return _fetch(store.refresh(sent), quiet=words.json)
    else:
        sent = store.stop(sent) if words.act == "stop" else store.refresh(sent)
    print(as_json(_about(sent)) if words.json else _told(sent))
    return _code(sent) if words.act == "wait" else 0


def _list(found: Sequence[Sent], *, quiet: bool) -> int:
    if quiet:
        print(as_json([_about(one) for one in found], indent=1))
    elif not found:
        print("no jobs yet; begin with: inflame launch mnist --on local")
    else:
        rows = [(one.id, one.backend, one.state, _age(one.created), _cost(one), one.reason) for one in found]
        print(table(("job", "on", "state", "age", "cost", "why"), rows))
    return 0


def _logs(sent: Sent, *, follow: bool) -> int:
    from inflame.infra import jobs as store

    last, told = "", ""
    while True:
        now = store.refresh(sent) if follow else sent
        lines, last = store.logs(now, last)
        for line in lines:
            print(line, flush=True)
        if not follow or (now.ended and not (lines and last)):  # a place's own log is all there at once
            return 0
        if now.state != told and now.state != "running":
            told = now.state
            _say(f"{now.id}: {now.state}{f': {now.reason}' if now.reason else ''}")
        sent = now
        if not now.ended:
            time.sleep(POLL)


def _wait(sent: Sent) -> Sent:
    from inflame.infra import jobs as store

    told, turn = ("", ""), 0
    while not sent.ended:
        sent = store.refresh(sent)
        if (sent.state, sent.reason) != told:
            told = (sent.state, sent.reason)
            _say(f"{sent.id}: {sent.state}{f': {sent.reason}' if sent.reason else ''}")
        if not sent.ended:
            time.sleep(_WAITS[min(turn, len(_WAITS) - 1)])
            turn += 1
    return sent


def _fetch(sent: Sent, *, quiet: bool) -> int:
    from inflame.infra import jobs as store

    folder = store.fetch(sent)
    if quiet:
        print(as_json({**_about(sent), "run": str(folder)}))
        return 0
    print(f"run    {folder}")
    print(f"next   inflame report {folder.name} --open   inflame predict FILE… --model {folder.name}")
    return 0


def _about(sent: Sent) -> dict[str, Any]:
    told = {"id": sent.id, "backend": sent.backend, "state": sent.state, "reason": sent.reason, "code": sent.code}
    more = {"cost": sent.cost, "seconds": sent.seconds, "output": sent.spec.output, "sent": sent.sent}
    return {**told, **more, "native": sent.native.id if sent.native else None, "tree": sent.package.tree}


def _told(sent: Sent) -> str:
    rows = [("job", f"{sent.id} on {sent.backend}" + (f" ({sent.native.id})" if sent.native else ""))]
    rows += [("state", sent.state + (f": {sent.reason}" if sent.reason else "")), ("age", _age(sent.created))]
    rows += [("cost", _cost(sent)), ("output", sent.spec.output), ("sent", f"{sent.sent} times")]
    return "\n".join(f"{name:<8}{value}" for name, value in rows)


def _cost(sent: Sent) -> str:
    return "unknown" if sent.cost is None else f"${sent.cost:.2f}"


def _age(since: float) -> str:
    seconds = max(0, time.time() - since)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def _code(sent: Sent) -> int:
    return 0 if sent.state == "done" else 1


# --- rehearse ------------------------------------------------------------------------------------


def rehearse_words(parser: Parser) -> None:
    """The job, as for launch."""
    parser.usage = "inflame rehearse MODEL|DATA --on BACKEND [--output URI] [--machine NAME] [key=value …]"
    parser.description = (
        "What would fail there fails here first. The request that launch would send goes to a control\n"
        "plane of its place on this machine, which runs the packed job in a fresh folder with its own list\n"
        "of packages, on a sample: it is killed after its first checkpoint, sent again, goes on and exports.\n"
        "Then the place is looked at: credentials, region, quota, bucket. Nothing is sent."
    )
    parser.epilog = (
        "examples:\n"
        "  inflame rehearse mnist --on local\n"
        "  inflame rehearse mnist --on sagemaker --machine gpu-small --output s3://bucket/inflame\n"
        "  inflame rehearse ./my_birds --on vertexai --output gs://bucket/inflame --fresh"
    )
    _job_words(parser)
    parser.add_argument(
        "--fresh", action="store_true", help="in a Python without packages but its image's (takes longer, once)"
    )


def rehearse(words: Namespace) -> int:
    """Prints what was found; 1 when something would fail."""
    from inflame.infra import rehearse as rehearsing

    done = rehearsing.rehearse(_spec(words), words.on, fresh=words.fresh, say=_say)
    if words.json:
        print(as_json(done.to_json(), indent=1))
    else:
        print(_findings(done.findings))
    return 0 if done.well else 1


def _findings(found: Sequence[Any]) -> str:
    lines = [findings([(one.state, one.what, one.text) for one in found])]
    advice = [one for one in found if one.remedy]
    if advice:
        lines += ["", bold("to do"), *(f"  {one.what}: {one.remedy}" for one in advice)]
    return "\n".join(lines)


def place(words: Namespace) -> int:
    """`doctor --on`: what a place has and lacks for a job, and the rights that it must give; 1 when something lacks."""
    from inflame.infra import jobs as store
    from inflame.plugins import model_folder
    from inflame.records import JobSpec

    spec = JobSpec(model=str(model_folder("mnist")), machine=words.machine, output=words.output)
    found = store.launcher(words.on)
    looked = found.check(spec)
    rights: Any = {}
    try:
        rights = found.rights(spec)
    except InflameError as error:
        _say(error.explain())
    well = all(one.state != "not ok" for one in looked)
    if words.json:
        print(as_json({"ok": well, "findings": [one.to_json() for one in looked], "rights": rights}, indent=1))
        return 0 if well else 1
    print(_findings(looked) if looked else f"{words.on} needs nothing that could be looked at.")
    for who, given in rights.items():
        text = "\n".join(given) if isinstance(given, list) else json.dumps(given, indent=2, ensure_ascii=False)
        print(f"\n{bold(f'rights: {who}')}\n{text}")
    return 0 if well else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
