"""Data and what is known of it: get, open, check and split data sets.

`getdata("mnist")` brings a named set, `open("photos/")` reads a folder, zip or table, `check` says what is wrong
with it, `split_datafiles` lists the files of each split; `to_torch`, `to_arrow`, `to_pandas` and `to_huggingface` turn
what they give into what other libraries take. Nothing heavy is imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflame.artifact.convert import to_arrow, to_huggingface, to_pandas, to_torch
    from inflame.artifact.examining import check
    from inflame.artifact.opening import getdata, open  # noqa: A004
    from inflame.artifact.split import split_datafiles

__all__ = ["check", "getdata", "open", "split_datafiles", "to_arrow", "to_huggingface", "to_pandas", "to_torch"]

_HOME = {"getdata": "opening", "open": "opening", "check": "examining", "split_datafiles": "split"}
_HOME |= dict.fromkeys(("to_arrow", "to_huggingface", "to_pandas", "to_torch"), "convert")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
