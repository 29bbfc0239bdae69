"""What predictions and labels look like: every task's map as an RGB picture, uint8 [H, W, 3].

Class maps in VOC's colours with class 0 in dark grey (it is PASCAL's background and NYUD's wall), depth in
viridis (near is dark), normals as (n + 1) / 2 (a floor is green, a wall that faces the camera blue),
boundaries as dark lines on white, saliency in grey.
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from student.tasks.spec import IGNORE, task_spec

IGNORED = np.array([226, 226, 226], np.uint8)
"""Colour of a pixel without a label."""


def _palette() -> np.ndarray:
    """VOC's colour map, uint8 [256, 3]: three bits of the class number for each bit of the channels."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * step + channel) & 1) << (7 - step)).astype(np.uint8)
    colours[0] = 44
    return colours


PALETTE = _palette()
VIRIDIS = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def show_prediction(
    task: str, prediction: Tensor, *, depth_m: tuple[float, float] | None = None
) -> np.ndarray:
    """A head's output [C, H, W] as a picture; depth_m: nearest and farthest depth of the colour scale.

    Raises ValueError for an unknown task.
    """
    task_spec(task)
    output = prediction.detach().float().cpu()
    if task == "depth":
        return _depth(output[0].clamp(min=0).numpy(), depth_m)
    return _PREDICTIONS[task](output)


def show_label(task: str, label: Tensor, *, depth_m: tuple[float, float] | None = None) -> np.ndarray:
    """A label as collate stacks it (one of the batch) as a picture, ignored pixels in light grey.

    Raises ValueError for an unknown task.
    """
    task_spec(task)
    values = label.cpu().numpy()
    if task == "depth":
        return _masked(_depth(values[0], depth_m), values[0] == IGNORE)
    if task == "normals":
        return _masked(_normals(values.transpose(1, 2, 0)), (values == IGNORE).any(axis=0))
    binary = {"sal": 255 * values, "edge": 255 * (1 - values)}
    picture = _grey(binary[task]) if task in binary else PALETTE[values]
    return _masked(picture, values == IGNORE)


def show_image(image: Tensor) -> np.ndarray:
    """Pixels 0..1 [3, H, W] as a picture (see pixels.denormalise)."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def depth_range(label: Tensor) -> tuple[float, float]:
    """Nearest and farthest labelled depth [1, H, W]: one colour scale for a label and its prediction."""
    known = label[(label != IGNORE) & (label > 0)]
    return (float(known.min()), float(known.max())) if known.numel() else (0.0, 1.0)


def _classes(output: Tensor) -> np.ndarray:
    return PALETTE[output.argmax(0).numpy()]


def _saliency(output: Tensor) -> np.ndarray:
    return _grey((output.softmax(0)[1] * 255).round().numpy())


def _edges(output: Tensor) -> np.ndarray:
    return _grey(((1 - output[0].sigmoid()) * 255).round().numpy())


def _unit(output: Tensor) -> np.ndarray:
    return _normals(F.normalize(output, dim=0).permute(1, 2, 0).numpy())


def _normals(normals: np.ndarray) -> np.ndarray:
    return ((np.clip(normals, -1, 1) + 1) * 127.5).round().astype(np.uint8)


def _depth(depth: np.ndarray, depth_m: tuple[float, float] | None) -> np.ndarray:
    known = depth[depth != IGNORE]
    low, high = depth_m or ((float(known.min()), float(known.max())) if known.size else (0.0, 1.0))
    share = (depth - low) / max(high - low, 1e-6)
    return VIRIDIS[(np.clip(np.nan_to_num(share), 0, 1) * 255).astype(np.uint8)]


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _masked(picture: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    return np.where(ignored[..., None], IGNORED, picture)


_PREDICTIONS: dict[str, Callable[[Tensor], np.ndarray]] = {
    "semseg": _classes,
    "human_parts": _classes,
    "sal": _saliency,
    "normals": _unit,
    "edge": _edges,
}
