"""The one decoder: file or bytes in, upright 8-bit picture out, the same in training, website and export.

Decoding strange files can raise nearly anything and take any amount of memory. Everything that can go wrong leaves
this module as one `PictureError`, which says what the file really is.
"""

from __future__ import annotations

import importlib
import io
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inflame.artifact import magic, pillow
from inflame.errors import DataError, MissingExtra, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inflame.records import Preprocess

Pixels = NDArray[np.uint8]
Source = Path | bytes | Pixels

MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20  # no photo is larger, and every worker holds one file

# A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as the short side keeps this many times the wanted size. Against
# full decoding, on 60 photos: factor 1 gives 32-43 dB, 1.5 at least 42 dB, at a fraction of the time.
_DRAFT = 1.5
_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FAR = float(np.finfo(np.float32).max) / 2  # numbers so far apart have no difference as float32
_SIXTEEN = np.rint(np.arange(65_536) / 257).astype(np.uint8)  # 16 bits to 8
_GREY = {"1", "L", "LA", "La", "I", "F"}
_ORIENTATION = 0x0112


class PictureError(DataError):
    """A file that gives no picture. `kind` is one of

    empty, truncated, corrupt, too_large, not_a_picture, unsupported (a format whose reader isn't installed),
    junk (left by an operating system), unreachable (missing, no permission, not a plain file).
    """

    def __init__(self, message: str, *, kind: str, remedy: str, where: str = "") -> None:
        super().__init__(message, remedy=remedy, where=where)
        self.kind = kind

    @property
    def reason(self) -> str:
        """What is wrong and what to do, in one plain sentence."""
        return f"{self.message}: {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.message, self.kind, self.remedy, self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself. Width and height are those of the upright picture; `mode` is Pillow's, with
    `+alpha` when a palette or a colour key makes parts of it transparent."""

    format: str
    mode: str
    width: int
    height: int
    orientation: int = 1  # EXIF, 1 to 8


def picture(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole picture, upright, first frame, mode RGB (or L when it is grey). Transparent parts are white, 16-bit
    values are scaled (65,535 becomes 255). Raises `PictureError`, and nothing else, whatever the bytes are."""
    data, where = read(source)
    with _border(data, where):
        return _finished(_opened(data, max_pixels), max_pixels)


def canvas(source: Source, preprocess: Preprocess) -> Pixels:
    """The centre square of the picture as uint8 [resize, resize, channels].

    An array (uint8 [H, W] or [H, W, C]) is taken as pixels; one that has the right shape already comes back as it is.
    Work and memory follow the output, not the shape of the source: a 50,000 x 1 picture costs no more than any other.
    """
    _checked(preprocess)
    if isinstance(source, np.ndarray):
        return _from_array(source, preprocess)
    data, where = read(source)
    with _border(data, where):
        return _square(_finished(_opened(data, preprocess.max_pixels, preprocess), preprocess.max_pixels), preprocess)


def pixels(source: Source, preprocess: Preprocess) -> Pixels:
    """The picture as the net sees it: uint8 [size, size, channels], the exact centre of `canvas`."""
    return centre(canvas(source, preprocess), preprocess.size)


def centre(canvases: Pixels, size: int) -> Pixels:
    """A view of the centre of one canvas or many: [..., H, W, C] → [..., size, size, C]."""
    top, left = (canvases.shape[-3] - size) // 2, (canvases.shape[-2] - size) // 2
    return canvases[..., top : top + size, left : left + size, :]


