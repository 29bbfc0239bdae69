"""`finetune`: stage 2, the distilled student learns the tasks while its live teachers keep it in shape."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from jobs.cli import parse
from jobs.config import Recipe
from jobs.device import Device
from storage.config import Frozen

log = logging.getLogger(__name__)
DEPENDS_ON = ("committee", "student", "dataset", "stage2")


class FinetuneOptions(Frozen):
    """Stage 2: multi-task training with live teachers; rerun to resume."""

    student: Path
    """Stage 1's run folder, or a student.safetensors."""
    out: Path
    """Folder of the run: checkpoints, metrics, student.safetensors."""
    device: Device = "auto"
    """auto: CUDA if there is a GPU."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("finetune", FinetuneOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from jobs.runfolder import complete, recorded

    weights = student_file(options.student)
    inputs = {"student": file_digest(weights)}
    if complete(options.out, recipe, marker="summary.json", sections=DEPENDS_ON, inputs=inputs):
        log.info("%s is complete: nothing to do", options.out)
        return 0
    from jobs.device import pick_device

    device = pick_device(options.device)
    with recorded(options.out, recipe, "finetune", device=device, inputs=inputs):
        run(recipe, weights, options.out, device=device)
    return 0


def run(recipe: Recipe, weights: Path, out: Path, *, device: str) -> dict[str, Any]:
    """Build the multi-task model from the distilled student and train it."""
    import torch

    from pipeline.teachers.committee import build_committee
    from student.stage2 import run_stage2

    model = build_model(recipe, weights=str(weights))
    ask = recipe.committee.model_copy(update={"precision": recipe.stage2.teacher_precision})
    committee = build_committee(ask, torch.device(device)) if recipe.stage2.gamma else None
    return run_stage2(model, committee, recipe.dataset, recipe.stage2, out=out, device=device)


def student_file(path: Path) -> Path:
    """The student's weights: the file itself, or the one in a finished run's folder.

    Raises:
        ValueError: there is none.
    """
    found = path / "student.safetensors" if path.is_dir() else path
    if not found.is_file():
        raise ValueError(
            f"--student {path}: no student.safetensors there; finish distill first, or name the file"
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_model(recipe: Recipe, *, weights: str) -> Any:
    """The multi-task model for the recipe's data set; its backbone has the given stage-1 weights."""
    from student.multitask import build_multitask
    from student.sak import build_student
    from student.tasks.spec import out_channels

    channels = teacher_channels(recipe)
    config = recipe.student.model_copy(update={"weights": weights})
    sak = build_student(config, channels, recipe.stage2.seed, image_size=recipe.dataset.size)
    outputs = out_channels(recipe.dataset.name, recipe.dataset.tasks)
    return build_multitask(sak, outputs, noise=recipe.stage2.noise, seed=recipe.stage2.seed)


def teacher_channels(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """teacher -> channels of its four levels, from the table of teachers alone."""
    from pipeline.teachers.spec import LEVELS, spec_of

    return {name: (spec_of(name).width,) * LEVELS for name in recipe.committee.teachers}
