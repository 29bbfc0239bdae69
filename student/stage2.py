"""How does the student learn tasks while its teachers keep it in shape? Stage 2 (paper eq. 6, Table 11)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.atomic import write_json
from storage.identity import sha256
from student.config import DatasetConfig, Stage2Config
from student.loading import loading, to_device
from student.loop import LoopSettings, Step, Trained, adamw, run_loop
from student.losses import Teachers, distill_loss
from student.multitask import SAKMultiTask
from student.pixels import denormalise
from student.schedule import poly
from student.tasks.batches import BatchOrder, TrainingSet, open_dataset
from student.tasks.losses import task_losses
from student.weights import save_student


def run_stage2(
    model: SAKMultiTask,
    teachers: Teachers | None,
    data: DatasetConfig,
    config: Stage2Config,
    *,
    out: Path,
    device: torch.device | str,
) -> dict[str, Any]:
    """Train on a multi-task data set, from the last checkpoint in `out` or from the start.

    Leaves metrics.jsonl (step, loss, loss/<task> before its weight, distill/<teacher>, lr, grad_norm, ...),
    tensorboard/, checkpoints/, student.safetensors (of the last step, as in the paper) and summary.json in
    `out`. Order and augmentation are pure in (seed, epoch, index): a resumed run goes on as if it had
    never stopped, and a call after the end takes no step. The heads' batch norms see one process's batch.

    Args:
        model: moved to the device and changed in place; its tasks are those of `data`.
        teachers: live teachers; never called where `config.gamma` is 0, and may then be None.
        data: the data set; its training split is read.
        config: schedule, optimiser, gamma, precision, intervals.
        out: the run's folder.
        device: where to train.

    Returns:
        The loop's summary and the path of the trained model under `student`.

    Raises:
        ValueError: teachers, tasks and gamma do not fit, the data set is incomplete, a loss is not finite, or
            the checkpoint is of another run.
        SystemExit: after SIGTERM or Ctrl-C, with a checkpoint on disk.
    """
    device = torch.device(device)
    _check(model, teachers, data, config)
    samples = TrainingSet(open_dataset(data, "train"), size=data.size, seed=config.seed)
    model.to(device)
    schedule = poly(config.iterations, base=config.optim.lr)
    trained = Trained(model, adamw(model, config.optim, device), schedule)
    step = _step(model, teachers if config.gamma else None, config, device)
    batches = _batches(samples, config, device)
    summary = run_loop(step, batches, trained, settings=_settings(config, data, samples), out=out)
    return _finish(model, summary, out)


def _step(model: SAKMultiTask, teachers: Teachers | None, config: Stage2Config, device: torch.device) -> Step:
    bf16 = config.precision == "bf16"

    def step(batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = to_device(batch, ("image", *model.heads), device)
        images = tensors["image"]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            output = model(images)
            paths = model.backbone.align(output.paths) if teachers else {}
        loss, parts = task_losses(output.predictions, tensors)
        scalars = {f"loss/{task}": part for task, part in parts.items()}
        if teachers:
            # padding is the mean colour to student and teachers alike, not the black of 0
            targets = teachers(denormalise(images).clamp_(0, 1))
            distilled, per_teacher = distill_loss(paths, targets, images.new_ones(len(images)))
            loss = loss + config.gamma * distilled
            scalars |= {f"distill/{teacher}": part for teacher, part in per_teacher.items()}
        return loss, scalars

    return step


def _batches(
    samples: TrainingSet, config: Stage2Config, device: torch.device
) -> Callable[[int, int], AbstractContextManager[Any]]:
    def batches(first: int, count: int) -> AbstractContextManager[Any]:
        order = BatchOrder(
            len(samples), batch_size=config.batch_size, seed=config.seed, first=first, stop=first + count
        )
        return loading(samples, order, workers=config.workers, device=device)

    return batches


def _settings(config: Stage2Config, data: DatasetConfig, samples: TrainingSet) -> LoopSettings:
    """The loop's settings; of the data set all but its place is pinned."""
    pins = {f"dataset.{k}": v for k, v in data.model_dump(mode="json", exclude={"path"}).items()}
    pins["dataset.ids"] = sha256("\n".join(samples.reader.ids).encode())
    return LoopSettings.of("stage2", config, total_steps=config.iterations, pins=pins)


def _finish(model: SAKMultiTask, summary: dict[str, Any], out: Path) -> dict[str, Any]:
    """Save what is missing: the model, then the summary, which stands for a finished run."""
    path, done = out / "student.safetensors", out / "summary.json"
    if summary["steps_run"] or not path.exists():
        save_student(model, model.backbone, path)
    summary = {**summary, "student": str(path)}
    if summary["steps_run"] or not done.exists():
        write_json(done, summary)
    return summary


def _check(model: SAKMultiTask, teachers: Teachers | None, data: DatasetConfig, config: Stage2Config) -> None:
    if tuple(model.heads) != data.tasks:
        raise ValueError(
            f"the model has heads for {', '.join(model.heads)}, dataset.tasks is {', '.join(data.tasks)}; "
            "build it for these tasks in this order"
        )
    if config.gamma and not (teachers and model.backbone.teachers):
        what = "no teachers were given" if model.backbone.teachers else "the student has no teachers"
        raise ValueError(
            f"stage2.gamma is {config.gamma:g} but {what}; set it to 0 to train on the tasks alone"
        )
