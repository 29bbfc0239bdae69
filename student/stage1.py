"""How is the student distilled from the teachers' maps? Stage 1 (paper 3.4, Table 11)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from student.config import Stage1Config
from student.loop import LoopSettings, Step, Trained, adamw, run_loop
from student.losses import distill_loss
from student.pixels import normalise, to_unit
from student.sak import SAK
from student.schedule import cosine
from student.weights import save_student

if TYPE_CHECKING:
    from storage.stream import Batch


@dataclass(frozen=True)
class Stage1Data:
    """Where batches and targets come from; stage 1 does not know whether teachers run or a cache is read."""

    stream: Callable[[int, int], AbstractContextManager[Iterable[Batch]]]
    """(first step, number of steps) -> context manager over that many batches of the order."""
    targets: Callable[[Batch], Mapping[str, Sequence[Tensor]]]
    """batch -> teacher -> its four maps [B, C, h, w] on the training device; may decode on access."""
    steps_per_epoch: int
    """Batches in one pass over a view."""
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    """JSON facts of the data (segments, commits, teachers' fingerprints), pinned in the checkpoint."""


def run_stage1(
    student: SAK, data: Stage1Data, config: Stage1Config, *, out: Path, device: torch.device | str
) -> dict[str, Any]:
    """Distil the teachers into the student, from the last checkpoint in `out` or from the start.

    Leaves metrics.jsonl (step, loss, loss/<teacher>, skipped, lr, samples_per_s, data_wait), tensorboard/,
    checkpoints/ and, at the end, student.safetensors in `out`. A second call after the end takes no step.

    Args:
        student: moved to the device and changed in place.
        data: batches, targets, length of an epoch.
        config: schedule, optimiser, precision, intervals.
        out: the run's folder.
        device: where to train.

    Returns:
        The loop's summary and the path of the student under `student`.

    Raises:
        ValueError: a loss is not finite, the checkpoint is of another run, targets do not fit the student.
        SystemExit: after SIGTERM or Ctrl-C, with a checkpoint on disk.
    """
    device = torch.device(device)
    student.to(device)
    steps = total_steps(config, data.steps_per_epoch)
    pins = {"snapshot": dict(data.snapshot)}
    settings = LoopSettings.of("stage1", config, total_steps=steps, pins=pins)
    schedule = _schedule(config, data.steps_per_epoch, steps)
    trained = Trained(student, adamw(student, config.optim, device), schedule)
    step = _step(student, data, config, device)
    summary = run_loop(step, data.stream, trained, settings=settings, out=out, counts=_counts)
    path = out / "student.safetensors"
    if summary["steps_run"] or not path.exists():
        save_student(student, student, path)
    return {**summary, "student": str(path)}


def total_steps(config: Stage1Config, steps_per_epoch: int) -> int:
    """Optimizer steps of stage 1: epochs may be a fraction, at least one step is taken."""
    return max(1, math.ceil(config.epochs * steps_per_epoch - 1e-6))


def _step(student: SAK, data: Stage1Data, config: Stage1Config, device: torch.device) -> Step:
    bf16 = config.precision == "bf16"

    def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(to_unit(batch.images, device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            paths = student.align(student(images).paths)
        weight = batch.weight.to(device, non_blocking=True)
        targets = data.targets(batch)
        loss, parts = distill_loss(paths, targets, weight, alpha=config.alpha, beta=config.beta)
        return loss, {f"loss/{teacher}": part for teacher, part in parts.items()}

    return step


def _counts(batch: Batch) -> dict[str, int]:
    return {"skipped": batch.skipped}


def _schedule(config: Stage1Config, steps_per_epoch: int, steps: int) -> Callable[[int], float]:
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    return cosine(
        steps, warmup_steps=warmup, base=config.optim.lr, start=config.warmup_lr, floor=config.min_lr
    )
