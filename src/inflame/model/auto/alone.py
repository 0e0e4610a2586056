"""Why more than one device would do nothing for this training."""

from inflame.artifact import finding
from inflame.config import Settings
from inflame.model.engine import many


def alone(settings: Settings) -> str:
    """The reason, where the data are known to be texts before they are read; else nothing."""
    return many.WHOLE if finding.are_texts(settings.io.training_input) else ""