def header(source: Path | bytes, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Format, mode, size and EXIF orientation, without decoding. Raises `PictureError`."""
    data, where = read(source)
    with _border(data, where):
        return _header(_opened(data, max_pixels))


def read(source: Path | bytes) -> tuple[bytes, str]:
    """The bytes and the name of a source. A pipe, a device or a huge file is refused, not read."""
    if isinstance(source, bytes):
        return source, ""
    path = Path(source)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _error("unreachable", "not a plain file but a folder, pipe or device", "move it away", path)
        if found.st_size > MAX_BYTES:
            size = f"{found.st_size / 2**20:,.0f} MiB"
            raise _error("too_large", f"{size} is no ordinary picture", "save it smaller, as JPEG", path)
        return path.read_bytes(), str(path)
    except FileNotFoundError:
        what = "a link to nowhere" if path.is_symlink() else "there is no such file"
        raise _error("unreachable", what, "check the name and put the file back", path) from None
    except PermissionError:
        raise _error("unreachable", "no permission to read it", "chmod +r the file", path) from None
    except OSError as error:
        what = f"it cannot be read ({error.strerror or error})"
        raise _error("unreachable", what, "copy it again, and check the disk", path) from error


def _opened(data: bytes, max_pixels: int, preprocess: Preprocess | None = None) -> Image.Image:
    """The picture with its header read and checked, not yet decoded."""
    found = magic.sniff(data)
    if not found.plugin:
        raise _error(found.kind, found.what, found.remedy)
    if found.format == "JPEG" and magic.cut_short(data, "JPEG"):
        raise _truncated("JPEG")
    importlib.import_module(found.plugin)
    if found.format == "HEIF":
        pillow.register_heif()
    image = Image.open(io.BytesIO(data), formats=[found.format])
    width, height = image.size
    if width * height > max_pixels or magic.scans(data, found.format) * width * height > 20 * max_pixels:
        raise _too_large(f"{width:,} x {height:,} pixels are more than the {max_pixels:,} allowed")
    if preprocess is not None and image.format in {"JPEG", "MPO"}:
        wanted = int(_DRAFT * preprocess.resize)
        image.draft(None, (wanted, wanted))
    return image


def _header(image: Image.Image) -> Header:
    orientation, (width, height) = _orientation(image), image.size
    if orientation >= 5 and image.format != "TIFF":  # Pillow has turned a TIFF already
        width, height = height, width
    keyed = "transparency" in image.info and "A" not in image.mode.upper()
    return Header(
        format=image.format or "",
        mode=image.mode + ("+alpha" if keyed else ""),
        width=width,
        height=height,
        orientation=orientation,
    )


def _orientation(image: Image.Image) -> int:
    """1 to 8. Broken metadata must not cost the picture: reading it raises many things, none of them matters."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _finished(image: Image.Image, max_pixels: int) -> Image.Image:
    """Decoded, in L or RGB, upright."""
    weight = 4 if image.mode in {"I", "F"} else 1
    with pillow.room(weight * image.width * image.height):
        image.load()
        if image.width * image.height > max_pixels:  # some formats learn their size only now
            raise _too_large("it unpacks to more pixels than its header says")
        turn = _UPRIGHT.get(_orientation(image))
        plain = _colour(_eight_bits(image))
        return plain.transpose(turn) if turn is not None else plain


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey scaled to 8 bits; a plain `convert` would clip them to white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    grey = _SIXTEEN[values] if image.mode.startswith("I;16") else _spread(values)
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = 255
    return Image.fromarray(grey)


def _spread(values: NDArray[Any]) -> Pixels:
    """32 bits have no agreed white: floats may mean 0…1, and any of them 0…255 or 0…65,535; else what is there is
    spread from black to white."""
    scaled = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    low, high = float(scaled.min()), float(scaled.max())
    if high - low > _FAR:
        scaled *= np.float32(0.25)
        low, high = low / 4, high / 4
    if low < 0 or high > 65_535:
        scaled -= np.float32(low)
        scaled *= np.float32(255 / ((high - low) or 1))
    elif high > 255:
        scaled /= np.float32(257)
    elif values.dtype.kind == "f" and high <= 1:
        scaled *= np.float32(255)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _colour(image: Image.Image) -> Image.Image:
    """L when grey, else RGB; what is transparent becomes white."""
    target = "L" if image.mode in _GREY else "RGB"
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        image = white
    return image if image.mode == target else image.convert(target)


def _square(image: Image.Image, preprocess: Preprocess) -> Pixels:
    if image.mode == "RGB" and preprocess.channels == 1:
        image = image.convert("L")
    (width, height), out = image.size, preprocess.resize
    if (width, height) != (out, out):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((out, out), _INTERPOLATIONS[preprocess.interpolation], box=box)
    if image.mode == "L" and preprocess.channels == 3:
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8).reshape(out, out, preprocess.channels)


