"""Weights & Biases: the service, or WANDB_BASE_URL; with WANDB_MODE=offline a folder that `wandb sync` sends later."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own reports of its own errors

import wandb

from inflame.model.engine.trackers import About, Point, Tracker

PROJECT = "inflame"


@final
class Wandb(Tracker):
    """Only what the run folder has is sent: no console, no code, no statistics of its own."""

    def place(self) -> str:
        """`offline`, or the address of the service and the project."""
        if os.environ.get("WANDB_MODE") == "offline":
            return "offline"
        return f"{os.environ.get('WANDB_BASE_URL') or 'https://api.wandb.ai'} {_project()}"

    def begin(self, about: About, key: str) -> str:
        """A run of the project WANDB_PROJECT (default: inflame). The key is its id."""
        self._run = wandb.init(
            project=_project(),
            id=key or secrets.token_hex(4),
            resume="allow" if key and self.place() != "offline" else None,
            name=about.run,
            group=about.sweep or None,
            dir=about.folder / "trackers",
            config={**about.settings, **about.facts},
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        # Numbers of the system come between those of the training: each kind has its own axis, and order is free.
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("system/*", step_metric="system/seconds")
        return str(self._run.id)

    def numbers(self, points: Sequence[Point]) -> None:
        """A row of the history for each point."""
        for point in points:
            axis = "system/seconds" if any(name.startswith("system/") for name in point.values) else "step"
            self._run.log({**point.values, axis: point.step})

    def picture(self, name: str, file: Path) -> None:
        """An image of the history."""
        self._run.log({name: wandb.Image(str(file))})

    def files(self, name: str, path: Path) -> None:
        """An artifact of the run; the bundle as a model."""
        artifact = wandb.Artifact(f"{self._run.id}-{name}", type="model" if name == "bundle" else name)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, state: str, summary: Mapping[str, float]) -> str:
        """The summary, then waits until W&B has it all."""
        self._run.summary.update({"state": state, **summary})
        where = self._run.url or f"wandb sync {Path(self._run.dir).parent}"
        self._run.finish(exit_code=0 if state == "done" else 1)
        wandb.teardown()
        return str(where)


def _project() -> str:
    return os.environ.get("WANDB_PROJECT") or PROJECT
