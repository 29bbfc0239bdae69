"""How alike are the student's maps and the teachers'? Representation similarity (paper Tables 3 and 17)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from student.losses import Teachers, flattened_cosine, to_larger_grid
from student.pixels import normalise
from student.sak import SAK


@torch.inference_mode()
def similarity(student: SAK, teachers: Teachers, images: Iterable[Tensor]) -> dict[str, dict[str, Any]]:
    """Cosine similarity of the aligned paths to the teachers' maps, at the larger grid, in float32.

    Args:
        student: scored in evaluation mode, on the device it is on; its mode is restored.
        teachers: [B, 3, H, W] in 0..1 -> teacher -> four maps [B, C, h, w]; live, not decoded codes.
        images: batches [B, 3, H, W] in 0..1.

    Returns:
        teacher -> `flattened` (one cosine per map, Table 17's measure) and `per_token` (mean over positions
        of the cosine over channels), means over images and levels; `levels` and `levels_per_token` are the
        same per level.

    Raises:
        ValueError: there are no images.
    """
    device, training = next(student.parameters()).device, student.training
    sums, count = {}, 0
    student.eval()
    try:
        for batch in images:
            for name, scores in _score(student, teachers, batch.to(device)).items():
                sums[name] = sums.get(name, 0) + scores
            count += len(batch)
    finally:
        student.train(training)
    if not count:
        raise ValueError("similarity got no images; give at least one in evaluate.similarity_source")
    return {name: _summary(total / count) for name, total in sums.items()}


def _score(student: SAK, teachers: Teachers, images: Tensor) -> dict[str, Tensor]:
    """teacher -> float64 sums over the batch [2, levels]: flattened and per-token cosines."""
    with torch.autocast(images.device.type, enabled=False):
        paths = student.align(student(normalise(images)).paths)
        targets = teachers(images)
        return {
            name: torch.stack(
                [_measures(s, t.to(s.device)) for s, t in zip(maps, targets[name], strict=True)], dim=1
            )
            for name, maps in paths.items()
        }


def _measures(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = to_larger_grid(student, teacher)
    per_token = F.cosine_similarity(s, t, dim=1).flatten(1).mean(1)
    return torch.stack([flattened_cosine(s, t).double().sum(), per_token.double().sum()])


def _summary(means: Tensor) -> dict[str, Any]:
    flattened, per_token = means.tolist()
    return {
        "flattened": sum(flattened) / len(flattened),
        "per_token": sum(per_token) / len(per_token),
        "levels": flattened,
        "levels_per_token": per_token,
    }