def _from_array(array: Pixels, preprocess: Preprocess) -> Pixels:
    shape = array.shape[2:] or (1,)
    if array.dtype != np.uint8 or array.ndim not in {2, 3} or 0 in array.shape or shape[0] not in {1, 3, 4}:
        what = f"an array of {array.dtype} {list(array.shape)} is no picture"
        raise _error("corrupt", what, "give uint8 [height, width] or [height, width, 1, 3 or 4]")
    if array.shape[:2] == (preprocess.resize, preprocess.resize) and shape[0] == preprocess.channels:
        return array.reshape(preprocess.resize, preprocess.resize, preprocess.channels)
    plain = array[:, :, 0] if shape[0] == 1 and array.ndim == 3 else array
    return _square(_colour(Image.fromarray(np.ascontiguousarray(plain))), preprocess)


def _checked(preprocess: Preprocess) -> None:
    if not 1 <= preprocess.size <= preprocess.resize:
        message = f"preprocess.size is {preprocess.size} and preprocess.resize {preprocess.resize}."
        raise SettingError(message, remedy="Give a size of at least 1 and a resize of at least the size.")
    if preprocess.channels not in {1, 3}:
        raise SettingError(f"preprocess.channels is {preprocess.channels}.", remedy="Give 1 (grey) or 3 (colour).")
    if preprocess.interpolation not in _INTERPOLATIONS:
        message = f'preprocess.interpolation is "{preprocess.interpolation}".'
        raise SettingError(message, remedy=f"Give one of {', '.join(_INTERPOLATIONS)}.")


@contextmanager
def _border(data: bytes, where: str) -> Iterator[None]:
    """Whatever decoding raises leaves as a PictureError with the true reason. Broad on purpose: one flipped bit in
    a file has been seen to raise TypeError, ValueError, struct.error, SyntaxError and more."""
    try:
        with pillow.quiet():
            yield
    except PictureError as error:
        error.where = error.where or where
        raise
    except (SettingError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _translated(error, data, where) from error


def _translated(error: Exception, data: bytes, where: str) -> PictureError:
    text = str(error).lower()
    if isinstance(error, MissingExtra):
        return _error("unsupported", error.message, f"{error.remedy}, or save it as JPEG", where)
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        counted = re.search(r"\((\d+) pixels\)", text)
        what = f"{int(counted[1]):,} pixels are more than allowed" if counted else "it unpacks beyond memory"
        return _too_large(what, where)
    if "decompressed data too large" in text:
        return _too_large("a text inside it unpacks without bound", where)
    if (behind := magic.text_behind(data)) is not None:
        return _error(behind.kind, behind.what, behind.remedy, where)
    name = magic.sniff(data).format
    if magic.cut_short(data, name) or any(word in text for word in ("truncated", "premature", "end of file")):
        return _truncated(name, where)
    return _error("corrupt", f"a damaged {name} that cannot be decoded", "copy or download it again", where)


def _truncated(name: str, where: str = "") -> PictureError:
    return _error("truncated", f"truncated: this {name} ends before the picture does", "copy it again", where)


def _too_large(what: str, where: str = "") -> PictureError:
    return _error("too_large", what, "save it smaller, 4,000 pixels on the long side are plenty", where)


def _error(kind: str, what: str, remedy: str, where: str | Path = "") -> PictureError:
    return PictureError(what, kind=kind, remedy=remedy, where=str(where))


def _rebuild(message: str, kind: str, remedy: str, where: str) -> PictureError:
    return PictureError(message, kind=kind, remedy=remedy, where=where)
