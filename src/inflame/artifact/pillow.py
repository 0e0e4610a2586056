"""Pillow's process-wide state, made safe for many threads: warnings, truncation, chatter of libtiff, memory."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import PIL
from PIL import ImageFile

from inflame.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOM = 160_000_000  # pixels that all threads together may have decoded at a time: below 2 GB with the copies

_lock = threading.Condition()
_inside = 0
_taken = 0
_before: tuple[warnings.catch_warnings[None], bool] | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Pillow gives no warnings and never takes a cut-off file for a whole one (some libraries switch that on
    for the whole process). `catch_warnings` alone loses the filters when threads overlap, so the first thread in
    saves the state and the last one out restores it."""
    global _inside, _before
    with _lock:
        if _inside == 0:
            catch = warnings.catch_warnings()
            catch.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b")
            _before = (catch, ImageFile.LOAD_TRUNCATED_IMAGES)
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _before is not None:
                catch, ImageFile.LOAD_TRUNCATED_IMAGES = _before
                catch.__exit__(None, None, None)
                _before = None


@contextmanager
def room(pixels: int) -> Iterator[None]:
    """Waits until this many pixels fit into memory beside those of other threads. A picture larger than all the
    room goes alone."""
    global _taken
    with _lock:
        _lock.wait_for(lambda: _taken == 0 or _taken + pixels <= ROOM)
        _taken += pixels
    try:
        yield
    finally:
        with _lock:
            _taken -= pixels
            _lock.notify_all()


@functools.cache
def silence() -> None:
    """libtiff writes every oddity of a file straight to stderr, a hundred lines for a fuzzed one, and so does Pillow's
    log when nobody has set up logging. Where Pillow's own libtiff can't be found, its lines stay."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    folder = Path(PIL.__file__).parent
    for found in [*folder.parent.glob("pillow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")]:
        try:
            library = ctypes.CDLL(str(found))
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
        except (OSError, AttributeError):
            continue


@functools.cache
def register_heif() -> None:
    """Lets Pillow open HEIC photos, if the extra is installed; else `MissingExtra`."""
    try:
        import pillow_heif
    except ImportError:
        message = "a HEIC photo (as iPhones save them), and the part that reads it isn't installed"
        raise MissingExtra(message, extra="heic") from None
    pillow_heif.register_heif_opener()
