"""Which tasks and multi-task data sets there are: channels, loss weights, metrics, classes.

One row per task and per data set; everything that depends on either (heads, losses, meters, tables, pictures)
reads it here. Loss weights are the paper's B.5, metrics B.4, input sizes B.3.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Row = TypeVar("Row")

IGNORE = 255
"""Label of a pixel that counts nowhere, in every task and channel."""


@dataclass(frozen=True)
class MetricSpec:
    """How a metric is written and which way is better."""

    title: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class TaskSpec:
    """One task: its name in the paper, its loss weight (B.5) and its metrics, the reported one first."""

    title: str
    loss_weight: float
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSpec:
    """One multi-task data set: folder names of its archives, input size, channels per task, class names."""

    title: str
    folders: tuple[str, ...]
    size: tuple[int, int]
    """Input height and width of training and evaluation, pixels (B.3)."""
    channels: Mapping[str, int]
    """Output channels of each task's head, in the order of the paper's tables."""
    classes: tuple[str, ...]
    """Names of the semantic segmentation classes; label i is classes[i]."""
    edge_tolerance: float
    """Mis-localisation that odsF allows, as a fraction of the image diagonal (B.4)."""


METRICS: dict[str, MetricSpec] = {
    "miou": MetricSpec("mIoU", "%", True),
    "maxf": MetricSpec("maxF", "%", True),
    "merr": MetricSpec("mErr", "deg", False),
    "rmse": MetricSpec("RMSE", "m", False),
    "odsf": MetricSpec("odsF", "%", True),
    "boundary_loss": MetricSpec("boundary loss", "", False),
}

TASKS: dict[str, TaskSpec] = {
    "semseg": TaskSpec("Semseg", 1.0, ("miou",)),
    "human_parts": TaskSpec("Parsing", 2.0, ("miou",)),
    "sal": TaskSpec("Saliency", 5.0, ("maxf",)),
    "normals": TaskSpec("Normal", 10.0, ("merr",)),
    "edge": TaskSpec("Boundary", 50.0, ("odsf", "boundary_loss")),
    "depth": TaskSpec("Depth", 1.0, ("rmse",)),
}

# fmt: off
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on

# fmt: off
NYU_CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub",
    "bag", "otherstructure", "otherfurniture", "otherprop",
)
# fmt: on

DATASETS: dict[str, DatasetSpec] = {
    "pascal_context": DatasetSpec(
        title="PASCAL-Context",
        folders=("PASCALContext", "PASCAL_MT"),
        size=(512, 512),
        channels={"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1},
        classes=VOC_CLASSES,
        edge_tolerance=0.0075,
    ),
    "nyud": DatasetSpec(
        title="NYUD-v2",
        folders=("NYUDv2", "NYUD_MT"),
        size=(448, 576),
        channels={"semseg": 40, "depth": 1, "normals": 3, "edge": 1},
        classes=NYU_CLASSES,
        edge_tolerance=0.011,
    ),
}


def task_spec(task: str) -> TaskSpec:
    """The row of one task; ValueError with a suggestion for an unknown name."""
    return _row(TASKS, task, "task")


def dataset_spec(dataset: str) -> DatasetSpec:
    """The row of one data set; ValueError with a suggestion for an unknown name."""
    return _row(DATASETS, dataset, "data set")


def out_channels(dataset: str, tasks: Iterable[str]) -> dict[str, int]:
    """Channels of each task's head on this data set, in the order asked.

    Raises ValueError for a task that the data set does not label.
    """
    channels = dataset_spec(dataset).channels
    return {task: _labelled(channels, dataset, task) for task in tasks}


def _labelled(channels: Mapping[str, int], dataset: str, task: str) -> int:
    task_spec(task)
    if task not in channels:
        raise ValueError(f"{dataset} has no labels for task {task!r}; its tasks are {', '.join(channels)}")
    return channels[task]


def _row(table: Mapping[str, Row], name: str, kind: str) -> Row:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}known are {', '.join(table)}")
