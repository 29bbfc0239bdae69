"""What the PASCALContext folder holds: images, segmentation, human parts, saliency, normals and edges.

    PASCALContext/ JPEGImages/*.jpg            pascal-context/trainval/*.mat (LabelMap)
                   semseg/{VOC12,pascal-context}/*.png   human_parts/*.mat   sal_distill/*.png
                   normals_distill/*.png       json/{pascal_part,nyu_classes,context_classes}.json
                   ImageSets/{Context,Parts}/{train,val}.txt

Edges are the thin boundaries of LabelMap. Normals count only where LabelMap is a class that NYU names too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from student.tasks.archive import DatasetError, Files, check_classes, find_root, fit, read_array, read_ids
from student.tasks.archive import read_image as read_rgb
from student.tasks.nyud import read_normals
from student.tasks.spec import DATASETS, out_channels
from student.tasks.thinning import label_edges

PERSON = 15
"""PASCAL's category of a person."""

PARTS: dict[str, int] = {
    **dict.fromkeys(("head", "hair", "lear", "rear", "leye", "reye", "lebrow", "rebrow", "nose", "mouth"), 1),
    **dict.fromkeys(("torso", "neck"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}
"""PASCAL-Part's names of a person's parts -> the six classes of the parsing task."""

LABEL_MAP = ("pascal-context/trainval/{}.mat", "pascal-context/{}.mat")
PLACES = {
    "image": ("JPEGImages/{}.jpg",),
    "semseg": ("semseg/VOC12/{}.png", "semseg/pascal-context/{}.png"),
    "human_parts": ("human_parts/{}.mat",),
    "sal": ("sal_distill/{}.png",),
    "normals": ("normals_distill/{}.png",),
    "edge": LABEL_MAP,
    "label_map": LABEL_MAP,
}


class PascalContext:
    """One split of PASCAL-Context. `read(index)` gives `id`, `image` and one array per task.

    image uint8 [H, W, 3] RGB; semseg, human_parts uint8 [H, W], 255 = ignored; sal, edge uint8 [H, W] 0/1;
    normals float32 [H, W, 3], 0 = not labelled. Images without people are dropped where human parts is the
    only task. Raises DatasetError (see archive.py).
    """

    def __init__(self, path: str | Path, split: str, tasks: Sequence[str], *, compat: str = "sound") -> None:
        self.compat = compat
        self.tasks = tuple(out_channels("pascal_context", tasks))
        self.root = find_root(path, DATASETS["pascal_context"], "JPEGImages")
        self.ids = read_ids(self.root / "ImageSets" / "Context" / f"{split}.txt")
        people = self._people(split) if "human_parts" in self.tasks else set()
        if self.tasks == ("human_parts",):
            self.ids = [name for name in self.ids if name in people]
        needed = ["image", *self.tasks, *(["label_map"] if "normals" in self.tasks else [])]
        self.paths = {}
        for name in needed:
            ids = [i for i in self.ids if i in people] if name == "human_parts" else self.ids
            self.paths[name] = Files(self.root, PLACES[name]).require(ids, name)
        if "normals" in self.tasks:
            self.normal_classes = _normal_classes(self.root / "json")

    def read(self, index: int) -> dict[str, Any]:
        """The sample at this position of the split."""
        name = self.ids[index]
        image = read_rgb(self.paths["image"][name])
        shape = image.shape
        labels = {task: fit(self._read(task, name, shape), shape) for task in self.tasks}
        return {"id": name, "image": image, **labels}

    def _read(self, task: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if task == "human_parts" and name not in self.paths[task]:
            return np.zeros(shape[:2], np.uint8)
        path = self.paths[task][name]
        if task == "human_parts":
            return _human_parts(path, shape)
        if task == "normals":
            return self._normals(path, self.paths["label_map"][name], shape)
        return _READ[task](path)

    def _normals(self, path: Path, label_map: Path, shape: tuple[int, ...]) -> np.ndarray:
        known = np.isin(fit(_label_map(label_map), shape), self.normal_classes)
        return fit(read_normals(path, self.compat), shape) * known[..., None]

    def _people(self, split: str) -> set[str]:
        """The images that show a person: the only ones whose parts are looked at."""
        path = self.root / "ImageSets" / "Parts" / f"{split}.txt"
        categories = _read_json(path)
        people = {name for name in self.ids if PERSON in map(int, categories.get(name, ()))}
        if not people:
            raise DatasetError(
                f"{path} lists no image of the split with a person (category {PERSON}); unpack the archive "
                "again, or leave human_parts out of dataset.tasks"
            )
        return people


def _normal_classes(folder: Path) -> list[int]:
    """LabelMap classes whose normals count: named in both lists, 'unknown' excluded, and tvmonitor."""
    nyu, context = _read_json(folder / "nyu_classes.json"), _read_json(folder / "context_classes.json")
    names = (set(nyu) & set(context) - {"unknown"}) | ({"tvmonitor"} & set(context))
    return sorted(int(context[name]) for name in names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is no readable JSON ({error}); unpack the archive again") from error


def _semseg(path: Path) -> np.ndarray:
    return check_classes(read_array(path), DATASETS["pascal_context"].channels["semseg"], path)


def _saliency(path: Path) -> np.ndarray:
    stored = read_array(path)
    return ((stored if stored.ndim == 2 else stored[..., 0]) > 127).astype(np.uint8)


def _load_mat(path: Path, field: str) -> np.ndarray:
    try:
        return loadmat(path)[field]
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError) as error:
        raise DatasetError(f"{path} holds no readable {field!r} ({error}); unpack it again") from error


def _label_map(path: Path) -> np.ndarray:
    return _load_mat(path, "LabelMap").astype(np.int32)


def _edge(path: Path) -> np.ndarray:
    return label_edges(_label_map(path)).astype(np.uint8)


def _human_parts(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Parts of every person, later ones on top; all 0 where no person has parts: uint8 [H, W]."""
    label = np.zeros(shape[:2], np.uint8)
    for person in _load_mat(path, "anno")[0][0][1][0]:
        category, mask, parts = person[1], person[2], person[3]
        if int(np.squeeze(category)) != PERSON or len(parts) == 0:
            continue
        if mask.shape != label.shape:
            label = np.zeros(mask.shape, np.uint8)
        for part in parts[0]:
            label[part[1].astype(bool)] = _part_class(str(part[0][0]), path)
    return label


def _part_class(name: str, path: Path) -> int:
    if name not in PARTS:
        raise DatasetError(f"{path} names the part {name!r}; PASCAL-Part's are {', '.join(PARTS)}")
    return PARTS[name]


_READ: dict[str, Callable[[Path], np.ndarray]] = {"semseg": _semseg, "sal": _saliency, "edge": _edge}
