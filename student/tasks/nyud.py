"""What the NYUDv2 folder holds: images and the labels of segmentation, depth, normals and edges.

    NYUDv2/ images/*.png  segmentation/*.png (0 = ignore, else class + 1)  depth/*.npy (metres)
            normals/*.png (2 v / 255 - 1)  edge/*.png  gt_sets/{train,val}.txt

Older copies of the archive have .jpg images and .npy normals and edges; they are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from student.tasks.archive import Files, check_classes, find_root, fit, read_array, read_ids, read_image
from student.tasks.spec import DATASETS, IGNORE, out_channels

PLACES = {
    "image": ("images/{}.png", "images/{}.jpg"),
    "semseg": ("segmentation/{}.png",),
    "depth": ("depth/{}.npy",),
    "normals": ("normals/{}.png", "normals/{}.npy"),
    "edge": ("edge/{}.png", "edge/{}.npy"),
}

SHORTEST = 0.01
"""A normal that is shorter in every channel is no direction but an encoded zero."""


class Nyud:
    """One split of NYUD-v2. `read(index)` gives `id`, `image` and one array per task.

    image uint8 [H, W, 3] RGB; semseg uint8 [H, W], 255 = ignored; depth float32 [H, W] metres, 0 = unknown;
    normals float32 [H, W, 3], 0 = unknown; edge uint8 [H, W] 0/1. Raises DatasetError (see archive.py).
    """

    def __init__(self, path: str | Path, split: str, tasks: Sequence[str], *, compat: str = "sound") -> None:
        self.compat = compat
        self.tasks = tuple(out_channels("nyud", tasks))
        self.root = find_root(path, DATASETS["nyud"], "images")
        self.ids = read_ids(self.root / "gt_sets" / f"{split}.txt")
        self.paths = {
            name: Files(self.root, PLACES[name]).require(self.ids, name) for name in ("image", *self.tasks)
        }

    def read(self, index: int) -> dict[str, Any]:
        """The sample at this position of the split."""
        name = self.ids[index]
        image = read_image(self.paths["image"][name])
        labels = {task: fit(self._read(task, self.paths[task][name]), image.shape) for task in self.tasks}
        return {"id": name, "image": image, **labels}

    def _read(self, task: str, path: Path) -> np.ndarray:
        return read_normals(path, self.compat) if task == "normals" else _READ[task](path)


def _semseg(path: Path) -> np.ndarray:
    stored = read_array(path).astype(np.int64)
    label = np.where((stored == 0) | (stored == IGNORE), IGNORE, stored - 1)
    return check_classes(label, DATASETS["nyud"].channels["semseg"], path).astype(np.uint8)


def _depth(path: Path) -> np.ndarray:
    return np.squeeze(read_array(path)).astype(np.float32)


def read_normals(path: Path, compat: str) -> np.ndarray:
    """Unit normals float32 [H, W, 3], 0 = unknown: bytes are (v + 1) * 127.5, an .npy holds them as they are.

    The byte code has no exact zero: an unknown normal is 127 or 128 in every channel, and it becomes 0 here.
    The released code (compat "official") takes it for a label of norm 0.007.
    """
    stored = read_array(path).astype(np.float32)
    if path.suffix == ".npy":
        return stored
    normals = stored[..., :3] * np.float32(2 / 255) - 1
    if compat == "sound":
        normals[np.abs(normals).max(axis=2) < SHORTEST] = 0
    return normals


def _edge(path: Path) -> np.ndarray:
    stored = np.squeeze(read_array(path)).astype(np.float32)
    return (stored > (127 if stored.max() > 1 else 0)).astype(np.uint8)


_READ = {"semseg": _semseg, "depth": _depth, "edge": _edge}
