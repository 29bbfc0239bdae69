"""How generated scenes are written as the two data sets' archives, so that the real readers read them.

    write_nyud("data", train=48, val=16, size=(224, 288), seed=0)            # data/NYUDv2/
    write_pascal_context("data", train=48, val=16, size=(224, 224), seed=0)  # data/PASCALContext/

Scene i of a split is a pure function of (seed, split, i). scenes.json in the folder says what was asked;
calling again with the same request finishes or keeps what is there, another request is refused.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.io import savemat

from storage.config import JpegConfig
from storage.jpeg import encode_jpeg
from student.tasks.pascal_context import PARTS, PERSON
from student.tasks.scenes.render import Picture, render
from student.tasks.scenes.room import generate
from student.tasks.scenes.things import CONTEXT_CLASSES, CONTEXT_LABELS, NYU_LABELS, PART_NAMES, VOC_LABELS
from student.tasks.spec import DATASETS, IGNORE, NYU_CLASSES, VOC_CLASSES

SPLITS = ("train", "val")
MAT_TEXT = b"MATLAB 5.0 MAT-file"
DOG = VOC_CLASSES.index("dog")
Write = Callable[[Path, str, Picture], Any]


def write_nyud(folder: str | Path, *, train: int, val: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Write that many scenes as NYUDv2/ in the folder, images of height and width `size`; returns NYUDv2/.

    Raises ValueError if the folder already holds something else.
    """
    root = Path(folder) / DATASETS["nyud"].folders[0]
    if not _begin(root, {"train": train, "val": val, "size": list(size), "seed": seed}):
        return root
    for split, count in (("train", train), ("val", val)):
        names = _draw_nyud(root, split, count, size, seed)
        _put(root / "gt_sets" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    return root


def write_pascal_context(
    folder: str | Path, *, train: int, val: int, size: tuple[int, int], seed: int = 0
) -> Path:
    """Write that many scenes as PASCALContext/ in the folder; returns PASCALContext/.

    Raises ValueError if the folder already holds something else.
    """
    root = Path(folder) / DATASETS["pascal_context"].folders[0]
    if not _begin(root, {"train": train, "val": val, "size": list(size), "seed": seed}):
        return root
    _put(root / "json" / "pascal_part.json", json.dumps({str(PERSON): PARTS}))
    _put(root / "json" / "nyu_classes.json", json.dumps([*NYU_CLASSES, "unknown"]))
    _put(root / "json" / "context_classes.json", json.dumps(CONTEXT_CLASSES))
    for split, count in (("train", train), ("val", val)):
        categories = _draw_pascal(root, split, count, size, seed)
        _put(root / "ImageSets" / "Parts" / f"{split}.txt", json.dumps(categories))
        _put(root / "ImageSets" / "Context" / f"{split}.txt", "".join(f"{name}\n" for name in categories))
    return root


def _begin(root: Path, request: dict[str, Any]) -> bool:
    """Whether there is anything to write; ValueError if the folder holds another data set."""
    note = root / "scenes.json"
    if note.is_file():
        found = json.loads(note.read_text())
        if found != request:
            raise ValueError(f"{root} holds scenes of {found}, asked are {request}; choose another folder")
        lists = list(root.glob("gt_sets/val.txt")) + list(root.glob("ImageSets/Context/val.txt"))
        return not lists
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} holds a data set that was not generated; choose another folder")
    _put(note, json.dumps(request))
    return True


def _scene(seed: int, split: str, index: int, size: tuple[int, int], people: int | None) -> Picture:
    number = int(np.random.SeedSequence((seed, SPLITS.index(split), index)).generate_state(1)[0])
    return render(generate(number, people=people), size)


def _draw_nyud(root: Path, split: str, count: int, size: tuple[int, int], seed: int) -> list[str]:
    names = []
    for index in range(count):
        name = f"{index + 1 + 500_000 * SPLITS.index(split):06d}"
        picture = _scene(seed, split, index, size, None)
        _put(root / "images" / f"{name}.png", _png(picture.image))
        _put(root / "segmentation" / f"{name}.png", _png(_table(NYU_LABELS, 1)[picture.thing]))
        _put(root / "normals" / f"{name}.png", _png(_normal_bytes(picture.normals)))
        _put(root / "edge" / f"{name}.png", _png(picture.edges.astype(np.uint8) * 255))
        _put(root / "depth" / f"{name}.npy", _npy(picture.depth))
        names.append(name)
    return names


