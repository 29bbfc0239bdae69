"""How a crop becomes JPEG bytes and comes back: the pixels that teachers and student both see.

There is no other JPEG path for crops: a teacher is shown `decode_jpeg(encode_jpeg(crop))`, never the crop
itself, so that what the student reads from the cache is bit for bit what the teacher saw.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from storage.config import JpegConfig

MAX_PIXELS = 1 << 24
"""Largest crop that is decoded (4096 x 4096); a damaged header must not ask for gigabytes."""


def encode_jpeg(rgb: NDArray[np.uint8], config: JpegConfig) -> bytes:
    """JPEG bytes of one crop; the same pixels and settings give the same bytes (no metadata is written).

    rgb: uint8 `[H, W, 3]`. Raises ValueError for any other shape or dtype, or a crop that `decode_jpeg` would
    refuse.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"a crop is uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}; convert it first")
    if rgb.shape[0] * rgb.shape[1] > MAX_PIXELS or max(rgb.shape) > 65_500:
        raise ValueError(f"a crop of {rgb.shape[1]}x{rgb.shape[0]} pixels is too large; lower views.size")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=config.quality, subsampling=config.subsampling)
    return buffer.getvalue()


def decode_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Pixels of one stored crop, uint8 `[H, W, 3]`.

    Raises ValueError where the bytes are no JPEG, cut short, not RGB, or larger than `max_pixels` (read from
    the header, before any pixel is decoded). Releases the GIL while it decodes.
    """
    try:
        # The plugin itself, not Image.open: only JPEG is tried, and the size check is ours, not a warning.
        with JpegImageFile(io.BytesIO(data)) as image:
            _check(image, max_pixels)
            return np.asarray(image)
    except (OSError, SyntaxError, IndexError) as error:
        raise ValueError(
            f"not a readable JPEG of {len(data)} bytes ({error}); verify the images column"
        ) from error


def _check(image: JpegImageFile, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"JPEG of {width}x{height} pixels exceeds {max_pixels}; it is no crop of this cache")
    if image.mode != "RGB":
        raise ValueError(f"JPEG is {image.mode}, crops are RGB; write crops with storage.jpeg.encode_jpeg")
