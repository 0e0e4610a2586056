"""Settings: typed keys, given values by a folder's `model-config.toml` and by `key=value` words on the command line.

`load(folder, words)` gives frozen `Settings`, or says in one sentence what is wrong, where, and what to write
instead. A file chooses by name through a seam (`inflame.plugins`); nothing in it can name code to call.
"""

from inflame.config.describe import Row, describe
from inflame.config.load import load
from inflame.config.schema import parse_duration
from inflame.config.settings import Hyperparam, Io, Settings
from inflame.config.toml import FILE

__all__ = ["FILE", "Hyperparam", "Io", "Row", "Settings", "describe", "load", "parse_duration"]
