"""Which files of a run the report reads: their names and contents, in this one place.

A run is one folder with one folder per step. The report reads files only; each of them may be missing.

    RUN/<step>/run.json         who, when, with what, for each <step> below: jobs.provenance's {"command",
                                "recipe": {...}, "revision", "libraries": {name: version}, ...} and
                                "started" (ISO 8601, UTC), "seconds", "device"

    RUN/cache/inspect.json      {"rows": [...]}: storage.inspect's ColumnRow.model_dump(mode="json"), each
                                with "cache": its name; "jpeg" {"cosine": {teacher: cosine}} if measured
    RUN/cache/inspect.png       a picture of decoded features (optional, any size)

    RUN/distill/metrics.jsonl   stage 1, per interval: {"step", "loss", "loss/<teacher>", "lr", ...}
    RUN/distill/summary.json    {name: number}: shown as a list; other values are passed over
    RUN/distill/similarity_before.json, similarity_after.json
                                what student.similarity returns: {teacher: {"flattened", "per_token", ...}};
                                without the latter, RUN/evaluate-similarity/similarity.json is taken
    RUN/distill/maps.npz        uint8 RGB of held-out photos: "photos" [n, H, W, 3] and, for every teacher,
                                "<teacher>.teacher", "<teacher>.before", "<teacher>.after" [n, h, w, 3]

    RUN/finetune-<dataset>/metrics.jsonl    stage 2: {"step", "loss", "loss/<task>", "distill/<teacher>", ...}
    RUN/finetune-<dataset>/summary.json     as in distill/

    RUN/evaluate-<dataset>/metrics.json     student.evaluate writes it: {"dataset", "images", "compat",
                                            "metrics": {task: value or null}, "names": {task: metric},
                                            "single_task": {task: value} or null, "delta_m": percent or null,
                                            "delta_m_tasks": [task, ...] that it is the mean over,
                                            "pictures": [id, ...]}
    RUN/evaluate-<dataset>/gates.json       {"experts": [name, ...], "tasks": {task: [level][expert] weight}}
    RUN/evaluate-<dataset>/predictions/     <id>_image.png, <id>_<task>.png, <id>_<task>_truth.png
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from student.metrics_log import read_records

STEPS = ("cache", "distill")
PHASES = ("teacher", "before", "after")


@dataclass(frozen=True)
class Distill:
    """What stage 1 left behind; empty where a file is missing."""

    records: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def mapped_teachers(self) -> list[str]:
        """Teachers that have PCA panels, in file order."""
        return [name.removesuffix(".teacher") for name in self.maps if name.endswith(".teacher")]


@dataclass(frozen=True)
class Finetune:
    """What stage 2 on one data set left behind."""

    records: list[dict[str, Any]]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation on one data set left behind."""

    folder: Path
    scores: dict[str, Any]
    gates: dict[str, Any]

    def picture(self, sample: str, name: str) -> bytes | None:
        """PNG bytes of `predictions/<sample>_<name>.png`, None where it was not saved."""
        path = self.folder / "predictions" / f"{sample}_{name}.png"
        return path.read_bytes() if path.is_file() else None


@dataclass(frozen=True)
class Run:
    """Everything of one run that the report shows."""

    folder: Path
    steps: list[dict[str, Any]]
    recipe: dict[str, Any]
    cache_rows: list[dict[str, Any]]
    jpeg_cosine: dict[str, float]
    cache_picture: bytes | None
    distill: Distill
    finetune: dict[str, Finetune]
    evaluate: dict[str, Evaluation]

    @property
    def name(self) -> str:
        """The recipe's name; the folder's where no recipe was saved."""
        return str(self.recipe.get("name") or self.folder.name)


def load_run(folder: Path) -> Run:
    """Read a run's folder. Raises ValueError where the folder is no folder or a file of it is damaged."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the folder that holds the steps of one run")
    steps = step_folders(folder)
    records = [{"step": step.name, **doc} for step in steps if (doc := read_json(step / "run.json"))]
    inspected, picture = read_json(folder / "cache" / "inspect.json"), folder / "cache" / "inspect.png"
    return Run(
        folder=folder,
        steps=records,
        recipe=next((step["recipe"] for step in reversed(records) if step.get("recipe")), {}),
        cache_rows=list(inspected.get("rows", [])),
        jpeg_cosine=dict(inspected.get("jpeg", {}).get("cosine", {})),
        cache_picture=picture.read_bytes() if picture.is_file() else None,
        distill=load_distill(folder / "distill"),
        finetune={
            dataset_of(step): load_finetune(step) for step in steps if step.name.startswith("finetune-")
        },
        evaluate={
            dataset_of(step): load_evaluation(step) for step in steps if step.name.startswith("evaluate-")
        },
    )


def step_folders(folder: Path) -> list[Path]:
    """Folders of the steps that ran, in the order in which a recipe runs them."""
    fixed = [folder / name for name in STEPS if (folder / name).is_dir()]
    per_dataset = [path for stem in ("finetune", "evaluate") for path in sorted(folder.glob(f"{stem}-*"))]
    return fixed + [path for path in per_dataset if path.is_dir()]


def dataset_of(step: Path) -> str:
    """`finetune-nyud` -> `nyud`."""
    return step.name.split("-", 1)[1]


def load_distill(folder: Path) -> Distill:
    """Stage 1's files."""
    return Distill(
        records=read_records(folder / "metrics.jsonl"),
        summary=read_json(folder / "summary.json"),
        before=read_json(folder / "similarity_before.json"),
        after=read_json(folder / "similarity_after.json")
        or read_json(folder.parent / "evaluate-similarity" / "similarity.json"),
        maps=read_maps(folder / "maps.npz"),
    )


def load_finetune(folder: Path) -> Finetune:
    """Stage 2's files."""
    return Finetune(read_records(folder / "metrics.jsonl"), read_json(folder / "summary.json"))


def load_evaluation(folder: Path) -> Evaluation:
    """The evaluation's files; the pictures stay on disk until they are asked for."""
    return Evaluation(folder, read_json(folder / "metrics.json"), read_json(folder / "gates.json"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where the file is missing. Raises ValueError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        doc = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and rerun its step") from error
    if not isinstance(doc, dict):
        raise ValueError(f"{path} holds a {type(doc).__name__}, not an object; delete it and rerun its step")
    return doc


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """The panels of maps.npz; {} where it is missing. Raises ValueError for a damaged or incomplete file."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as data:
            maps = {name: data[name] for name in data.files}
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and rerun distill") from error
    teachers = {name.rsplit(".", 1)[0] for name in maps if "." in name}
    wanted = {f"{teacher}.{phase}" for teacher in teachers for phase in PHASES} | {"photos"}
    if missing := sorted(wanted - set(maps)):
        raise ValueError(f"{path} lacks {missing}, it has {sorted(maps)}; delete it and rerun distill")
    return maps
