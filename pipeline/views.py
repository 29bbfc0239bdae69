"""Which crop and flip is view k of a photo, and what are its pixels.

A view is a pure function of (seed, key, k): every run, host and library version cuts the same one, so the
cached crops can be extended years later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from struct import unpack
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.config import ViewConfig

TRIES = 10
"""Draws of a box before the central crop is taken, as in torchvision."""


class Crop(NamedTuple):
    """One view of one photo: the box in pixels of the decoded photo, then the flip."""

    x: int
    y: int
    w: int
    h: int
    flip: bool


def crop_of(key: str, k: int, width: int, height: int, config: ViewConfig) -> Crop:
    """View `k` (from 0) of the photo `key`, which is `width` x `height` pixels.

    The distribution is torchvision's RandomResizedCrop (area share uniform, log of the ratio uniform,
    position uniform, central crop after ten misses) and RandomHorizontalFlip.
    """
    draws = _uniforms(f"{config.seed}\n{key}\n{k}")
    flip = next(draws) < config.flip
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    for _ in range(TRIES):
        area = width * height * (config.scale[0] + next(draws) * (config.scale[1] - config.scale[0]))
        ratio = math.exp(low + next(draws) * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            y, x = int(next(draws) * (height - h + 1)), int(next(draws) * (width - w + 1))
            return Crop(x, y, w, h, flip)
    return _central(width, height, config, flip=flip)


def render(rgb: NDArray[np.uint8], crop: Crop, size: int) -> NDArray[np.uint8]:
    """Pixels of one view: box, antialiased bilinear resize, flip, as torchvision does on a PIL image.

    rgb: uint8 `[H, W, 3]` -> uint8 `[size, size, 3]`.
    """
    box = rgb[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w]
    image = Image.fromarray(box).resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image)


def squash(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The whole photo resized to a square, for evaluation: uint8 `[H, W, 3]` -> uint8 `[size, size, 3]`."""
    return render(rgb, Crop(0, 0, rgb.shape[1], rgb.shape[0], False), size)


def _central(width: int, height: int, config: ViewConfig, *, flip: bool) -> Crop:
    """The largest central box within the ratio range."""
    ratio = width / height
    w, h = width, height
    if ratio < config.ratio[0]:
        h = round(width / config.ratio[0])
    elif ratio > config.ratio[1]:
        w = round(height * config.ratio[1])
    return Crop((width - w) // 2, (height - h) // 2, w, h, flip)


def _uniforms(text: str) -> Iterator[float]:
    """Endless uniform draws in [0, 1): SHA-256 in counter mode, which no library release can change."""
    for block in count():
        digest = sha256(f"{text}\n{block}".encode()).digest()
        for word in unpack("<4Q", digest):
            yield (word >> 11) * 2.0**-53
