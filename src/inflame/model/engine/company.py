"""Several processes at one training, of which the first may work alone while the others wait for what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, final

import torch

from inflame import host
from inflame.model.engine import many
from inflame.model.engine.processes import Many
from inflame.runs import Follows


@final
class Company:
    """All processes of a training; `device`: those that take part now. None where there is but one, which then decides
    everything by itself, and nobody waits."""

    def __init__(self, device: Many | None) -> None:
        self.device = device
        self._others: Many | None = None  # those that wait while the first process works alone

    @property
    def follows(self) -> bool:
        """Whether this is one of several processes, and not the first."""
        return self.device is not None and not self.device.main

    def first(self, decide: Callable[[], Any]) -> Any:
        """What the first of several processes decides (plain JSON), for all of them; where it fails, the others
        leave."""
        if self.device is None:
            return decide()
        if self.follows:
            return self.called()
        try:
            found = decide()
        except BaseException:
            self.device.share("")
            raise
        self.device.share(json.dumps(found))
        return found

    def alone(self) -> None:
        """From here on the first process works alone, with all cores, as if it were the only one. The others must be
        waiting in `called`."""
        if self.device is not None:
            self._others, self.device = self.device, None
            torch.set_num_threads(host.cores())

    def call(self, plan: Any) -> None:
        """Ends `alone`: the others are told `plan` (plain JSON) and take part again."""
        if self._others is not None:
            self.device, self._others = self._others, None
            torch.set_num_threads(max(1, host.cores() // here()))
            self.device.share(json.dumps(plan))

    def called(self) -> Any:
        """In another process than the first: what that one decides or calls for, however long it takes. Raises Follows
        where there is nothing left to do."""
        assert self.device is not None
        told = self.device.share("")
        if not told:
            raise Follows
        return json.loads(told)

    def dismiss(self) -> None:
        """Has those leave that still wait in `called`."""
        if self._others is not None:
            self._others.share("")
            self._others = None

    def refuse(self, why: str) -> None:
        """Refuses several processes for a training that has no use for them. SettingError of the first one, the others
        follow."""
        device = self.device or self._others
        if device is not None:
            many.refuse(why, device.world)


def here(usual: int = 1) -> int:
    """How many of the processes are on this machine; `usual` where torchrun didn't start them."""
    return (many.started() or (usual, 1))[0]
