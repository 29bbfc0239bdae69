"""A small NYUDv2 folder, written by hand in the archive's layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from student.config import DatasetConfig

TASKS = ("semseg", "depth", "normals", "edge")


def write_nyud_folder(root: Path, *, train: int = 7, val: int = 5, size: tuple[int, int] = (60, 90)) -> Path:
    """Images split in a left and a right half: colour, class, depth and normal say which."""
    names = {"train": [f"t{i}" for i in range(train)], "val": [f"v_{i}" for i in range(val)]}
    for folder in ("images", "segmentation", "depth", "normals", "edge", "gt_sets"):
        (root / folder).mkdir(parents=True)
    for split, ids in names.items():
        (root / "gt_sets" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in ids:
            write_sample(root, name, size)
    return root


def write_sample(root: Path, name: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    width = size[1]
    border = int(rng.integers(width // 4, 3 * width // 4))
    right = np.broadcast_to(np.arange(width) >= border, size)
    noise = rng.integers(0, 60, (*size, 3))
    image = np.where(right[..., None], [30, 60, 180], [180, 120, 20]) + noise
    label = np.where(right, 3, 6)
    label[:4] = 0
    normals = np.where(right[..., None], [255, 127.5, 127.5], [127.5, 127.5, 255])
    edge = np.zeros(size, np.uint8)
    edge[:, border] = 255
    cv2.imwrite(str(root / "images" / f"{name}.png"), image.astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(root / "segmentation" / f"{name}.png"), label.astype(np.uint8))
    cv2.imwrite(str(root / "normals" / f"{name}.png"), normals.astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(root / "edge" / f"{name}.png"), edge)
    np.save(root / "depth" / f"{name}.npy", np.where(right, 2.0, 4.0).astype(np.float32))


def nyud_config(
    root: Path, tasks: tuple[str, ...] = TASKS, size: tuple[int, int] = (64, 96)
) -> DatasetConfig:
    return DatasetConfig(name="nyud", path=str(root), tasks=tasks, size=size)
