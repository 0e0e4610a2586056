"""The run folder of the first process, for a process on another machine that doesn't see it: what it needs to begin is
brought from the run's output."""

from __future__ import annotations

import tempfile
from pathlib import Path

from inflame import store
from inflame.artifact import manifest
from inflame.errors import DataError
from inflame.model.engine import checkpoint

CHECKPOINTS = (checkpoint.NEWEST, checkpoint.PREVIOUS)


def bring(place: str, output: str) -> Path:
    """A folder with the data set's description and the checkpoints of the run, as they are at `output`.

    DataError where the run folder `place` is kept on the first machine alone.
    """
    if not output or store.local(output) is not None:
        raise DataError(
            f"The run folder {place} is on the first machine, and this one doesn't see it.",
            where=f"output={output}",
            remedy="Name a folder that all machines see, or a bucket: output=s3://my-bucket/run",
        )
    folder = Path(tempfile.mkdtemp(prefix="inflame-run-"))
    for name in (manifest.ITEMS, manifest.DESCRIPTION):
        store.download(store.join(output, name), folder / name)
    for stage in store.listdir(output):
        if stage.startswith("last"):
            for name in CHECKPOINTS:
                if store.exists(store.join(output, stage, name)):
                    store.download(store.join(output, stage, name), folder / stage / name)
    return folder
