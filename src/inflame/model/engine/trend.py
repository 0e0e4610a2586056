"""Where a training is going: a loss that runs away ends it, a score that no longer moves is said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from inflame.errors import Diverged
from inflame.model.engine.hooks import SaveLast, calmer, score
from inflame.model.engine.learner import Learner

TIMES = 4.0  # a smoothed loss so many times its best has run away, if it is also beyond chance and the first one
STEPS = 100  # for so many steps in a row
FEWEST = 10  # steps that are enough at the end, where they are half of all
NEW = 0.1  # weight of a new loss in the smoothed one
MOST = 2.0  # times the limit, above which a loss counts no more: a single one must not ring
EVERY = 8  # steps between two looks at a GPU's loss …
SECONDS = 0.25  # … or less, where a step takes long
FLAT = 0.5  # share of the training without a better score that is worth a line
SEEN = 5  # validations in it, at least


@final
class Trend:
    """Stops with Diverged when the smoothed loss is far above its best, above the first one and above `chance` (what a
    net has that knows nothing) for `STEPS` steps; says once when the score of validation doesn't improve for half of
    the training, which goes on. To be before `SaveLast`, which saves nothing while the loss is up there; a checkpoint
    that was saved after the loss began to run is taken back.

    On a GPU a loss is asked for now and then, without waiting for it, so it is seen in whole steps as graphs too.
    """

    def __init__(self, *, chance: float = 0.0, flat: Callable[[str], None] | None = None) -> None:
        self.chance, self.flat = chance, flat
        self.first = self.best = self.smooth = math.nan
        self.sound, self.since = 0, 0  # the last step with weights that are known to be good; the first one above
        self.above = False
        self.score: tuple[float, float] | None = None
        self.reached, self.epoch, self.waited, self.said = 0.0, 0, 0, False
        self._every, self._main = 1, True
        self._next, self._looked = 0, 0.0
        self._sent: tuple[int, Tensor, torch.cuda.Event] | None = None

    def before_fit(self, learner: Learner) -> None:
        """Settles how often to look."""
        self._every, self._main = (1 if learner.device.place.type == "cpu" else EVERY), learner.device.main
        self._next, self._sent = learner.at.step, None

    def after_batch(self, learner: Learner) -> None:
        """Looks at the loss, on a GPU at one that has arrived meanwhile."""
        step = learner.at.step
        if not self._main or (step < self._next and time.monotonic() - self._looked < SECONDS):
            return
        self._next, self._looked = step + self._every, time.monotonic() if self._every > 1 else 0.0
        value = learner.value
        if not value.is_cuda:
            if value.numel() == 1:  # a step of one's own may leave none
                self._see(learner, step, value.item())
            return
        self._arrived(learner)
        if self._sent is None:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copy = value.detach().to("cpu", non_blocking=True)
            event.record()
            self._sent = step, copy, event

    def after_epoch(self, learner: Learner) -> None:
        """Looks at the score."""
        now = score(learner)
        if now is None:
            return
        if self.score is None or now > self.score:
            self.score, self.reached, self.epoch, self.waited = now, learner.progress, learner.at.epoch + 1, 0
            return
        self.waited += 1
        share = learner.progress - self.reached
        if self.flat is not None and not self.said and self.waited >= SEEN and share >= FLAT:
            self.said = True
            kind = "training" if learner.val_loader is None else "validation"
            self.flat(f"{kind} has not improved since epoch {self.epoch} (accuracy {self.score[0]:.1%})")

    def after_fit(self, learner: Learner) -> None:
        """A short training that ends with a loss that ran away for half of it has diverged as well."""
        self._arrived(learner, wait=True)
        for_steps = learner.at.step - self.since
        if self.above and for_steps >= max(FEWEST, learner.at.step / 2):
            self._stop(learner)

    def state_dict(self) -> dict[str, Any]:
        """What was seen."""
        loss = {"first": self.first, "best": self.best, "smooth": self.smooth, "sound": self.sound}
        flat = {"score": self.score, "reached": self.reached, "epoch": self.epoch, "waited": self.waited}
        return {**loss, "since": self.since, "above": self.above, **flat, "said": self.said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what was seen."""
        for name, value in state.items():
            setattr(self, name, value)

    def _arrived(self, learner: Learner, *, wait: bool = False) -> None:
        if self._sent is not None:
            step, copy, event = self._sent
            if wait:
                event.synchronize()
            if event.query():  # type: ignore[no-untyped-call]
                self._sent = None
                self._see(learner, step, copy.item())

    def _see(self, learner: Learner, step: int, loss: float) -> None:
        """The loss of the `step`-th step, which the weights before that step gave."""
        if loss - loss != 0.0:  # nan and both infinities: in a graph no other guard looks
            self.since, self.smooth = step, loss
            self._stop(learner)
        if self.first != self.first:  # nan: the first one
            self.first = self.best = self.smooth = loss
        limit = max(self.chance, self.first, TIMES * self.best)
        self.smooth += NEW * (min(loss, MOST * limit) - self.smooth)
        if self.smooth < self.best:
            self.best = self.smooth
        if self.smooth <= limit:
            self.above = False
            if loss <= limit and self.smooth <= limit / 2:
                self.sound = step - 1
        elif not self.above:
            self.above, self.since = True, step
        elif step - self.since >= STEPS:
            self._stop(learner)
        learner.suspect = self.above or loss > limit

    def _stop(self, learner: Learner) -> None:
        last = next((hook for hook in learner.hooks if isinstance(hook, SaveLast)), None)
        kept = None if last is None else last.back_to(self.sound)
        rate = calmer(learner)
        what = f"its best was {self.best:.3g}" if math.isfinite(self.best) else "it never was a number"
        loss = f"{self.smooth:.3g}" if math.isfinite(self.smooth) else f"{self.smooth}"
        again = "" if kept is None else f" The checkpoint of step {kept} is from before: resume=RUN force=true."
        raise Diverged(
            f"The loss has run away since step {max(self.sound, 1)}: it is about {loss}, and {what}.",
            where=f"epoch {learner.at.epoch + 1}, step {learner.at.step}",
            remedy=f"{rate}{again}",
        )
