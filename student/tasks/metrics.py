"""How good predictions are (paper B.4): meters that add up batches, and the multi-task gain (eq. 7).

A meter keeps sums on the device of the predictions: `update(prediction, label)` with a batch's prediction
[B, C, H, W] and label (batches.py), then `compute()`. Nothing to count gives NaN, never an error. Sums of
several processes add up: `meter.totals` is one tensor (all-reduce it). `compat="official"` follows the
released code where its definition is another one (see each docstring), to compare with the paper's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from student.tasks.losses import EDGE_WEIGHT, weighted_binary
from student.tasks.spec import IGNORE, METRICS, dataset_spec, out_channels, task_spec

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Saliency thresholds 0.05, 0.10 .. 0.95."""
BETA_SQUARED = 0.3
MAX_DEPTH_M = 80.0
COMPAT = ("sound", "official")


class Meter:
    """Sums over batches. `name` is the metric's row in spec.METRICS, `totals` float64 [entries]."""

    name: str

    def __init__(self, entries: int) -> None:
        self.totals = torch.zeros(entries, dtype=torch.float64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add one batch; an empty one, or one without labels, adds nothing."""
        if prediction.numel() > 0:
            self.totals = self.totals.to(prediction.device)
            self.totals += self._sums(prediction.detach(), label.to(prediction.device))

    def compute(self) -> float:
        """The metric of everything added so far; NaN if that is nothing."""
        return self._value(self.totals.cpu())

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        raise AssertionError(f"{type(self).__name__} defines no sums")

    def _value(self, totals: Tensor) -> float:
        raise AssertionError(f"{type(self).__name__} defines no value")


class MeanIoU(Meter):
    """Mean intersection over union, per cent, of logits [B, C, H, W].

    sound: the mean over classes that occur in truth or prediction; official: over all, 0 for the others.
    """

    name = "miou"

    def __init__(self, classes: int, compat: str = "sound") -> None:
        super().__init__(classes * classes)
        self.classes, self.compat = classes, compat

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        truth = label.long()
        cells = self.classes * self.classes
        cell = torch.where(truth == IGNORE, cells, truth * self.classes + prediction.argmax(1))
        return _histogram(cell, cells + 1)[:-1]

    def _value(self, totals: Tensor) -> float:
        confusion = totals.view(self.classes, self.classes)
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        iou = confusion.diagonal() / union.clamp(min=1)
        present = union > 0
        counted = iou if self.compat == "official" and present.any() else iou[present]
        return 100 * counted.mean().item()


class MaxF(Meter):
    """Saliency: the largest F-measure (beta^2 = 0.3) over thresholds, per cent, pooled over all pixels.

    prediction: logits [B, 2, H, W]; a pixel is salient where softmax's second channel >= threshold.
    """

    name = "maxf"

    def __init__(self) -> None:
        super().__init__(2 * (len(THRESHOLDS) + 1))

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        probability = prediction.float().softmax(1)[:, 1].contiguous()
        passed = torch.bucketize(probability, torch.tensor(THRESHOLDS, device=label.device), right=True)
        entries = self.totals.numel()
        cell = torch.where(label == IGNORE, entries, label.long() * (entries // 2) + passed)
        return _histogram(cell, entries + 1)[:-1]

    def _value(self, totals: Tensor) -> float:
        if totals.sum() == 0:
            return math.nan
        # [t] = pixels that pass threshold t, among the negatives and among the positives.
        false, true = totals.view(2, -1).flip(1).cumsum(1).flip(1)[:, 1:]
        positives = totals.view(2, -1)[1].sum()
        score = (1 + BETA_SQUARED) * true / (BETA_SQUARED * positives + true + false).clamp(min=1e-12)
        return 100 * score.max().item()


class MeanAngle(Meter):
    """Normals: mean angle in degrees between prediction and label [B, 3, H, W], over labelled pixels.

    A prediction without a direction (a zero vector) is as far from right as from wrong: 90 degrees.
    """

    name = "merr"

    def __init__(self) -> None:
        super().__init__(2)

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        valid = (label != IGNORE).all(dim=1)
        ours, truth = F.normalize(prediction.float(), dim=1), F.normalize(label.float(), dim=1)
        # atan2 keeps small angles exact where acos of a float32 dot product is off by hundredths of a degree.
        sine = torch.linalg.cross(ours, truth, dim=1).norm(dim=1)
        angle = torch.rad2deg(torch.atan2(sine, (ours * truth).sum(1)))
        # atan2(0, 0) is 0; what is too short to normalise stays far from length 1, and NaN stays NaN.
        angle = torch.where(ours.square().sum(1) < 0.5, 90.0, angle)
        return _sum_and_count(angle, valid)

    def _value(self, totals: Tensor) -> float:
        return _ratio(totals)


class DepthRmse(Meter):
    """Depth: root mean square error in metres, pooled over 0 < truth < 80 m, the prediction clamped at 0."""

    name = "rmse"

    def __init__(self) -> None:
        super().__init__(2)

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        valid = (label > 0) & (label < MAX_DEPTH_M)
        return _sum_and_count((prediction.float().clamp(min=0) - label).square(), valid)

    def _value(self, totals: Tensor) -> float:
        return math.sqrt(_ratio(totals))


class BoundaryLoss(Meter):
    """Boundaries: weighted cross entropy of logits [B, 1, H, W], mean over labelled pixels of the data set.

    sound: the training loss (B.5). official: it is applied to sigmoid outputs, so the sigmoid is taken twice,
    and boundary pixels weigh 0.8 on NYUD. It stands in for odsF while training; tables report odsF.
    """

    name = "boundary_loss"

    def __init__(self, weight: float = EDGE_WEIGHT, compat: str = "sound") -> None:
        super().__init__(2)
        self.weight, self.compat = weight, compat

    def _sums(self, prediction: Tensor, label: Tensor) -> Tensor:
        logits = prediction.float().reshape(label.shape)
        logits = logits.sigmoid() if self.compat == "official" else logits
        return _sum_and_count(weighted_binary(logits, label.float(), self.weight), label != IGNORE)

    def _value(self, totals: Tensor) -> float:
        return _ratio(totals)


def for_task(task: str, dataset: str, *, compat: str = "sound") -> Meter:
    """The meter of one task on one data set.

    Raises ValueError for an unknown task, data set or compat, or a task that the data set does not label.
    """
    if compat not in COMPAT:
        raise ValueError(f"compat {compat!r} is unknown; use one of {', '.join(COMPAT)}")
    channels = out_channels(dataset, [task])[task]
    official_nyud = compat == "official" and dataset_spec(dataset) is dataset_spec("nyud")
    makers = {
        "semseg": lambda: MeanIoU(channels, compat),
        "human_parts": lambda: MeanIoU(channels, compat),
        "sal": MaxF,
        "normals": MeanAngle,
        "depth": DepthRmse,
        "edge": lambda: BoundaryLoss(0.8 if official_nyud else EDGE_WEIGHT, compat),
    }
    return makers[task]()


def delta_m(
    multi_task: Mapping[str, float],
    single_task: Mapping[str, float],
    *,
    metrics: Mapping[str, str] | None = None,
) -> float:
    """Multi-task gain of eq. 7 as a fraction: the mean relative change against single-task baselines.

    Both map task -> value. `metrics` names each task's metric where it is not the one that the paper reports
    (spec.TASKS); it decides which way is better. Raises ValueError if a baseline is missing or 0.
    """
    missing = [task for task in multi_task if not single_task.get(task)]
    if missing or not multi_task:
        raise ValueError(
            f"delta_m needs a single-task value other than 0 for every task; {missing or 'all'} have none: "
            "train those baselines, or leave the tasks out"
        )
    gains = []
    for task, value in multi_task.items():
        metric = (metrics or {}).get(task, task_spec(task).metrics[0])
        sign = 1 if METRICS[metric].higher_is_better else -1
        gains.append(sign * (value - single_task[task]) / single_task[task])
    return sum(gains) / len(gains)


def _histogram(cells: Tensor, entries: int) -> Tensor:
    """How often each of 0..entries-1 occurs, float64 [entries]; no wait for the device, as bincount has."""
    counts = torch.zeros(entries, dtype=torch.int64, device=cells.device)
    flat = cells.reshape(-1)
    return counts.scatter_add_(0, flat, torch.ones_like(flat)).double()


def _sum_and_count(values: Tensor, valid: Tensor) -> Tensor:
    """float64 [sum of the valid values, their number]."""
    return torch.stack((torch.where(valid, values, 0).sum(dtype=torch.float64), valid.sum().double()))


def _ratio(totals: Tensor) -> float:
    return (totals[0] / totals[1]).item() if totals[1] > 0 else math.nan