def _draw_pascal(
    root: Path, split: str, count: int, size: tuple[int, int], seed: int
) -> dict[str, list[int]]:
    """Write the scenes; returns the categories of each, as ImageSets/Parts lists them."""
    categories = {}
    for index in range(count):
        name = f"2012_{index + 1 + 500_000 * SPLITS.index(split):06d}"
        picture = _scene(seed, split, index, size, (1, 2, 3, 0)[index % 4])
        _put(root / "JPEGImages" / f"{name}.jpg", encode_jpeg(picture.image, JpegConfig()))
        _put(root / "sal_distill" / f"{name}.png", _png(picture.salient.astype(np.uint8) * 255))
        _put(root / "normals_distill" / f"{name}.png", _png(_normal_bytes(picture.normals)))
        labels = _table(CONTEXT_LABELS, 0, np.uint16)[picture.thing]
        _put(root / "pascal-context" / "trainval" / f"{name}.mat", _mat({"LabelMap": labels}))
        voc = _table(VOC_LABELS, 0)[picture.thing]
        # As in the archive, only some images have VOC12's own masks, with its palette and its border of 255.
        if index % 2 == 0:
            _put(root / "semseg" / "VOC12" / f"{name}.png", _png(_with_border(voc), palette=True))
        else:
            _put(root / "semseg" / "pascal-context" / f"{name}.png", _png(voc))
        anno, categories[name] = _annotation(name, picture, voc)
        _put(root / "human_parts" / f"{name}.mat", _mat({"anno": anno}))
    return categories


def _annotation(name: str, picture: Picture, voc: np.ndarray) -> tuple[dict[str, Any], list[int]]:
    """PASCAL-Part's record of one image (every object with its mask and parts), and the categories in it."""
    found = []
    for instance in np.unique(picture.instance[voc > 0]):
        mask = picture.instance == instance
        category = int(np.bincount(voc[mask]).argmax())
        if category > 0:
            found.append((category, mask, _parts(picture, mask, category)))
    fields = [(field, object) for field in ("class", "class_ind", "mask", "parts")]
    objects = np.zeros((1, len(found)), dtype=fields)
    for index, (category, mask, parts) in enumerate(found):
        objects[0, index] = (VOC_CLASSES[category], float(category), mask.astype(np.uint8), parts)
    return {"imname": name, "objects": objects}, [category for category, _, _ in found]


def _parts(picture: Picture, mask: np.ndarray, category: int) -> np.ndarray:
    """The visible parts of one object as a 1 x n struct array; 0 x 0 for none, as MATLAB writes it."""
    named = {
        PART_NAMES[part]: mask & (picture.part == part) for part in np.unique(picture.part[mask]) if part
    }
    if category == DOG:
        named = {"torso": mask}
    if not named:
        return np.zeros((0, 0))
    parts = np.zeros((1, len(named)), dtype=[("part_name", object), ("mask", object)])
    for index, (part, where) in enumerate(named.items()):
        parts[0, index] = (part, where.astype(np.uint8))
    return parts


def _with_border(voc: np.ndarray) -> np.ndarray:
    """VOC's masks leave the outline of each object open."""
    kernel = np.ones((3, 3), np.uint8)
    return np.where(cv2.dilate(voc, kernel) != cv2.erode(voc, kernel), np.uint8(IGNORE), voc)


def _table(labels: tuple[int, ...], shift: int, dtype: type = np.uint8) -> np.ndarray:
    return (np.array(labels) + shift).astype(dtype)


def _normal_bytes(normals: np.ndarray) -> np.ndarray:
    return np.round((normals + 1) * 127.5).astype(np.uint8)


def _png(array: np.ndarray, *, palette: bool = False) -> bytes:
    image = Image.fromarray(array)
    if palette:
        # Any palette does: what counts is that the file holds indices and shows colours.
        image.putpalette(
            [channel for i in range(256) for channel in (i * 37 % 256, i * 91 % 256, i * 53 % 256)]
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _mat(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    # The first 116 bytes are a free text, where SciPy writes the time: the same scene is the same file.
    return MAT_TEXT.ljust(116) + buffer.getvalue()[116:]


def _put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
