"""What each task's loss is (paper B.5): labels with 255 are ignored, a batch without labels costs 0.

Every loss is a float32 scalar with a gradient, computed without waiting for the device. Predictions are
[B, C, H, W]; labels are as collate stacks them (batches.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from student.tasks.spec import IGNORE, TASKS

EDGE_WEIGHT = 0.95
"""Weight of boundary pixels; the others have 1 - 0.95 (B.5)."""


def cross_entropy(prediction: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of logits [B, C, H, W] and classes [B, H, W], mean over labelled pixels."""
    target = label.long()
    total = F.cross_entropy(prediction.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / _count(target != IGNORE)


def balanced_cross_entropy(prediction: Tensor, label: Tensor) -> Tensor:
    """Saliency: two-class cross entropy of logits [B, 2, H, W], weighted by the batch's own balance.

    With p the share of negatives among labelled pixels, background weighs 1 - p and foreground p; the
    weighted sum is divided by the number of labelled pixels, not by the sum of weights.
    """
    target = label.long()
    count = _count(target != IGNORE)
    negatives = (target == 0).sum() / count
    weight = torch.stack((1 - negatives, negatives))
    total = F.cross_entropy(prediction.float(), target, weight, ignore_index=IGNORE, reduction="sum")
    return total / count


def boundary_entropy(prediction: Tensor, label: Tensor) -> Tensor:
    """Boundaries: -w y log s - (1 - w)(1 - y) log(1 - s) of logits [B, 1, H, W], w = 0.95, mean."""
    logits, target = prediction.float().reshape(label.shape), label.float()
    valid = label != IGNORE
    return torch.where(valid, weighted_binary(logits, target), 0).sum() / _count(valid)


def weighted_binary(logits: Tensor, target: Tensor, weight: float = EDGE_WEIGHT) -> Tensor:
    """The weighted binary cross entropy of each element; target is 0 or 1."""
    return -(weight * target * F.logsigmoid(logits) + (1 - weight) * (1 - target) * F.logsigmoid(-logits))


def normals_l1(prediction: Tensor, label: Tensor) -> Tensor:
    """Normals: L1 between the unit-length prediction and the label [B, 3, H, W], per labelled pixel."""
    return _l1(F.normalize(prediction.float(), dim=1), label)


def depth_l1(prediction: Tensor, label: Tensor) -> Tensor:
    """Depth: L1 in metres between prediction and label [B, 1, H, W], mean over labelled pixels."""
    return _l1(prediction.float(), label)


def _l1(prediction: Tensor, label: Tensor) -> Tensor:
    """Sum over channels of |prediction - label|, over the pixels that no channel ignores, per such pixel."""
    valid = (label != IGNORE).all(dim=1, keepdim=True)
    return torch.where(valid, (prediction - label).abs(), 0).sum() / _count(valid)


def _count(valid: Tensor) -> Tensor:
    return valid.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "semseg": cross_entropy,
    "human_parts": cross_entropy,
    "sal": balanced_cross_entropy,
    "normals": normals_l1,
    "edge": boundary_entropy,
    "depth": depth_l1,
}


def task_losses(
    predictions: Mapping[str, Tensor], batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the task losses weighted as in B.5, and each one before its weight (detached, for the log).

    predictions: {task: [B, C, H, W]}; batch: the labels of the same tasks (other entries are not looked at).
    """
    losses = {task: LOSSES[task](prediction, batch[task]) for task, prediction in predictions.items()}
    total = torch.stack([TASKS[task].loss_weight * loss for task, loss in losses.items()]).sum()
    return total, {task: loss.detach() for task, loss in losses.items()}
