"""How the bytes of a photo become RGB pixels, or a reason why they cannot.

Photos come from anywhere: whatever they hold, the answer is right pixels or one `Quarantine`, never a
warning, a half-grey picture or another exception.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Raster formats that are tried; PIL knows others, some of which run programs on what they are given."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what sets the picture upright; 1 and everything unknown: nothing."""

_PIL_MODULES = re.compile(r"PIL\.")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Quarantine(ValueError):
    """A photo that cannot be decoded; the message is the reason, and the same bytes give the same one."""


def decode_rgb(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Pixels of one photo, upright, uint8 `[H, W, 3]`; the first frame of an animation. Thread-safe.

    Alpha is dropped as PIL's convert does, CMYK and palettes are converted, 16-bit samples keep their high
    byte.

    Raises:
        Quarantine: no image, cut short, damaged, more than `max_pixels`, or pixels without a defined range.
    """
    if not data:
        raise Quarantine("empty file")
    _hush()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, max_pixels)
            image.load()
            return np.array(_upright(_to_rgb(image), _orientation(image)))
    except (Quarantine, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Quarantine("not an image") from error
    except Image.DecompressionBombError as error:
        raise Quarantine(f"decompression bomb: {error}") from error
    # PIL's plugins raise a dozen unrelated types on damaged bytes (struct.error, KeyError, SyntaxError, ...).
    except Exception as error:
        raise Quarantine(f"cannot be decoded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line for a file that is stored and compared: no memory addresses, no essays."""
    text = " ".join(_ADDRESS.sub("", str(error)).split())
    return text[:200] or type(error).__name__


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse by the header alone, before a pixel is decoded."""
    width, height = size
    if width * height > max_pixels:
        raise Quarantine(f"decompression bomb: {width}x{height} pixels, the limit is {max_pixels}")


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode -> mode RGB."""
    if image.mode == "RGB":
        return image
    # A transparent colour or per-entry alphas do not change what convert gives, but make it warn.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        return _high_byte(np.asarray(image))
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        # PIL widens the 16-bit samples of these formats to int32; its convert would clip them at 255.
        return _high_byte(np.asarray(image))
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integer", "F": "floating-point"}[image.mode]
        raise Quarantine(f"{kind} pixels have no defined range")
    return image.convert("RGB")


def _high_byte(samples: NDArray) -> Image.Image:
    """16-bit grey `[H, W]` -> RGB; the high byte, as PIL reads 16-bit RGB (v * 257 comes back as v)."""
    return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image; TIFF is set upright by PIL, which then drops the tag."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block is no reason to lose good pixels; PIL raises any type here too
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _hush() -> None:
    """Keep PIL's warnings inside: they concern metadata or sizes, which are checked here.

    `warnings.catch_warnings` swaps process-wide state and is not thread-safe, so one filter, for PIL's
    modules only, is put first and stays; it is put back where someone has reset the filters since.
    """
    first = warnings.filters[0] if warnings.filters else None
    if first is None or first[0] != "ignore" or first[3] != _PIL_MODULES:
        warnings.filterwarnings("ignore", module=_PIL_MODULES.pattern)
