"""Task losses against NumPy written from the paper's B.5, and what happens without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from student.tasks.losses import LOSSES, task_losses
from student.tasks.spec import IGNORE, TASKS, out_channels

CHANNELS = {**out_channels("nyud", ["semseg", "depth"]), "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}


def make_batch(seed: int, ignored: float = 0.2) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Random predictions and labels, a share of the pixels ignored."""
    rng = np.random.default_rng(seed)
    shape = (2, 9, 11)
    hole = rng.random(shape) < ignored
    predictions, labels = {}, {}
    for task, channels in CHANNELS.items():
        predictions[task] = torch.tensor(rng.normal(0, 2, (2, channels, 9, 11)), dtype=torch.float32)
        if task in ("depth", "normals"):
            label = rng.normal(0, 1, (2, channels, 9, 11)).astype(np.float32)
            label = np.abs(label) * 3 if task == "depth" else label / np.linalg.norm(label, axis=1)[:, None]
            labels[task] = torch.from_numpy(np.where(hole[:, None], np.float32(IGNORE), label))
        else:
            classes = max(channels, 2)
            labels[task] = torch.from_numpy(
                np.where(hole, IGNORE, rng.integers(0, classes, shape)).astype(np.uint8)
            )
    return predictions, labels


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def oracle(task: str, prediction: np.ndarray, label: np.ndarray) -> float:
    """The loss in float64, one pixel at a time."""
    total, count = 0.0, 0
    valid = label != IGNORE
    if task in ("normals", "depth"):
        for b, y, x in np.ndindex(prediction.shape[0], *prediction.shape[2:]):
            if (label[b, :, y, x] != IGNORE).all():
                vector = prediction[b, :, y, x]
                vector = vector / np.linalg.norm(vector) if task == "normals" else vector
                total, count = total + np.abs(vector - label[b, :, y, x]).sum(), count + 1
        return total / max(count, 1)
    positives = (label[valid] == 1).sum()
    negatives = (label[valid] == 0).sum()
    share = negatives / max(valid.sum(), 1)
    log_p = _log_softmax(prediction)
    for b, y, x in np.argwhere(valid):
        target = int(label[b, y, x])
        if task == "edge":
            s = 1 / (1 + np.exp(-prediction[b, 0, y, x]))
            total -= 0.95 * np.log(s) if target else 0.05 * np.log(1 - s)
        elif task == "sal":
            total -= (share if target else 1 - share) * log_p[b, target, y, x]
        else:
            total -= log_p[b, target, y, x]
    assert task not in ("sal", "edge") or positives + negatives == valid.sum()
    return total / max(valid.sum(), 1)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_is_the_papers(task: str, seed: int) -> None:
    predictions, labels = make_batch(seed)
    expected = oracle(task, predictions[task].double().numpy(), labels[task].numpy())
    assert LOSSES[task](predictions[task], labels[task]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", list(TASKS))
def test_without_labels_the_loss_is_zero_and_has_a_gradient(task: str) -> None:
    predictions, labels = make_batch(3, ignored=1.1)
    prediction = predictions[task].requires_grad_()
    loss = LOSSES[task](prediction, labels[task])
    loss.backward()
    assert loss.item() == 0 and loss.dtype == torch.float32
    assert prediction.grad is not None and prediction.grad.abs().sum() == 0


@pytest.mark.parametrize("task", list(TASKS))
def test_ignored_pixels_get_no_gradient(task: str) -> None:
    predictions, labels = make_batch(4, ignored=0.5)
    prediction = predictions[task].requires_grad_()
    LOSSES[task](prediction, labels[task]).backward()
    label = labels[task] if labels[task].dim() == 4 else labels[task][:, None]
    ignored = (label == IGNORE).any(dim=1)
    moved = prediction.grad.abs().sum(1) > 0
    assert not moved[ignored].any() and moved[~ignored].float().mean() > 0.9


@pytest.mark.parametrize("task", list(TASKS))
def test_extreme_predictions_stay_finite(task: str) -> None:
    predictions, labels = make_batch(5)
    prediction = (predictions[task] * 1e4).requires_grad_()
    loss = LOSSES[task](prediction, labels[task])
    loss.backward()
    assert loss.isfinite() and prediction.grad.isfinite().all()


def test_all_positive_saliency_costs_nothing_as_released() -> None:
    # p = 0 negatives: foreground weighs p = 0. A batch of one colour teaches nothing, by the definition.
    label = torch.ones(1, 4, 4, dtype=torch.uint8)
    assert LOSSES["sal"](torch.randn(1, 2, 4, 4), label).item() == 0


def test_total_has_the_weights_of_b5() -> None:
    predictions, labels = make_batch(6)
    total, each = task_losses(predictions, {**labels, "id": ["a"], "image": torch.zeros(1)})
    weights = {"semseg": 1, "human_parts": 2, "sal": 5, "normals": 10, "edge": 50, "depth": 1}
    assert total.item() == pytest.approx(sum(weights[t] * each[t].item() for t in predictions), rel=1e-5)
    assert not any(loss.requires_grad for loss in each.values())


def test_bf16_predictions_are_scored_in_float32() -> None:
    predictions, labels = make_batch(7)
    total, _ = task_losses({t: p.bfloat16() for t, p in predictions.items()}, labels)
    assert total.dtype == torch.float32
