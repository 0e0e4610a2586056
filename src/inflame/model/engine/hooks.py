"""Hooks of the loop: what is watched, kept and stopped while a `Learner` runs. A plain list, told in its order.

A hook is any object with methods named as in `learner.EVENTS`; one with `state_dict` and `load_state_dict` has a memory
that goes to the checkpoint.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from inflame import store
from inflame.errors import Diverged, SettingError
from inflame.model.engine import checkpoint, fitting, sharding
from inflame.model.engine.learner import CancelFit, Learner
from inflame.model.engine.progress import Progress

# Progress too is found where all hooks are.
__all__ = [
    "Clip",
    "EarlyStop",
    "Ema",
    "Freeze",
    "Interrupted",
    "Metrics",
    "NonFinite",
    "Progress",
    "SaveBest",
    "SaveLast",
]

ASKED = 0.5  # seconds, about, after which several processes ask each other again whether to stop

_warn = logging.getLogger("inflame").warning


class Interrupted(KeyboardInterrupt):
    """Told to stop, after the checkpoint was saved. `signum` is the signal: the exit code is 128 + signum."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def score(learner: Learner) -> tuple[float, float] | None:
    """How good the last epoch was, bigger is better: accuracy, then minus the loss; of validation where there is one.
    None when that epoch wasn't validated, or when its loss is no number."""
    kind = "" if learner.val_loader is None else "val_"
    accuracy, loss = learner.metrics.get(f"{kind}accuracy", math.nan), learner.metrics.get(f"{kind}loss", math.nan)
    return (accuracy, -loss) if math.isfinite(accuracy) and math.isfinite(loss) else None


