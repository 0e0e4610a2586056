"""inflame in Python, five lines long, with pictures where a notebook shows them.

import inflame
model = inflame.train("birds", minutes=1)
model.test()
model("photo.jpg")
model.serve()
"""

from inflame.notebook.trained import Trained, open  # noqa: A004
from inflame.notebook.training import train

__all__ = ["Trained", "open", "train"]
