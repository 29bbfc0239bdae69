"""Which validation images are shown, and how do their predictions become picture files?"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from student.pixels import denormalise
from student.tasks.batches import crop_back
from student.tasks.visualise import depth_range, show_image, show_label, show_prediction


def pictured(count: int, wanted: int) -> list[int]:
    """Which of `count` validation images are shown: `wanted` of them, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()


def save_pictures(
    batch: Mapping[str, Any], predictions: Mapping[str, Tensor], shown: Collection[str], folder: Path
) -> None:
    """Write image, truth and prediction of every task at the image's own size, for the samples in `shown`.

    Files: `<id>_image.png`, `<id>_<task>_truth.png`, `<id>_<task>.png`. Depths of a pair share one scale.

    Args:
        batch: a padded validation batch (student.tasks.batches), labels included.
        predictions: task -> [B, C, H, W] at the padded size.
        shown: ids.
        folder: made if need be.
    """
    rows = [row for row, name in enumerate(batch["id"]) if name in shown]
    if rows:
        folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name, size = batch["id"][row], batch["size"][row].tolist()
        image = crop_back(denormalise(batch["image"][row]), size)
        _write(folder / f"{name}_image.png", show_image(image))
        for task, prediction in predictions.items():
            label, made = crop_back(batch[task][row], size), crop_back(prediction[row], size)
            scale = depth_range(label) if task == "depth" else None
            _write(folder / f"{name}_{task}_truth.png", show_label(task, label, depth_m=scale))
            _write(folder / f"{name}_{task}.png", show_prediction(task, made, depth_m=scale))


def _write(path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(path, compress_level=3)
