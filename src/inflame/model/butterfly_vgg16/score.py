"""Scores the newest model of this folder on a data set that it hasn't seen."""

from typing import Any

from inflame.config import Settings
from inflame.model.engine import scoring


def score(settings: Settings) -> dict[str, Any]:
    """Accuracy of the last run's bundle on `io.inference_input` (default: the test split it was trained beside)."""
    return scoring.score(settings, settings.io.inference_input or settings.io.training_input)
