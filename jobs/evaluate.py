"""`evaluate`: how good is a run: task metrics and predictions after stage 2, similarity after stage 1."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jobs.cli import parse
from jobs.config import Recipe
from jobs.device import Device
from storage.config import Frozen

log = logging.getLogger(__name__)


class EvaluateOptions(Frozen):
    """Score a run: a finetune run on its data set's validation split, a distill run on held-out images."""

    run: Path
    """Folder of a finetune or a distill run."""
    out: Path | None = None
    """Folder for the scores; default: beside the run, evaluate-<data set> or evaluate-similarity."""
    single_task: Path | None = None
    """metrics.json of single-task models, or JSON {task: metric}: then Delta_m (eq. 7) is reported."""
    device: Device = "auto"
    """auto: CUDA if there is a GPU."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("evaluate", EvaluateOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from jobs.finetune import student_file

    weights = student_file(options.run)
    from jobs.device import pick_device
    from jobs.runfolder import recorded

    device, stage2 = pick_device(options.device), has_heads(weights)
    out = options.out or options.run.with_name(f"evaluate-{recipe.dataset.name if stage2 else 'similarity'}")
    with recorded(out, recipe, "evaluate", device=device):
        if stage2:
            score_tasks(recipe, options, weights, out, device)
        else:
            score_similarity(recipe, weights, out, device)
    return 0


def has_heads(weights: Path) -> bool:
    """Whether the file is a multi-task student's."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        return any(name.startswith("heads.") for name in file.keys())  # noqa: SIM118 (a safetensors handle)


def score_tasks(recipe: Recipe, options: EvaluateOptions, weights: Path, out: Path, device: str) -> None:
    """Metrics, predictions and gates on the validation split."""
    from jobs.finetune import build_model
    from student.evaluate import evaluate_tasks
    from student.single_task import read_single_task
    from student.weights import load_state

    model = build_model(recipe, weights="random:0")
    load_state(model, weights)
    baseline = read_single_task(options.single_task) if options.single_task else None
    scores = evaluate_tasks(
        model, recipe.dataset, recipe.evaluate, out=out, device=device, single_task=baseline
    )
    log.info(
        "%s: %s", recipe.dataset.name, ", ".join(f"{task} {value:.4f}" for task, value in scores.items())
    )


def score_similarity(recipe: Recipe, weights: Path, out: Path, device: str) -> dict[str, Any]:
    """Similarity to live fp32 teachers on held-out images."""
    import torch

    from jobs.finetune import teacher_channels
    from jobs.held_out import held_out
    from pipeline.teachers.committee import build_committee
    from storage.atomic import write_json
    from student.sak import build_student
    from student.similarity import similarity

    images = held_out(recipe)
    config = recipe.student.model_copy(update={"weights": str(weights)})
    student = build_student(
        config, teacher_channels(recipe), recipe.stage1.seed, image_size=recipe.views.size
    )
    teachers = build_committee(
        recipe.committee.model_copy(update={"precision": "fp32"}), torch.device(device)
    )
    scores = similarity(student.to(device), teachers, images.batches())
    write_json(out / "similarity.json", scores)
    for name, score in scores.items():
        log.info("%-14s flattened %.4f  per token %.4f", name, score["flattened"], score["per_token"])
    return scores
