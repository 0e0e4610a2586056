"""Why more than one device would do nothing for this training."""

from inflame.config import Settings
from inflame.model.engine import many


def alone(settings: Settings) -> str:
    """The reason."""
    return many.WHOLE
