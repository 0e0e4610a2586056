"""TensorBoard: event files in the run folder. Needs no server; `tensorboard --logdir` of all runs shows all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from inflame.model.engine.trackers import About, Tracker

FOLDER = "tensorboard"  # in the folder `trackers` of the run


def _hparams(about: About) -> Summary:
    """The settings as the HParams plugin reads them: runs of a folder in a table, sorted by any of them."""
    info = plugin_data_pb2.SessionStartInfo(group_name=about.run, start_time_secs=time.time())
    for name, value in about.settings.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = str(value)
    data = create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_start_info=info))
    nothing = TensorProto(dtype=DT_FLOAT)
    return Summary(value=[Summary.Value(tag=SESSION_START_INFO_TAG, metadata=data, tensor=nothing)])


@final
class Tensorboard(Tracker):
    """Writes with TensorBoard's own writer, which needs neither torch nor TensorFlow."""

    def place(self) -> str:
        """The run folder itself."""
        return FOLDER

    def begin(self, about: About, key: str) -> str:
        """A new event file beside those of earlier sittings. The key is the folder."""
        self._folder, self._step = about.folder / "trackers" / FOLDER, 0
        self._writer = EventFileWriter(str(self._folder))
        if not key:
            self._text("settings", about.settings)
            self._text("facts", about.facts)
            self._writer.add_event(Event(wall_time=time.time(), summary=_hparams(about)))
        return FOLDER

    def numbers(self, points: Sequence[Any]) -> None:
        """Scalars at their steps and times."""
        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self._add(values, step=point.step, moment=point.time)
            if not any(name.startswith("system/") for name in point.values):
                self._step = max(self._step, point.step)
        self._writer.flush()

    def picture(self, name: str, file: Path) -> None:
        """An image at the last step."""
        with Image.open(file) as opened:
            width, height = opened.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.read_bytes())
        self._add([Summary.Value(tag=name, image=image)])

    def files(self, name: str, path: Path) -> None:
        """TensorBoard keeps no files: a text that says where it is."""
        self._text(name, {"path": str(path)})

    def end(self, state: str, summary: Mapping[str, float]) -> str:
        """The numbers as a text, and the file closed."""
        self._text("summary", {"state": state, **summary})
        self._writer.close()
        return f"tensorboard --logdir {self._folder}"

    def _text(self, tag: str, rows: Mapping[str, object]) -> None:
        """A table in Markdown, as the text plugin shows it."""
        cells = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items()]
        table = "\n".join(["| | |", "|---|---|", *cells])
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype=DT_STRING, string_val=[table.encode(errors="backslashreplace")])
        self._add([Summary.Value(tag=f"{tag}/text_summary", metadata=kind, tensor=tensor)])

    def _add(self, values: Sequence[Any], *, step: int | None = None, moment: float | None = None) -> None:
        step = self._step if step is None else step
        wall = time.time() if moment is None else moment
        self._writer.add_event(Event(wall_time=wall, step=step, summary=Summary(value=values)))