@final
class SaveLast:
    """Keeps the newest checkpoint in `folder`, so that a run that is killed at any moment goes on where it was.

    Saves every `every` seconds, at the end of epochs and of training, and when told to stop (Ctrl-C, SIGTERM, SIGHUP):
    then the handler that was there before is called, as soon as the batch at hand is done, or Interrupted is raised. A
    second Ctrl-C doesn't wait. A thread writes (see `checkpoint.Writer`); it takes no more than about `share` of the
    time, however big the net; of epochs that are shorter than `every` / 20 not every end is saved. sent: called in that
    thread with each file that was written; before: called before each is begun, to write what goes with it. Several
    processes stop after the same batch, where one of them is told to.
    """

    _STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(
        self,
        folder: Path,
        *,
        every: float = 10.0,
        share: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
        sent: Callable[[Path], None] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.every, self.share, self._clock, self._before = folder, every, share, clock, before
        self.writer = checkpoint.Writer(sent=sent, clock=clock)
        self._calmer = ""
        self._told: int | None = None
        self._process = os.getpid()
        self._handlers: dict[int, Any] = {}
        self._saved, self._stall = 0.0, 0.0  # when the last one was begun, and how long the loop stood still for it
        self._asked, self._pauses, self._stride = 0.0, 0, 1  # when others were asked; pauses since then, and until then

    def before_fit(self, learner: Learner) -> None:
        """Watches for signals from now on, and clears away what a killed run left half written."""
        self._told, self._process = None, os.getpid()
        self._saved, self._stall = self._clock(), 0.0
        self._asked, self._pauses, self._stride = self._saved, 0, 1
        if learner.device.main and self.folder.is_dir():
            store.sweep(self.folder)
        for number in self._STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup and shells mean it when they ignore one
                with suppress(ValueError):  # only the main thread may; elsewhere a stop is the caller's business
                    self._handlers[number] = signal.signal(number, self._catch)

    def pause(self, learner: Learner) -> None:
        """Saves when it is time; when told to stop, saves and stops."""
        stops = self._told is not None
        # What is being written is as new as the disk allows; what may be spoilt must not push out what isn't.
        waits = (self.every and self.writer.busy(self.folder)) or learner.suspect
        saves = stops or (not waits and self._clock() >= self._due(at_end=learner.at.batch == 0))
        spoilt = learner.suspect
        if learner.device.world > 1:
            stops, saves, spoilt = self._agreed(learner, stops, saves, spoilt)
        if stops:
            self._told = self._told or signal.SIGTERM
            try:
                if not spoilt:
                    self.save(learner)
            except BaseException:  # no checkpoint: that is the news, not that somebody pressed Ctrl-C
                self._told = None
                raise
            self.close(learner)
        elif saves:
            self._begin(learner)

    def after_fit(self, learner: Learner) -> None:
        """Saves the finished state, from which a resume has nothing to do; waits until it is sent as well."""
        self.save(learner)
        self.writer.finish()

    def close(self, learner: Learner) -> None:
        """Gives the signals back to whoever had them, and hands on one that came."""
        before = dict(self._handlers)
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler or signal.SIG_DFL)
        told, self._told = self._told, None
        with suppress(Exception):  # after an error: that is the news
            self.writer.wait()
        if told is not None:
            if callable(before.get(told)):
                before[told](told, None)
            raise Interrupted(told)

    def save(self, learner: Learner) -> None:
        """Saves now; durable when it returns. Weights that aren't finite: Diverged, and the last good one stays."""
        self._begin(learner)
        self.writer.wait()

    def back_to(self, step: int) -> int | None:
        """Takes back what was saved after `step` steps; gives the step of what is left, None where nothing is."""
        with suppress(Exception):  # something else went wrong: that is the news
            self.writer.wait()
        return checkpoint.back_to(self.folder, step)

    def _agreed(self, learner: Learner, stops: bool, saves: bool, spoilt: bool) -> tuple[bool, bool, bool]:
        """What all processes do: they stop where any one is told to, and save by the first one's clock. Asking makes a
        step wait, so it is done every so many pauses only, and at the end of epochs; in between nothing happens."""
        self._pauses += 1
        if self._pauses < self._stride and learner.at.batch:
            return False, False, spoilt
        now, first = self._clock(), float(learner.device.main)
        each = max(now - self._asked, 1e-6) / self._pauses
        stride = max(1.0, min(2.0 * self._stride, ASKED // each))
        given = torch.tensor([float(stops), first * saves, first * spoilt, first * stride], device=learner.device.place)
        told = learner.device.reduce(given).tolist()
        self._asked, self._pauses, self._stride = now, 0, int(told[3])
        return told[0] > 0, told[1] > 0, told[2] > 0

    def _begin(self, learner: Learner) -> None:
        self._saved, self._calmer = self._clock(), calmer(learner)
        state = fitting.gathered(learner)
        if learner.device.main:
            self._before()
            self.writer.save(state, self.folder, check=self._sound)
        self._stall = self._clock() - self._saved

    def _sound(self, state: dict[str, Any]) -> None:
        if not all(bool(value.isfinite().all()) for value in state["net"].values() if value.is_floating_point()):
            raise Diverged(
                f"A weight is no longer finite (step {state['at']['step']}); the checkpoint before it is kept.",
                where=str(self.folder),
                remedy=self._calmer,
            )

    def _due(self, *, at_end: bool) -> float:
        """When the next one is to be saved; the end of the first epoch is in any case."""
        cost = max(self._stall, self.writer.took.get(self.folder, 0.0), self.writer.sending)
        if not cost:
            return self._saved + (0.0 if at_end else self.every)
        return self._saved + max(self.every / 20 if at_end else self.every, cost / self.share)

    def _catch(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a forked worker has nothing to save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._told is not None and number == signal.SIGINT:  # supervisors repeat SIGTERM: that changes nothing
            raise Interrupted(number)
        else:
            self._told = number


@final
class SaveBest:
    """Keeps in `folder` the weights of the best epoch of the whole run, also over resumes: `{"net", "metrics"}`.

    What `folder` holds is the truth: a best that was saved after the checkpoint from which a run goes on still counts.
    The thread of `SaveLast` writes, where there is one: a checkpoint that knows of a best never comes before it.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None] = _warn) -> None:
        self.folder, self.say = folder, say
        self._writer = checkpoint.Writer()
        self.score: tuple[float, float] | None = None

    def before_fit(self, learner: Learner) -> None:
        """Looks up how good the kept weights are, and clears away what a killed run left half written."""
        self._writer = next((hook.writer for hook in learner.hooks if isinstance(hook, SaveLast)), self._writer)
        if learner.device.main and self.folder.is_dir():
            store.sweep(self.folder)
        kept = checkpoint.load(self.folder, self.say) if learner.device.main else None
        if learner.device.main and kept is None and self.score is not None:
            self.say(f"The best weights so far (accuracy {self.score[0]:.4f}) are no longer in {self.folder}.")
        self.score = None if kept is None else (kept["score"][0], kept["score"][1])

    def after_epoch(self, learner: Learner) -> None:
        """Keeps the weights of this epoch if it is the best so far."""
        now = score(learner)
        better = now is not None and (self.score is None or now > self.score)
        if learner.device.spread:  # all must take part, and the first one knows
            better = bool(learner.device.agree(float(better)))
        if not better or now is None:
            return
        self.score = now
        weights = learner.device.whole(learner.scored.state_dict())
        if learner.device.main:
            self._writer.save({"net": weights, "metrics": learner.metrics, "score": now}, self.folder)

    def after_fit(self, learner: Learner) -> None:
        """Waits until the best is on the disk."""
        self._writer.wait(self.folder)

    def close(self, learner: Learner) -> None:
        """The same, after an error too."""
        with suppress(Exception):  # that is the news
            self._writer.wait(self.folder)

    def restore(self, net: nn.Module) -> dict[str, float]:
        """Puts the best weights into `net` and gives the metrics of their epoch; with none kept, {} and no change."""
        self._writer.wait(self.folder)
        kept = checkpoint.load(self.folder, self.say)
        if kept is None:
            return {}
        sharding.restore(net, kept["net"])
        metrics: dict[str, float] = kept["metrics"]
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The best score."""
        return {"score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the best score."""
        self.score = state["score"]


@final
class EarlyStop:
    """Ends training after `patience` validations in a row without a better score; 0: never."""

    def __init__(self, patience: int) -> None:
        self.patience, self.waited = patience, 0
        self.score: tuple[float, float] | None = None

    def before_fit(self, learner: Learner) -> None:
        """Stops at once a run that had already been stopped."""
        self._stop()

    def after_epoch(self, learner: Learner) -> None:
        """Counts, and stops when it is enough."""
        now = score(learner)
        if now is None:
            return
        if self.score is None or now > self.score:
            self.score, self.waited = now, 0
        else:
            self.waited += 1
        self._stop()

    def _stop(self) -> None:
        if self.patience and self.waited >= self.patience:
            raise CancelFit

    def state_dict(self) -> dict[str, Any]:
        """The best score and the count."""
        return {"score": self.score, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the best score and the count."""
        self.score, self.waited = state["score"], state["waited"]


@final
class Ema:
    """Averages weights (and the statistics of batch norms) over steps, and has the average validated and kept as best.

    After each `every`-th step the average moves by 1 - `decay` ** `every` towards the net, faster in the beginning.
    `net` is the average, a module of its own.
    """

    def __init__(self, decay: float, *, every: int = 1) -> None:
        self.decay, self.every, self.updates = decay, every, 0
        self.net: nn.Module | None = None
        self._loaded: dict[str, Tensor] = {}
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._whole: list[tuple[Tensor, Tensor]] = []

    def before_fit(self, learner: Learner) -> None:
        """Begins with a copy of the net, or with the average of the checkpoint."""
        if learner.device.spread:
            raise SettingError(
                "No average of the weights can be kept of a net that is spread over devices.",
                where="hyperparam.ema",
                remedy="hyperparam.ema=0, or strategy=ddp where the net fits into one device",
            )
        if self.net is None:
            self.net = copy.deepcopy(learner.net).requires_grad_(False).eval()
        if self._loaded:
            self.net.load_state_dict(self._loaded)
            self._loaded = {}
        learner.scored = average = self.net
        mine, theirs = average.state_dict(), learner.net.state_dict()
        floats = [name for name in mine if mine[name].is_floating_point()]
        self._pairs = [mine[name] for name in floats], [theirs[name] for name in floats]
        self._whole = [(mine[name], theirs[name]) for name in mine if name not in set(floats)]

    def after_batch(self, learner: Learner) -> None:
        """Moves the average."""
        if learner.at.step % self.every:
            return
        self.updates += 1
        decay = min(self.decay**self.every, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(*self._pairs, 1.0 - decay)
            for mine, theirs in self._whole:
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"net": {} if self.net is None else self.net.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the average, when training begins."""
        self._loaded, self.updates = state["net"], state["updates"]


@final
class Clip:
    """Scales the gradients of every step so that their total L2 norm is at most `norm`."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def before_step(self, learner: Learner) -> None:
        """Clips."""
        learner.device.clip(learner.net, learner.optimizer, self.norm)


@final
class Freeze:
    """Keeps modules in evaluation mode while the rest trains: the batch norms of a body that isn't trained, say."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules

    def before_epoch(self, learner: Learner) -> None:
        """Puts the modules back to evaluation mode, since the learner put all of them to training mode."""
        for module in self.modules:
            module.eval()


@final
class NonFinite:
    """Stops with Diverged before the step that would poison the weights, and saves the batch to `folder`.

    The loss is looked at in every step. On the CPU so are all gradients; on a GPU looking at them means waiting for
    each backward pass, so it is done only with `gradients=True`. The loss is read there as soon as it is known, while
    the backward pass runs. In fp16 gradients that overflow are usual, and the scaler's business.
    """

    FILE: Final = "diverged.safetensors"

    def __init__(self, folder: Path, *, gradients: bool | None = None) -> None:
        self.folder, self.gradients = folder, gradients
        self._copy: Tensor | None = None
        self._event: torch.cuda.Event | None = None
        self._found, self._one = torch.zeros(()), torch.ones(())
        self._look, self._spread = True, False
        self._parameters: list[Tensor] = []

    def before_fit(self, learner: Learner) -> None:
        """Settles whether gradients are looked at."""
        place = learner.device.place
        self._look = (place.type == "cpu" if self.gradients is None else self.gradients) and not learner.device.scales
        self._found, self._one = torch.zeros((), device=place), torch.ones((), device=place)
        self._spread = learner.device.spread
        self._parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]

    def before_backward(self, learner: Learner) -> None:
        """On a GPU, sends for the loss without waiting for it."""
        if learner.value.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copy = learner.value.detach().to("cpu", non_blocking=True)
            self._event.record()

    def before_step(self, learner: Learner) -> None:
        """Looks at the loss and the gradients."""
        value = learner.value
        if self._event is not None and self._copy is not None:
            self._event.synchronize()
            value = self._copy
        loss = value.item()
        if loss - loss != 0.0:  # nan and both infinities
            self._stop(learner, f"The loss became {loss}")
        if self._look and self._poisoned(learner):
            self._stop(learner, f"The loss is {loss:.4g}, but a gradient is no longer finite")

    def _poisoned(self, learner: Learner) -> bool:
        """Whether any gradient has a value that isn't finite: one call for all of them, 2 µs for a tiny net."""
        gradients: list[Any] = [p.grad for p in self._parameters if p.grad is not None]
        if self._spread:
            gradients = [gradient.to_local() for gradient in gradients]
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
        return self._found.item() != 0.0

    def _stop(self, learner: Learner, what: str) -> None:
        self._found.zero_()
        file = self.folder / self.FILE
        with store.atomic(file) as temporary:
            place = {"step": learner.at.step, "epoch": learner.at.epoch, "batch": learner.at.batch}
            checkpoint.write({"x": learner.x, "y": learner.y, **place}, temporary)
        sound = bool(learner.x.isfinite().all())
        raise Diverged(
            f"{what} in epoch {learner.at.epoch + 1}, batch {learner.at.batch + 1}; the weights were not touched.",
            where=f"{file} (the batch)",
            remedy=calmer(learner)
            if sound
            else "The pictures of that batch hold values that aren't finite: mend them.",
        )


@final
class Metrics:
    """Gives every epoch's numbers to `write(**row)`, such as `run.metric`: epoch, step, loss, accuracy, lr, seconds;
    where validated also val_loss and val_accuracy. After a resume an epoch may come twice: the later row counts."""

    def __init__(self, write: Callable[..., None]) -> None:
        self.write = write

    def after_epoch(self, learner: Learner) -> None:
        """Writes the row."""
        if learner.device.main:
            self.write(**learner.metrics)


def calmer(learner: Learner) -> str:
    """The way out when training blew up."""
    rate = learner.optimizer.param_groups[0]["lr"]
    exact = "" if learner.device.precision == "fp32" else ", or train in fp32"
    return f"Lower hyperparam.learning_rate (it was {rate:.3g} in this step; try a third of the one set){exact}."
