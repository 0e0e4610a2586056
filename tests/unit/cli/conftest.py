"""What several verbs are tested with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_folder(home: Path) -> Callable[..., Path]:
    """Makes the folder of a run with that name and what its status says."""

    def made(name: str, **fields: Any) -> Path:
        folder = home / "runs" / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(fields))
        return folder

    return made
