"""How far are the student's maps from the teachers'? The distillation loss, paper eq. 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Levels = Sequence[Tensor]
Teachers = Callable[[Tensor], Mapping[str, Levels]]
"""images [B, 3, H, W] in 0..1 -> teacher -> four maps [B, C, h, w]."""
EPS = 1e-12
"""Smallest product of norms, so that a zero map has cosine 0 and a finite gradient."""


def to_larger_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Resize the smaller of two maps bilinearly to the larger one's grid; the height alone decides.

    Args:
        student: [B, C, h, w].
        teacher: [B, C, h', w'].

    Returns:
        Both maps, float32, on one grid.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[-2:] == teacher.shape[-2:]:
        return student, teacher
    if student.shape[-2] < teacher.shape[-2]:
        return _resize(student, teacher), teacher
    return student, _resize(teacher, student)


def flattened_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One cosine per sample over the whole flattened C*h*w map: [B, C, h, w] twice -> [B]."""
    s, t = _flat(student), _flat(teacher)
    norms = torch.linalg.vector_norm(s, dim=1) * torch.linalg.vector_norm(t, dim=1)
    return (s * t).sum(1) / norms.clamp_min(EPS)


def level_loss(student: Tensor, teacher: Tensor, *, alpha: float, beta: float) -> Tensor:
    """alpha * (1 - cosine) + beta * mean smooth L1, per sample: [B, C, h, w] and [B, C, h', w'] -> [B].

    Raises:
        ValueError: the channels differ (the student's aligner was not applied).
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"student map has {student.shape[1]} channels, teacher map {teacher.shape[1]}; "
            "pass the paths through SAK.align first"
        )
    s, t = to_larger_grid(student, teacher)
    cosine = flattened_cosine(s, t)
    l1 = F.smooth_l1_loss(_flat(s), _flat(t), reduction="none").mean(1)
    return alpha * (1 - cosine) + beta * l1


def distill_loss(
    student: Mapping[str, Levels],
    teacher: Mapping[str, Levels],
    weight: Tensor,
    *,
    alpha: float = 0.9,
    beta: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Distillation loss of a batch (paper eq. 5): the sum over teachers and levels of sample-weighted means.

    Runs in float32 whatever the autocast says, and never waits for the device. Each teacher's maps are
    asked for once, right before they are needed, so a lazy mapping may decode them then.

    Args:
        student: teacher name -> aligned maps of the levels, each [B, C, h, w].
        teacher: teacher name -> target maps of the same levels, each [B, C, h', w'].
        weight: [B]; a row of weight 0 counts neither in the sums nor in their denominators, whatever its
            maps hold (NaN too), and gets no gradient. All 0: loss 0.
        alpha: weight of 1 - cosine.
        beta: weight of smooth L1.

    Returns:
        The scalar loss and the detached loss of each teacher (summed over its levels).

    Raises:
        ValueError: a level or a teacher is missing, or channels differ.
    """
    missing = [name for name in student if name not in teacher]
    if missing:
        raise ValueError(f"no targets for teachers {missing}; targets hold {sorted(teacher)}")
    with torch.autocast(weight.device.type, enabled=False):
        share = weight.float() / weight.float().sum().clamp_min(EPS)
        losses = {
            name: _teacher_loss(levels, teacher[name], share, alpha=alpha, beta=beta)
            for name, levels in student.items()
        }
        total = torch.stack(list(losses.values())).sum()
    return total, {name: loss.detach() for name, loss in losses.items()}


def _teacher_loss(student: Levels, teacher: Levels, share: Tensor, *, alpha: float, beta: float) -> Tensor:
    if len(student) != len(teacher):
        raise ValueError(
            f"student has {len(student)} levels, teacher {len(teacher)}; both need the same taps"
        )
    # 0 * NaN is NaN, in the sum and in its gradient: a row that does not count must not enter the arithmetic.
    counted = (share > 0)[:, None, None, None]
    pairs = (
        (torch.where(counted, s, 0), torch.where(counted, t, 0))
        for s, t in zip(student, teacher, strict=True)
    )
    per_sample = sum(level_loss(s, t, alpha=alpha, beta=beta) for s, t in pairs)
    return (share * per_sample).sum()


def _flat(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h*w*C]; no copy where memory is channels-last, as tokens and decoded codes are."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)
