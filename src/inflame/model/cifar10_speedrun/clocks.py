"""Three clocks, because a speed run that shows only the kindest one misleads: see model-config.toml."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

import torch

from inflame import store
from inflame.config import Settings
from inflame.model.engine.learner import Learner


@final
class Clocks:
    """Counts `warm` seconds: those inside `running`, and, as a hook, those from the beginning of each epoch to the end
    of its last batch. It waits for the device before each reading. A resume goes on counting."""

    def __init__(self, place: torch.device) -> None:
        self.place, self.warm = place, 0.0
        self._began: float | None = None

    def before_epoch(self, learner: Learner) -> None:
        """Starts."""
        self._start()

    def after_batch(self, learner: Learner) -> None:
        """Stops after an epoch's last batch: what validates and saves is no training."""
        if learner.at.batch == len(learner.train_loader):
            self._stop()

    def after_epoch(self, learner: Learner) -> None:
        """Stops in an epoch that the time has cut short."""
        self._stop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts what happens inside."""
        self._start()
        yield
        self._stop()

    def read(self, file: Path, process: float | None) -> dict[str, float | None]:
        """`{"warm", "cold", "first"}` in seconds. process: those since the command began, None where that wasn't this
        process. The first reading with this `file` is of `first`, and writes it down; a later one is of `cold`."""
        first: float | None = None
        with suppress(OSError, ValueError):
            first = float(json.loads(file.read_text())["first"])
        cold = process if first is not None else None
        if first is None and process is not None:
            first = process
            store.write(file, json.dumps({"first": first}))
        return {"warm": self.warm, "cold": cold, "first": first}

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"warm": self.warm + (0.0 if self._began is None else time.perf_counter() - self._began)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from these seconds."""
        self.warm = state["warm"]

    def _start(self) -> None:
        self._wait()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        if self._began is not None:
            self._wait()
            self.warm += time.perf_counter() - self._began
            self._began = None

    def _wait(self) -> None:
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)


def marker(settings: Settings, place: torch.device) -> Path:
    """The file that is there once this code has run on this machine, with this torch and these settings: what it has
    compiled and decoded is kept then."""
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    kept = [
        settings.io.training_input,
        settings.code,
        torch.__version__,
        name,
        settings.hyperparam.to_json(),
        settings.limit,
    ]
    key = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:24]
    return store.home() / "cache" / "speedrun" / f"{key}.json"


def said(clocks: dict[str, float | None]) -> str:
    """One line of the three."""
    names = {"warm": "warm", "cold": "cold with cached compile", "first": "first ever"}
    return ", ".join(
        f"{name} {'not seen' if clocks[key] is None else f'{clocks[key]:.2f} s'}" for key, name in names.items()
    )
