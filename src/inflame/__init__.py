"""Say how long you have; inflame gives you the best classifier it can build in that time.

`inflame --help` shows the way from a folder of pictures to a model that others can use. In Python, five lines:

    import inflame
    model = inflame.train("birds", minutes=1)
    model.test()
    model("photo.jpg")
    model.serve()

Nothing heavy is imported before one of them is used. For data alone: `from inflame.artifact import getdata`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflame.notebook import Trained, open, train  # noqa: A004

__all__ = ["Trained", "open", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inflame import plugins

    return getattr(plugins.need("inflame.notebook", "data", f"inflame.{name}"), name)
