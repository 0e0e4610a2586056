"""What a step does: the usual one, and what becomes of it where memory is short."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, final

import torch
from torch import Tensor

from inflame.errors import UserError
from inflame.model.engine.memory import freed, short

if TYPE_CHECKING:
    from inflame.model.engine.learner import Learner

_warn = logging.getLogger("inflame").warning


def plain_step(learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The usual step; pass another one as `Learner(step=…)`. Gives the logits and the loss, to be counted."""
    found = _gradients(learner, x, y)
    learner.step()
    learner.zero_grad()
    return found


def _gradients(learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = learner.predict(x)
    loss = learner.loss(logits, y)
    learner.backward(loss)
    return logits, loss


@final
class Careful:
    """The usual step, which doesn't die where memory is short: the batch goes through in two parts then, or four, …

    Gradients are those of the whole batch, up to rounding (batch norm apart, whose statistics are of one part); how
    many parts it takes is kept in the checkpoint.

    Several processes must do alike: in the first steps, and after each change, none shares its gradients before all
    have said that memory was enough. Afterwards they share them while they are made, and one whose memory is short all
    the same has lost the others: all are started again (see `many`), and take care anew.
    """

    FIRST: Final = 3  # steps; in the first one optimizers make room for what they remember

    def __init__(self) -> None:
        self.parts = 1
        self._well = 0  # steps since the last change in which all processes had memory enough

    def __call__(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The step. One item that doesn't fit: the error is raised, of several processes UserError."""
        if learner.device.world > 1 and not learner.device.spread:
            return self._shared(learner, x, y) if self._well >= self.FIRST else self._together(learner, x, y)
        while True:
            try:
                return plain_step(learner, x, y) if self.parts == 1 else self._in_parts(learner, x, y)
            except (RuntimeError, MemoryError) as error:
                if not short(error) or self.parts >= len(y) or learner.device.world > 1:
                    raise
            # Only here, where the error and all that it holds on to are gone, is there memory again.
            self._more(learner, len(y))

    def _shared(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return plain_step(learner, x, y) if self.parts == 1 else self._in_parts(learner, x, y)
        except (RuntimeError, MemoryError) as error:
            if not short(error):
                raise
            raise RuntimeError(f"Memory is short here, and the other processes wait in vain: {error}") from error

    def _together(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A step that no process takes before all have had memory enough for their gradients."""
        while True:
            found = self._alone(learner, x, y)
            lacks = 0 if found is not None else 1 if self.parts < len(y) else 2
            lacks = int(learner.device.most(lacks))
            if not lacks and found is not None:
                break
            if lacks > 1:
                raise UserError(
                    "The memory of one of the devices isn't enough for a single item.",
                    remedy="Take smaller items (hyperparam.size=…), a smaller net, or larger devices.",
                )
            found = None
            self._more(learner, len(y))
        learner.device.exchange(learner.optimizer)
        learner.step()
        learner.zero_grad()
        self._well += 1
        return found

    def _alone(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """The gradients of this process, which no other hears of; None where memory is short."""
        model, learner.model = learner.model, learner.net
        try:
            return self._summed(learner, x, y)
        except (RuntimeError, MemoryError) as error:
            if not short(error):
                raise
            return None
        finally:
            learner.model = model

    def _in_parts(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = self._summed(learner, x, y)
        learner.step()
        learner.zero_grad()
        return found

    def _summed(self, learner: Learner, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss of all parts, whose gradients add up to those of the batch."""
        if self.parts == 1:
            return _gradients(learner, x, y)
        found, total = [], torch.zeros((), device=learner.device.place)
        for mine, labels in zip(x.chunk(self.parts), y.chunk(self.parts), strict=True):
            logits = learner.predict(mine)
            loss = learner.loss(logits, labels) * (len(labels) / len(y))
            learner.backward(loss)
            found.append(logits.detach())
            total += loss.detach()
        learner.value = total
        return torch.cat(found), total

    def _more(self, learner: Learner, items: int) -> None:
        learner.zero_grad()
        self.parts, self._well = 2 * self.parts, 0
        if learner.device.main:
            _warn(f"Memory is short: batches of {items} go through in {self.parts} parts from now on.")
        freed()
