"""What every training begins with: the data set, the run folder (a new one, or the one that a kill left behind),
the clock of the time budget, and the lines that tell a person what is going on."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, final

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from inflame import artifact
from inflame.artifact import manifest
from inflame.artifact.loader import Pictures
from inflame.artifact.reading import Stream
from inflame.config import Settings
from inflame.errors import SettingError
from inflame.model.engine import afar, checkpoint, data, debug, fitting, hooks, many, nets, pace, trend
from inflame.model.engine.company import Company, here
from inflame.model.engine.conclude import Model, answers, keep, publish, seconds
from inflame.model.engine.device import Device, One
from inflame.model.engine.learner import Learner, Loader, Sizable, TimeBudget, shared
from inflame.model.engine.pace import Criterion
from inflame.model.engine.processes import Many
from inflame.model.engine.progress import Progress
from inflame.model.engine.reasons import Reasons
from inflame.model.engine.trackers import following
from inflame.records import Dataset, Preprocess
from inflame.runs import Follower, Follows, Run, difference

Pictured = Mapping[str, Pictures]
S = TypeVar("S", bound=Sizable)

STARTED = "INFLAME_STARTED"  # when the person's command began (seconds since 1970): set by the launcher
BUDGET = 60.0  # seconds, where neither a time nor a number of epochs is given
FIRST = 0.14  # share of the budget after which a net that still trains is published for the first time
SHOWN = 200  # training items that a bundle may show beside its answers
LOOK = 0.4  # share of the budget that may go into reading a data set for the first time
MOST = 0.15  # share of the budget that is kept for the last steps at most
LEAST = 16  # batches an epoch, where their size is found by trying
TRYING = 0.05  # share of the time that is left that this may take
PACK = 2.0  # seconds for bundle, test and report of a small net, before any was measured


@final
class Session:
    """One sitting of a training. `budget` is the time of the whole command, None when epochs are counted instead."""

    def __init__(
        self, settings: Settings, run: Run, dataset: Dataset, budget: TimeBudget | None, device: Many | None = None
    ) -> None:
        self.settings, self.run, self.dataset, self.budget = settings, run, dataset, budget
        self.company = Company(device)
        self.reserve = PACK  # seconds to keep for the last steps
        self.each = 0.0  # seconds that an item takes in training, by the last choice of a pace
        self.reasons = Reasons(run, since())  # why each choice was made, and where the time went

    def say(self, topic: str, text: str) -> None:
        """A line on stderr and in the log: the topic in a column of its own."""
        self.run.say(f"{topic:<8} {text}")

    def anew(self, differs: list[str]) -> None:
        """Forgets what this run decided when it was begun with other settings or data, and says so."""
        status = self.run.read_status()
        paces = {name: None for name in status if name.startswith("pace")}
        self.run.status(kept={}, stages={}, **paces)
        self.say("resume", f"all choices are made anew, for settings or data differ: {difference.told(differs)}")

    def hold(self, squares: Preprocess) -> None:
        """Takes a sample of the data set where the memory isn't enough for the decoded squares of all of it."""
        count = len(self.dataset)
        most = self.kept("photos held", lambda: data.room(squares, count, here()))
        if most < count:
            self.dataset = replace(self.dataset, items=manifest.sample(self.dataset.items, most))
            self.say("data", f"{most:,} of the {count:,} photos: what the memory holds")

    def held_out(self, *, shown: int = SHOWN) -> Dataset:
        """The items that are held out, and as many of train as a bundle shows beside its answers: what is needed in
        memory where training itself reads from disk."""
        items = self.dataset.items
        train = pc.equal(items["split"], "train")
        some = manifest.sample(items.filter(train), shown)
        return replace(self.dataset, items=pa.concat_tables([items.filter(pc.invert(train)), some]))

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A progress bar for something that may take more than two seconds; on a terminal only."""
        return data.bar(what)

    def hooks(
        self,
        model: Callable[[Learner], Model] | None = None,
        pictures: Pictured | None = None,
        *,
        last: str = "last",
        patience: int = 0,
    ) -> list[object]:
        """Guards, best and last checkpoint, metrics, progress. With `model`, which makes a model of the learner as it
        stands, a long training is published once on the way. last: the folder of the checkpoints, another one for each
        learner of a run. patience: validations in a row without a better score after which training ends; 0: never."""
        early: list[object] = []
        if model is not None and pictures is not None and self.budget is not None and self.budget.seconds >= 40:
            early = [_Early(self, model, pictures)]
        return [
            hooks.NonFinite(self.run.path),
            trend.Trend(chance=math.log(len(self.dataset.classes)), flat=partial(self._flat, last)),
            hooks.Metrics(self.run.metric if last == "last" else partial(self.run.metric, stage=last)),
            hooks.SaveBest(self.run.path / last.replace("last", "best"), say=self.run.note),
            hooks.SaveLast(self.run.path / last, sent=self.run.pushed, before=self.run.flush),
            Progress(say=self.run.say),
            *early,
            *([hooks.EarlyStop(patience)] if patience else []),
        ]

    def kept(self, name: str, decide: Callable[[], Any]) -> Any:
        """What this run decided of `name` (plain JSON) when it was begun, else what `decide` says now: going on, a run
        must not choose again by other measurements. Of several processes the first decides."""

        def again() -> Any:
            known = self.run.read_status().get("kept", {})
            if name in known:
                self.reasons.again(name)
            else:
                known = {**known, name: decide()}
                self.run.status(kept=known)
            return known[name]

        return self.company.first(again)

    @property
    def device(self) -> Many | None:
        """The processes that take part now, where there are several."""
        return self.company.device

    def pace(
        self, net: nn.Module, loader: Loader, criterion: pace.Criterion, *, epochs: int = 0, name: str = "pace"
    ) -> Device:
        """The device on which `net` trains fastest on batches of `loader`, found by trying (see `pace.choose`). A run
        keeps its choice of that `name`: a resume must not round differently, nor in another precision on another number
        of devices. With `devices=N` it is that of all processes."""
        if self.device is not None:
            return self._together(self.device, net, loader, criterion, name)
        status = self.run.read_status()
        kept = status.get(name, status.get("kept", {}).get(name))
        if kept is None:
            x, y = next(iter(loader.epoch(0)))
            steps = epochs * len(loader) if self.budget is None else None
            chosen = pace.choose(net, x, y, criterion, left=self.left(), steps=steps)
            self.say("pace", chosen.why)
            self.reasons.because(name, f"batches of {len(y)}", chosen.why)
            self.each = self.kept(f"{name}: seconds an item", lambda: chosen.seconds / chosen.batch_size)
            found = chosen.device
            kept = {name: getattr(found, name) for name in ("precision", "channels_last", "compiled", "threads")}
            self.run.status(**{name: kept})
        else:
            self.each = self.kept(f"{name}: seconds an item", lambda: kept.get("each", 0.0))
            self.reasons.again(name)
        return One(**{name: value for name, value in kept.items() if name != "each"})

    def sized(
        self,
        net: nn.Module,
        loader: S,
        criterion: Criterion,
        device: Device,
        *,
        least: int | None = None,
        most: int | None = None,
        name: str = "batch size",
    ) -> S:
        """`loader` in batches of the size that suits this machine, found by trying around the size that it has, or from
        `least` to `most` (see `pace.batch_size`), and kept like the pace. The learning rate should follow:
        `optim.linear`, `optim.root`."""

        alone, world = (device.one, device.world) if isinstance(device, Many) else (device, 1)
        tried: list[float] = []  # seconds that an item took

        def decide() -> int:
            x, y = next(iter(loader.epoch(0)))
            found = pace.batch_size(
                alone,  # type: ignore[arg-type]
                net,
                lambda count: (x[torch.arange(count) % len(y)], y[torch.arange(count) % len(y)]),
                criterion,
                least=max(1, (least or min(8, loader.batch_size)) // world),
                most=(most or max(8, len(loader) * loader.batch_size // LEAST)) // world,
                seconds=TRYING * self.left(),
            )
            items = world * found.items
            self.say("pace", f"batches of {items}: {found.why}")
            self.reasons.because(name, f"{items}", found.why)
            tried.append(found.each / world)
            return items

        items = self.kept(name, decide)
        self.each = self.kept(f"{name}: seconds an item", lambda: sum(tried)) or self.each
        return loader.sized(items)

    def left(self) -> float:
        """Seconds until the last steps must begin."""
        return float("inf") if self.budget is None else max(0.0, self.budget.left() - self.reserve)

    def most(self) -> float:
        """The most seconds that the last steps may be expected to take: where a busy machine makes the estimate larger
        than that, a model that has learned and is late is worth more than one that hasn't and is in time."""
        return float("inf") if self.budget is None else MOST * self.budget.seconds

    def hold_back(self, net: nets.Classifier, preprocess: Preprocess, pictures: Pictured, *, looks: int = 1) -> None:
        """Keeps time for the answers of such a net to all that is held out, each picture looked at so many times."""
        held = [part for name, part in pictures.items() if name in ("val", "test")]
        if self.budget is not None and held:
            each = self.kept("seconds of an answer", lambda: seconds(net, preprocess, held[-1]))
            self.reserve = min(self.reserve + looks * sum(map(len, held)) * each, self.most())

    def fit(self, learner: Learner, *, stage: str = "net", epochs: int = 0, share: float = 1.0) -> None:
        """Trains from the learner's last checkpoint, if there is one, until the epochs or this share of the time that
        is left are used up. With `debug=` the learner is looked at instead: raises `debug.Seen`. A net of other
        classes than those of the data: SettingError."""
        require_classes(learner.net, len(self.dataset.classes))
        if learner.lies:
            self.say("plan", learner.lies)
            self.reasons.because(f"items of {stage}", *learner.lies.split(": ", 1))
        if self.settings.debug == "overfit":
            raise debug.Seen(debug.overfit(learner, self.say))
        if self.settings.debug == "profile":
            raise debug.Seen(debug.profile(learner, self.run.path, self.say))
        if isinstance(loader := learner.train_loader, Stream):  # by the room for a cache, which may be another now
            loader.streamed = self.kept(f"{stage}: shard after shard", lambda: loader.streamed)
        folder = next((hook.folder for hook in learner.hooks if isinstance(hook, hooks.SaveLast)), None)
        adapt = partial(self._adapted, learner)
        if folder is not None and checkpoint.resume(learner, folder, self.run.note, adapt=adapt):
            self.run.rewind("epoch", learner.at.epoch, stage=None if folder.name == "last" else folder.name)
            self.say("resume", f"from epoch {learner.at.epoch + 1}, step {learner.at.step}")
        learner.fit(epochs or None, budget=self._stage(stage, share))

    def best(self, learner: Learner) -> None:
        """Puts the weights of the best validated epoch into what the learner has scored."""
        for hook in learner.hooks:
            if isinstance(hook, hooks.SaveBest):
                hook.restore(learner.scored)

    def model(self, learner: Learner, preprocess: Preprocess, pictures: Pictured, *, how: str) -> Model:
        """What the learner has now, with its answers on the validation split."""
        net, val = learner.device.plain(learner.scored), pictures.get("val") or pictures["train"]
        if not learner.device.main:
            raise Follows
        logits, embedding = answers(net, preprocess, val)  # type: ignore[arg-type]
        return Model(
            net=net,  # type: ignore[arg-type]
            preprocess=preprocess,
            logits=logits,
            embedding=embedding,
            labels=val.labels.numpy(),
            uris=val.uris,
            splits=("val" if "val" in pictures else "train",) * len(val),
            how=how,
        )

    def _adapted(self, learner: Learner, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint as this run can go on with it; with `force` that is whatever fits."""
        differs = bool(self.run.read_status().get("differs"))
        if not (self.settings.force or differs):
            return state
        found, lines = fitting.adapted(state, learner, afresh=differs)
        for line in lines:
            self.say("resume", line)
        if lines and learner.device.main:  # a best of other weights or data is none
            for hook in learner.hooks:
                if isinstance(hook, hooks.SaveBest):
                    checkpoint.back_to(hook.folder, -1)
        return found

    def _flat(self, last: str, told: str) -> None:
        stage = "" if last == "last" else f" of {last.removeprefix('last-')}"
        self.say("plateau", told + ": the rest of the time may be wasted")
        self.reasons.because(f"plateau{stage}", "trained on", told)

    def _together(self, device: Many, net: nn.Module, loader: Loader, criterion: Criterion, name: str) -> Device:
        """All processes compute in the way that is fastest for the first, tried on its share of a batch."""

        def decide() -> dict[str, Any]:
            if alone := self.run.read_status().get(name):  # begun on one device
                return {name: alone[name] for name in ("precision", "channels_last")}
            x, y = next(iter(shared(loader, device).epoch(0)))
            chosen = pace.choose(net, x, y, criterion, name=str(device.place), left=0.0)
            self.reasons.because(name, f"batches of {len(y)}", chosen.why)
            each = chosen.seconds / (chosen.batch_size * device.world)
            return {
                "precision": chosen.device.precision,
                "channels_last": chosen.device.channels_last,
                "each": each,
            }

        kept = self.kept(name, decide)
        self.each = kept.pop("each", 0.0)  # runs that were begun on one device, or long ago, have none
        device.use(**kept)
        self.say("pace", device.describe())
        return device

    def _stage(self, name: str, share: float) -> TimeBudget | None:
        """The time of one stage: its share of what is left now, or, on going on, of what was left when it began."""
        if self.budget is None:
            return None
        planned = dict(self.run.read_status().get("stages", {}))
        if name not in planned:
            planned[name] = round(share * self.left(), 3)
            self.run.status(stages=planned)
        return TimeBudget(max(planned[name], 0.1))


@final
class _Early:
    """Publishes the model once, when the first tenth or so of the time is over."""

    def __init__(self, session: Session, model: Callable[[Learner], Model], pictures: Pictured) -> None:
        self.session, self.model, self.pictures = session, model, pictures
        self.done = session.run.bundle is not None

    def pause(self, learner: Learner) -> None:
        """Publishes when it is time."""
        budget = self.session.budget
        if not learner.device.main or learner.device.spread:
            return
        if self.done or budget is None or budget.elapsed() < FIRST * budget.seconds:
            return
        self.done = True
        began = time.monotonic()
        model = self.model(learner)
        publish(self.session.run, self.session.dataset, model, self.pictures)
        right = float((model.logits.argmax(1) == model.labels).mean())
        self.session.say("usable", f"after {budget.elapsed():.0f} s: {right:.1%} of {len(model.labels)} held-out items")
        self.session.reserve = max(self.session.reserve, 1.0 + time.monotonic() - began)


@contextmanager
def begin(
    settings: Settings,
    *,
    canvas: Preprocess | None = None,
    fallback: str = "",
    epochs: int = 0,
) -> Iterator[Session]:
    """Opens the data and the run folder; the run is closed, with its state, when the block ends.

    canvas: how pictures will be prepared, if that is known already, so that each file is decoded once only.
    fallback: a data set to take, with a line that says so, when the wanted one can't be had without a network.
    Raises DataError when there are fewer than two classes, or nothing to train on.
    """
    trackers = following.wanted(settings.tracker)
    clock = _clock(settings, epochs)
    # The settings are read here: which of them a model knows is told by its own files and by what those import.
    read = partial(
        artifact.open,
        seed=settings.split_seed,
        splits=settings.splits,
        limit=settings.limit,
        skip_bad=settings.skip_bad,
        canvas=canvas,
        seconds=None if clock is None else LOOK * clock.left(),
        progress=data.bar("checking"),
    )
    alone = settings.devices == 1 and (many.started() or (1, 1)) == (1, 1)
    device = None if alone else Many(settings.devices, strategy=settings.strategy)
    if device is not None and not device.main:
        found = partial(data.opened, read, settings.io.training_input, fallback, [])
        yield _following(settings, clock, device, found)
        return
    notes: list[str] = []
    seen: debug.Seen | None = None
    # The first optimizer imports torch's compiler, wanted or not, which takes more than a second: beside the reading.
    threading.Thread(target=import_module, args=("torch._dynamo",), daemon=True).start()
    try:
        dataset = data.opened(read, settings.io.training_input, fallback, notes)
        identity = hashlib.sha256(f"{settings.identity()} {dataset.version}".encode()).hexdigest()
        begun = Run.begin(settings, identity, dataset.name, dataset.version)
    except BaseException:
        if device is not None:
            device.share("")
        raise
    with following.mirrored(trackers) as mirror, begun as run:
        run.provenance(settings)
        keep(run, dataset)
        mirror(run)
        session = Session(settings, run, dataset, clock, device)
        _introduce(session, notes)
        if device is not None:
            _announce(run, device)
        try:
            yield session
            if settings.debug in ("overfit", "profile"):
                session.say(settings.debug, "there was nothing to look at: no net learned in batches here")
        except debug.Seen as looked:  # nothing failed
            seen = looked
        finally:
            session.company.dismiss()
    if seen is not None:
        raise seen


def _introduce(session: Session, notes: list[str]) -> None:
    """The lines that a training begins with."""
    run, device = session.run, session.device
    if differs := run.read_status().get("differs"):
        session.anew(differs)
    session.say("run", f"{run.path}{'  (going on where it stopped)' if run.resumed else ''}")
    devices = 1 if device is None else device.world
    earlier = run.read_status().get("devices", devices)
    if earlier != devices:
        notes.append(f"begun on {earlier} devices, going on with {devices}: the same up to rounding")
    run.status(devices=devices)
    for note in notes:
        session.say("data", note)
    session.say("data", data.describe(session.dataset))
    for line in data.faults(session.dataset):
        session.say("check", line)


def _announce(run: Run, device: Many) -> None:
    """Tells the other processes where the run folder is; those of other machines find it at its output."""
    try:
        if device.world > here(device.world):
            run.push()
    except BaseException:
        device.share("")
        raise
    device.share(str(run.path))


def _following(settings: Settings, clock: TimeBudget | None, device: Many, find: Callable[[], Dataset]) -> Session:
    """The session of a process that is not the first: it waits until that one has begun, and sees the same data. On
    another machine it gets (`find`) the files by itself; what is in which split, the first one says."""
    place = device.share("")
    if not place:
        raise Follows
    folder = Path(place)
    if (folder / "status.json").is_file():
        return Session(settings, Follower(path=folder), manifest.load(folder), clock, device)
    folder = afar.bring(place, settings.output)
    dataset = replace(manifest.load(folder), root=find().root)
    return Session(settings, Follower(path=folder), dataset, clock, device)


def require_classes(net: nn.Module, classes: int) -> None:
    """SettingError where the last layer of the net's head has not as many outputs as there are classes."""
    last = [part for part in getattr(net, "head", nn.Identity()).modules() if isinstance(part, nn.Linear)][-1:]
    if last and last[0].out_features != classes:
        raise SettingError(
            f"The net answers with {last[0].out_features} classes, the data has {classes}.",
            where=type(net).__name__,
            remedy="Build its head for len(s.dataset.classes) classes.",
        )


def _clock(settings: Settings, epochs: int) -> TimeBudget | None:
    if settings.budget is None and epochs:
        return None
    clock = TimeBudget(settings.budget or BUDGET)
    clock.carry(min(since(), clock.seconds))
    return clock


def since() -> float:
    """Seconds since the person's command began; where no command did, those that this process was busy."""
    try:
        return max(time.time() - float(os.environ.get(STARTED, "")), 0.0)
    except ValueError:
        return time.process_time()
