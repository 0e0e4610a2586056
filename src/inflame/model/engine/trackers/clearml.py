"""ClearML: the server of its configuration (CLEARML_API_HOST …); CLEARML_OFFLINE_MODE=1 makes a zip to import later."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from clearml import Task
from clearml.backend_api import Session

from inflame.model.engine.trackers import About, Point, Tracker

PROJECT = "inflame"
# All that Task.init would watch by itself. Looking through the repository around alone takes half a minute.
_CATCHING = (
    "catboost detect_repository fastai gradio hydra joblib lightgbm matplotlib megengine pytorch scikit tensorboard"
    " tensorflow tfdefines xgboost"
).split()


@final
class Clearml(Tracker):
    """Only what the run folder has is sent: none of ClearML's catching of frameworks, arguments and output."""

    def place(self) -> str:
        """`offline`, or the address of the server."""
        return "offline" if Task.is_offline() else str(Session.get_api_server_host())

    def begin(self, about: About, key: str) -> str:
        """A task of the project CLEARML_PROJECT (default: inflame). The key is its id."""
        self._last = 0
        # This is a process of its own already; ClearML would start another one, whose end takes 11 s.
        setattr(Task, "_report_subprocess_enabled", False)  # noqa: B010
        self._task: Any = Task.init(
            project_name=os.environ.get("CLEARML_PROJECT") or PROJECT,
            task_name=about.run,
            reuse_last_task_id=False,
            continue_last_task=key if key and not Task.is_offline() else False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(_CATCHING, False),
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        self._task.set_parameters({f"settings/{name}": value for name, value in about.settings.items()})
        self._task.connect_configuration(dict(about.facts), name="facts")
        return str(self._task.id)

    def numbers(self, points: Sequence[Point]) -> None:
        """Scalars; those of validation in the chart of those of training."""
        for point in points:
            for name, value in point.values.items():
                title, series = _chart(name)
                self._task.get_logger().report_scalar(title, series, value, iteration=point.step)
                if title != "system":
                    self._last = max(self._last, point.step)

    def picture(self, name: str, file: Path) -> None:
        """A debug sample at the last step."""
        self._task.get_logger().report_image(name, name, iteration=self._last, local_path=str(file))

    def files(self, name: str, path: Path) -> None:
        """An artifact; a folder becomes a zip."""
        if not self._task.upload_artifact(name, artifact_object=str(path), wait_on_upload=True):
            raise OSError(f"ClearML did not take {path}")

    def end(self, state: str, summary: Mapping[str, float]) -> str:
        """Single values, and the state, once everything is sent."""
        for name, value in summary.items():
            self._task.get_logger().report_single_value(name, value)
        self._task.flush(wait_for_uploads=True)
        where = self._task.get_output_log_web_page()
        if Task.is_offline():
            where = f"{self._task.get_offline_mode_folder()}.zip"
        elif state == "failed":
            self._task.mark_failed()
        elif state == "interrupted":
            self._task.mark_stopped()
        self._task.close()
        return str(where)


def _chart(name: str) -> tuple[str, str]:
    """Title and series."""
    if name.startswith("system/"):
        return "system", name.removeprefix("system/")
    return (name.removeprefix("val_"), "val") if name.startswith("val_") else (name, "train")
