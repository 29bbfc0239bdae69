"""How a training sample is augmented (paper B.3) and a validation sample padded: the field's protocol.

Scale, crop, flip, photometric distortion, normalise, centred pad, ignore marks. A sample has `image` uint8
[H, W, 3] and any of the labels semseg, human_parts, sal, edge uint8 [H, W], depth [H, W], normals [H, W, 3].
Everything drawn comes from the generator that the caller seeds, in a fixed order.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from student.pixels import IMAGENET_MEAN, IMAGENET_STD
from student.tasks.spec import IGNORE

Sample = dict[str, Any]

MEAN = np.array(IMAGENET_MEAN, np.float32) * 255
STD = np.array(IMAGENET_STD, np.float32) * 255

SCALES = (0.5, 2.0)
CROP_TRIES = 10
LARGEST_SHARE = 0.75
PLAIN = ("id", "size")
"""Entries of a sample that are no picture."""


def augment(sample: Sample, rng: np.random.Generator, size: tuple[int, int]) -> Sample:
    """One training sample of height and width `size`: `image` float32 [3, H, W], labels as collate wants."""
    sample = {**sample, "size": sample["image"].shape[:2]}
    sample = random_scale(sample, rng)
    sample = random_crop(sample, rng, size)
    if rng.random() < 0.5:
        sample = flip(sample)
    sample["image"] = distort(sample["image"], rng)
    return _finish(sample, size)


def centre(sample: Sample, size: tuple[int, int]) -> Sample:
    """One validation sample: never resized, centred on `size`. ValueError if the image is larger."""
    height, width = sample["image"].shape[:2]
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"image {sample['id']} is {height}x{width} pixels, dataset.size is {size[0]}x{size[1]}; "
            "validation never resizes: set dataset.size to cover the largest image"
        )
    return _finish({**sample, "size": (height, width)}, size)


def random_scale(sample: Sample, rng: np.random.Generator) -> Sample:
    """Scale by s ~ U(0.5, 2): image bilinear, labels nearest, depth divided by s."""
    scale = rng.uniform(*SCALES)
    height, width = sample["image"].shape[:2]
    size = (int(width * scale), int(height * scale))
    scaled = dict(sample)
    for name in _pictures(sample):
        method = cv2.INTER_LINEAR if name == "image" else cv2.INTER_NEAREST
        scaled[name] = cv2.resize(sample[name], size, interpolation=method)
    if "depth" in scaled:
        scaled["depth"] = scaled["depth"] / np.float32(scale)
    return scaled


def random_crop(sample: Sample, rng: np.random.Generator, size: tuple[int, int]) -> Sample:
    """Crop to at most `size`; with semseg, redrawn up to 10 times while one class dominates the crop."""
    height, width = sample["image"].shape[:2]
    for _ in range(CROP_TRIES + 1):
        top = int(rng.integers(max(height - size[0], 0) + 1))
        left = int(rng.integers(max(width - size[1], 0) + 1))
        window = np.s_[top : top + size[0], left : left + size[1]]
        if "semseg" not in sample or _is_varied(sample["semseg"][window]):
            break
    return {name: value if name in PLAIN else value[window] for name, value in sample.items()}


def _is_varied(semseg: np.ndarray) -> bool:
    """Whether at least two classes are there and none fills 75% of the labelled pixels."""
    counts = np.bincount(semseg.reshape(-1), minlength=IGNORE + 1)[:IGNORE]
    return np.count_nonzero(counts) > 1 and counts.max() < LARGEST_SHARE * counts.sum()


def flip(sample: Sample) -> Sample:
    """Mirror left and right; a mirrored normal has its x negated."""
    flipped = {name: value if name in PLAIN else value[:, ::-1] for name, value in sample.items()}
    if "normals" in flipped:
        flipped["normals"] = flipped["normals"] * np.array([-1, 1, 1], np.float32)
    return flipped


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photometric distortion of uint8 RGB [H, W, 3]: each operation with p 0.5, truncated after each.

    Brightness +-32, contrast 0.5..1.5 (before or after HSV by a coin), saturation 0.5..1.5, hue -18..17 of
    180. The trip through OpenCV's 8-bit HSV happens always: it is a distortion of its own.
    """
    if rng.random() < 0.5:
        image = _affine(image, 1.0, rng.uniform(-32, 32))
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    contrast_first = rng.random() < 0.5
    if contrast_first:
        image = _affine(image, contrast, 0.0)
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    if rng.random() < 0.5:
        hsv[..., 1] = _affine(hsv[..., 1], rng.uniform(0.5, 1.5), 0.0)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + rng.integers(-18, 18)) % 180
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _affine(image, contrast, 0.0)


def _affine(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    """clip(gain * v + offset) truncated to uint8, as a table of the 256 values."""
    table = np.clip(np.arange(256, dtype=np.float32) * gain + offset, 0, 255).astype(np.uint8)
    return table[image]


def _finish(sample: Sample, size: tuple[int, int]) -> Sample:
    """Normalise, pad (image 0 after that, class labels 255, depth and normals 0), then the ignore marks."""
    done = {name: sample[name] for name in PLAIN}
    image = (sample["image"].astype(np.float32) - MEAN) / STD
    done["image"] = np.ascontiguousarray(pad(image, size, 0).transpose(2, 0, 1))
    for name in _pictures(sample):
        if name != "image":
            done[name] = _MARKS.get(name, _class_label)(sample[name], size)
    return done


def pad(array: np.ndarray, size: tuple[int, int], value: float) -> np.ndarray:
    """[h, w, ...] centred on [H, W, ...]: the extra row or column goes below and right."""
    extra = [(whole - part) for whole, part in zip(size, array.shape[:2], strict=True)]
    margins = [(e // 2, e - e // 2) for e in extra] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, margins, constant_values=value)


def _class_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return pad(label, size, IGNORE)


def _parts_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A crop that shows background only says nothing about parts: all ignored."""
    padded = pad(label, size, IGNORE)
    return padded if np.any((padded != 0) & (padded != IGNORE)) else np.full_like(padded, IGNORE)


def _depth_label(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    padded = pad(depth, size, 0)
    return np.where(padded == 0, np.float32(IGNORE), padded)[None]


def _normals_label(normals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    padded = pad(normals, size, 0)
    known = np.any(padded != 0, axis=2, keepdims=True)
    marked = np.where(known, padded, np.float32(IGNORE))
    return np.ascontiguousarray(marked.transpose(2, 0, 1))


_MARKS = {"human_parts": _parts_label, "depth": _depth_label, "normals": _normals_label}


def _pictures(sample: Sample) -> list[str]:
    return [name for name in sample if name not in PLAIN]
