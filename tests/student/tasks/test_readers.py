"""Readers of both archives: every label against the rendering, and what they say about what is missing."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from skimage.morphology import thin as skimage_thin

from student.config import DatasetConfig
from student.tasks.archive import DatasetError
from student.tasks.batches import open_dataset
from student.tasks.nyud import Nyud
from student.tasks.pascal_context import PascalContext
from student.tasks.scenes.render import Picture, render
from student.tasks.scenes.room import generate
from student.tasks.scenes.things import CONTEXT_LABELS, NYU_LABELS, PART_NAMES, THING_NAMES, VOC_LABELS
from student.tasks.scenes.write import _mat, write_nyud, write_pascal_context
from student.tasks.spec import NYU_CLASSES
from tests.student.tasks.scene_sets import SIZE, TASKS

Copy = Callable[[str], Path]

# The classes of the parsing task, spelled out once more.
HEAD = ("head", "hair", "leye", "reye", "nose")
CLASSES = (HEAD, ("torso", "neck"), "luarm ruarm", "llarm rlarm lhand rhand", "luleg ruleg")
PART_CLASS = {
    **{name: 1 + i for i, names in enumerate(CLASSES) for name in (names if i < 2 else names.split())},
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}


def picture_of(split: int, index: int, people: int | None) -> Picture:
    number = int(np.random.SeedSequence((5, split, index)).generate_state(1)[0])
    return render(generate(number, people=people), SIZE)


def test_nyud_reads_back_what_was_rendered(data: Path) -> None:
    for split, name in enumerate(("train", "val")):
        reader = Nyud(data / "NYUDv2", name, TASKS["nyud"])
        assert len(reader.ids) == (4, 2)[split]
        for index in range(2):
            picture, sample = picture_of(split, index, None), reader.read(index)
            assert sample["id"] == reader.ids[index]
            assert np.array_equal(sample["image"], picture.image)
            assert np.array_equal(sample["semseg"], np.array(NYU_LABELS)[picture.thing])
            assert np.array_equal(sample["depth"], picture.depth)
            assert np.array_equal(sample["edge"], picture.edges)
            assert np.abs(sample["normals"] - picture.normals).max() < 1 / 255 + 1e-6
            assert sample["semseg"].dtype == np.uint8 and sample["depth"].dtype == np.float32


def test_pascal_reads_back_what_was_rendered(data: Path) -> None:
    reader = PascalContext(data, "train", TASKS["pascal_context"])
    voc = np.array(VOC_LABELS)
    for index in range(4):
        picture, sample = picture_of(0, index, (1, 2, 3, 0)[index]), reader.read(index)
        assert np.abs(sample["image"].astype(int) - picture.image).mean() < 3
        labelled = sample["semseg"] != 255
        # Even samples have VOC12's mask with its border, odd ones pascal-context's without.
        assert labelled.all() == (index % 2 == 1) and labelled.mean() > 0.7
        assert np.array_equal(sample["semseg"][labelled], voc[picture.thing][labelled])
        assert np.array_equal(sample["sal"], picture.salient)
        labels = np.array(CONTEXT_LABELS, np.uint16)[picture.thing]
        edges = skimage_thin(np.abs(cv2.Laplacian(labels, cv2.CV_64F)) > 0)
        assert np.array_equal(sample["edge"], edges)
        part = np.array([0, *(PART_CLASS[name] for name in PART_NAMES[1:])])
        assert np.array_equal(sample["human_parts"], part[picture.part])
    assert not sample["human_parts"].any()


def test_pascal_normals_count_where_nyu_names_the_class_too(data: Path) -> None:
    reader = PascalContext(data / "PASCALContext", "train", ("normals",))
    counted = {
        "wall",
        "floor",
        "ceiling",
        "bed",
        "box",
        "cabinet",
        "chair",
        "curtain",
        "desk",
        "door",
        "person",
    }
    counted |= {"picture", "pillow", "sofa", "table", "tv", "window", "bookshelf"}
    for index in range(4):
        picture, normals = picture_of(0, index, (1, 2, 3, 0)[index]), reader.read(index)["normals"]
        known = np.isin(np.array(THING_NAMES)[picture.thing], list(counted))
        assert np.array_equal(np.any(normals != 0, axis=2), known)
        assert np.abs((normals - picture.normals)[known]).max() < 1 / 255 + 1e-6
    assert not known.all()


def test_the_mat_files_have_the_archives_nesting(data: Path) -> None:
    root = data / "PASCALContext"
    person = loadmat(root / "human_parts" / "2012_000001.mat")["anno"][0][0][1][0]
    categories = [int(record[1][0][0]) for record in person]
    assert 15 in categories
    record = person[categories.index(15)]
    assert str(record[0][0]) == "person" and record[2].shape == SIZE
    assert str(record[3][0][0][0][0]) in PART_CLASS and record[3][0][0][1].shape == SIZE
    assert loadmat(root / "pascal-context" / "trainval" / "2012_000001.mat")["LabelMap"].dtype == np.uint16
    listed = json.loads((root / "ImageSets" / "Parts" / "train.txt").read_text())
    assert sorted(listed["2012_000001"]) == sorted(categories)
    with Image.open(root / "semseg" / "VOC12" / "2012_000001.png") as mask:
        assert mask.mode == "P"


def test_the_folder_or_its_parent_may_be_named(data: Path) -> None:
    for name, folder in (("nyud", "NYUDv2"), ("pascal_context", "PASCALContext")):
        for path in (data, data / folder):
            config = DatasetConfig(name=name, path=str(path), tasks=TASKS[name])
            assert len(open_dataset(config, "val").ids) == 2


def test_human_parts_alone_drops_images_without_people(data: Path) -> None:
    reader = PascalContext(data, "train", ("human_parts",))
    assert reader.ids == ["2012_000001", "2012_000002", "2012_000003"]
    assert len(PascalContext(data, "train", ("human_parts", "sal")).ids) == 4


def test_later_parts_overwrite_and_only_people_count(copy_of: Copy) -> None:
    root = copy_of("PASCALContext")
    objects = np.zeros((1, 3), dtype=[(f, object) for f in ("class", "class_ind", "mask", "parts")])
    low, high, all_ = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8), np.ones(SIZE, np.uint8)
    low[:40], high[20:50] = 1, 1
    parts = np.zeros((1, 2), dtype=[("part_name", object), ("mask", object)])
    parts[0, 0], parts[0, 1] = ("head", low), ("rfoot", high)
    objects[0, 0] = ("person", 15.0, all_, parts)
    dog = np.zeros((1, 1), dtype=parts.dtype)
    dog[0, 0] = ("muzzle", all_)
    objects[0, 1] = ("dog", 12.0, all_, dog)
    objects[0, 2] = ("person", 15.0, all_, np.zeros((0, 0)))
    path = root / "human_parts" / "2012_000001.mat"
    savemat(path, {"anno": {"imname": "2012_000001", "objects": objects}})
    label = PascalContext(root, "train", ("human_parts", "sal")).read(0)["human_parts"]
    assert (label[:20] == 1).all() and (label[20:50] == 6).all() and not label[50:].any()
    parts[0, 1] = ("wing", high)
    savemat(path, {"anno": {"imname": "2012_000001", "objects": objects}})
    with pytest.raises(DatasetError, match="names the part 'wing'"):
        PascalContext(root, "train", ("human_parts", "sal")).read(0)


def test_older_copies_of_nyud_are_read(copy_of: Copy) -> None:
    root = copy_of("NYUDv2")
    fresh = Nyud(root, "train", TASKS["nyud"]).read(0)
    for path in (root / "images").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    for path in (root / "normals").glob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)) * (2 / 255) - 1)
        path.unlink()
    for path in (root / "edge").glob("*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)) // 255)
        path.unlink()
    old = Nyud(root, "train", TASKS["nyud"]).read(0)
    assert np.array_equal(old["edge"], fresh["edge"]) and np.allclose(
        old["normals"], fresh["normals"], atol=1e-6
    )
    assert np.abs(old["image"].astype(int) - fresh["image"]).mean() < 8


def test_nyud_class_zero_and_encoded_zero_normals_are_ignored(copy_of: Copy) -> None:
    root = copy_of("NYUDv2")
    name = Nyud(root, "train", ("semseg",)).ids[0]
    label = np.full(SIZE, 40, np.uint8)
    label[0, :2] = 0
    Image.fromarray(label).save(root / "segmentation" / f"{name}.png")
    normals = np.full((*SIZE, 3), 127, np.uint8)
    normals[5:] = [128, 128, 255]
    Image.fromarray(normals).save(root / "normals" / f"{name}.png")
    sample = Nyud(root, "train", ("semseg", "normals")).read(0)
    assert (sample["semseg"][0, :2] == 255).all() and (sample["semseg"][1:] == 39).all()
    assert not sample["normals"][:5].any() and (sample["normals"][5:, :, 2] == 1).all()
    official = Nyud(root, "train", ("normals",), compat="official").read(0)
    assert (official["normals"][:5] != 0).all()


def test_labels_of_another_size_are_fitted_to_the_image(copy_of: Copy) -> None:
    root = copy_of("PASCALContext")
    path = root / "normals_distill" / "2012_000001.png"
    small = np.asarray(Image.open(path))[::2, ::2]
    Image.fromarray(small).save(path)
    sample = PascalContext(root, "train", TASKS["pascal_context"]).read(0)
    assert {sample[task].shape[:2] for task in TASKS["pascal_context"]} == {SIZE}


BREAKS = [
    ("nyud", "NYUDv2", "gt_sets/train.txt", "gt_sets/train.txt is missing: the split's image names"),
    ("nyud", "NYUDv2", "images", "is no NYUD-v2 folder: neither it nor its NYUDv2/ holds images/"),
    ("nyud", "NYUDv2", "depth", r"lacks depth/000001.npy \(depth; 4 of 4 are missing\)"),
    ("nyud", "NYUDv2", "edge/000002.png", r"lacks edge/000002.png or edge/000002.npy \(edge; 1 of 4"),
    ("pascal_context", "PASCALContext", "JPEGImages", "holds JPEGImages/; set dataset.path"),
    (
        "pascal_context",
        "PASCALContext",
        "semseg/VOC12",
        r"lacks semseg/VOC12/2012_000001.png or semseg/pascal-con",
    ),
    ("pascal_context", "PASCALContext", "pascal-context", r"lacks pascal-context/trainval/2012_000001.mat"),
    ("pascal_context", "PASCALContext", "human_parts", "leave the task out of dataset.tasks"),
    ("pascal_context", "PASCALContext", "json", r"nyu_classes.json is no readable JSON .*unpack"),
]


@pytest.mark.parametrize(("name", "folder", "gone", "message"), BREAKS)
def test_what_is_missing_is_named_when_the_data_set_is_opened(
    copy_of: Copy, name: str, folder: str, gone: str, message: str
) -> None:
    root = copy_of(folder)
    target = root / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    config = DatasetConfig(name=name, path=str(root), tasks=TASKS[name])
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(config, "train")
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


def test_a_task_that_is_not_asked_for_may_be_missing(copy_of: Copy) -> None:
    root = copy_of("PASCALContext")
    for folder in ("human_parts", "json", "normals_distill", "pascal-context"):
        shutil.rmtree(root / folder)
    assert set(PascalContext(root, "train", ("semseg", "sal")).read(0)) == {"id", "image", "semseg", "sal"}


def test_the_parts_list_says_who_has_people(copy_of: Copy) -> None:
    root = copy_of("PASCALContext")
    (root / "human_parts" / "2012_000004.mat").unlink()
    label = PascalContext(root, "train", ("human_parts", "sal")).read(3)["human_parts"]
    assert label.shape == SIZE and not label.any()
    parts = root / "ImageSets" / "Parts" / "train.txt"
    parts.write_text('{"2012_000001": [9]}')
    with pytest.raises(DatasetError, match="lists no image of the split with a person"):
        PascalContext(root, "train", ("human_parts", "sal"))
    parts.unlink()
    with pytest.raises(DatasetError, match=r"Parts.train\.txt is no readable JSON"):
        PascalContext(root, "train", ("human_parts",))


@pytest.mark.parametrize(
    "file", ["images/000001.png", "depth/000001.npy", "segmentation/000001.png", "normals/000001.png"]
)
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_is_named(copy_of: Copy, file: str, damage: str) -> None:
    root = copy_of("NYUDv2")
    data = (root / file).read_bytes()
    (root / file).write_bytes({"cut": data[: len(data) // 3], "noise": b"x" * 999, "empty": b""}[damage])
    with pytest.raises(DatasetError, match=re.escape(str(root / file)) + ".*unpack the archive again"):
        Nyud(root, "train", TASKS["nyud"]).read(0)


def test_a_damaged_mat_file_is_named(copy_of: Copy) -> None:
    root = copy_of("PASCALContext")
    path = root / "pascal-context" / "trainval" / "2012_000001.mat"
    reader = PascalContext(root, "train", ("edge",))
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"\0" * 300):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"2012_000001\.mat holds no readable 'LabelMap'"):
            reader.read(0)
    savemat(path, {"other": np.zeros(3)})
    with pytest.raises(DatasetError, match="'LabelMap'"):
        reader.read(0)


def test_a_foreign_label_set_is_named(copy_of: Copy) -> None:
    root = copy_of("NYUDv2")
    Image.fromarray(np.full(SIZE, 41, np.uint8)).save(root / "segmentation" / "000001.png")
    with pytest.raises(DatasetError, match=r"000001\.png holds class 40, the data set has 40"):
        Nyud(root, "train", ("semseg",)).read(0)


def test_an_empty_path_says_what_to_set() -> None:
    with pytest.raises(DatasetError, match=r"dataset\.path is empty; set it to the NYUD-v2 folder"):
        open_dataset(DatasetConfig(name="nyud", path=""), "train")


def test_writing_again_keeps_and_another_request_is_refused(tmp_path: Path) -> None:
    request = {"train": 1, "val": 1, "size": (24, 32), "seed": 1}
    for write in (write_nyud, write_pascal_context):
        root = write(tmp_path, **request)
        before = {
            path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()
        }
        assert write(tmp_path, **request) == root
        after = {
            path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()
        }
        assert before == after
        # A cut writing lacks the last list: it is finished, with the same bytes.
        for last in (*root.glob("gt_sets/val.txt"), *root.glob("ImageSets/Context/val.txt")):
            last.unlink()
        write(tmp_path, **request)
        assert {path: data for path, (_, data) in before.items()} == {
            path: path.read_bytes() for path in before
        }
        with pytest.raises(ValueError, match="choose another folder"):
            write(tmp_path, **{**request, "seed": 2})
    foreign = tmp_path / "real" / "NYUDv2"
    foreign.mkdir(parents=True)
    (foreign / "images").mkdir()
    with pytest.raises(ValueError, match="was not generated"):
        write_nyud(tmp_path / "real", **request)


def test_scene_classes_are_those_of_the_table() -> None:
    assert [NYU_CLASSES[i] for i in NYU_LABELS[:3]] == ["wall", "floor", "ceiling"]
    assert len(NYU_CLASSES) == 40


def test_a_mat_file_holds_no_time() -> None:
    first = _mat({"x": np.arange(3)})
    with patch("time.asctime", return_value="another day"):
        assert _mat({"x": np.arange(3)}) == first
    assert loadmat(io.BytesIO(first))["x"].tolist() == [[0, 1, 2]]
