"""Meters against scikit-learn and NumPy, batch by batch against all at once, and the paper's own gains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, jaccard_score, log_loss, mean_squared_error

from student.tasks.metrics import delta_m, for_task
from student.tasks.spec import DATASETS, IGNORE, METRICS, TASKS
from tests.student.tasks.test_losses import make_batch

HOME = {"depth": "nyud", "human_parts": "pascal_context", "sal": "pascal_context"}


def meter_of(task: str, compat: str = "sound"):
    return for_task(task, HOME.get(task, "nyud"), compat=compat)


def score(task: str, prediction: torch.Tensor, label: torch.Tensor, compat: str = "sound") -> float:
    meter = meter_of(task, compat)
    meter.update(prediction, label)
    return meter.compute()


def test_mean_iou_is_sklearns() -> None:
    predictions, labels = make_batch(0)
    label = labels["semseg"].clone()
    label[label == 7] = 8
    prediction = predictions["semseg"].clone()
    prediction[:, 7] = -99
    valid = label != IGNORE
    ours, truth = prediction.argmax(1)[valid].numpy(), label[valid].numpy()
    present = np.union1d(ours, truth)
    per_class = jaccard_score(truth, ours, labels=present, average=None)
    assert 7 not in present
    assert score("semseg", prediction, label) == pytest.approx(100 * per_class.mean())
    # The released code counts class 7, which occurs nowhere, as 0.
    assert score("semseg", prediction, label, "official") == pytest.approx(100 * per_class.sum() / 40)


def test_max_f_is_sklearns_at_the_best_threshold() -> None:
    predictions, labels = make_batch(1)
    valid = labels["sal"] != IGNORE
    probability = predictions["sal"].softmax(1)[:, 1][valid].numpy()
    truth = labels["sal"][valid].numpy()
    thresholds = np.arange(1, 20) * 0.05
    scores = [
        fbeta_score(truth, probability >= t, beta=math.sqrt(0.3), zero_division=0.0) for t in thresholds
    ]
    assert score("sal", predictions["sal"], labels["sal"]) == pytest.approx(100 * max(scores))


def test_mean_angle_is_numpys_arc_cosine() -> None:
    predictions, labels = make_batch(2)
    ours = predictions["normals"].double().numpy().transpose(0, 2, 3, 1)
    truth = labels["normals"].double().numpy().transpose(0, 2, 3, 1)
    valid = (truth != IGNORE).all(-1)
    ours, truth = ours[valid], truth[valid]
    cosine = (ours * truth).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(truth, axis=1)
    expected = np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()
    assert score("normals", predictions["normals"], labels["normals"]) == pytest.approx(expected, rel=1e-6)


def test_small_angles_are_exact() -> None:
    angle = np.radians(0.01)
    prediction = torch.tensor([np.sin(angle), 0, np.cos(angle)], dtype=torch.float32).view(1, 3, 1, 1)
    label = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1)
    assert score("normals", prediction, label) == pytest.approx(0.01, rel=1e-4)


def test_normals_without_a_direction_count_90_degrees() -> None:
    label = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 1, 4)
    prediction = torch.zeros(1, 3, 1, 4)
    prediction[0, 2, 0] = torch.tensor([0.0, 1e-30, 1e-6, 5.0])
    assert score("normals", prediction, label) == pytest.approx((90 + 90 + 0 + 0) / 4)
    prediction[0, 2, 0, 0] = math.nan
    assert math.isnan(score("normals", prediction, label))


def test_rmse_clamps_predictions_and_takes_truth_between_0_and_80() -> None:
    predictions, labels = make_batch(3)
    label = labels["depth"].clone()
    label[0, 0, 0, :4] = torch.tensor([0.0, -1.0, 80.0, 300.0])
    valid = (label > 0) & (label < 80)
    ours, truth = predictions["depth"][valid].double().clamp(min=0).numpy(), label[valid].double().numpy()
    expected = math.sqrt(mean_squared_error(truth, ours))
    assert score("depth", predictions["depth"], label) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("compat", "weight"), [("sound", 0.95), ("official", 0.8)])
def test_boundary_loss_is_a_weighted_log_loss(compat: str, weight: float) -> None:
    predictions, labels = make_batch(4)
    valid = labels["edge"] != IGNORE
    logits, truth = predictions["edge"][:, 0][valid].double(), labels["edge"][valid].numpy()
    logits = logits.sigmoid() if compat == "official" else logits
    weights = np.where(truth == 1, weight, 1 - weight)
    total = log_loss(truth, logits.sigmoid().numpy(), sample_weight=weights, normalize=False)
    ours = score("edge", predictions["edge"], labels["edge"], compat)
    assert ours == pytest.approx(total / len(truth), rel=1e-5)
    # On PASCAL the released metric has the training loss's weight.
    pascal = for_task("edge", "pascal_context", compat=compat)
    assert pascal.weight == 0.95


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("compat", ["sound", "official"])
def test_batches_add_up(task: str, compat: str) -> None:
    batches = [make_batch(seed, ignored) for seed, ignored in ((5, 0.1), (6, 0.9), (7, 0.4))]
    together, apart, other = (meter_of(task, compat) for _ in range(3))
    together.update(*(torch.cat([part[i][task] for part in batches]) for i in (0, 1)))
    for number, (predictions, labels) in enumerate(batches):
        (other if number == 1 else apart).update(predictions[task], labels[task])
    # What a second process counted is added to the totals, as an all-reduce does.
    apart.totals += other.totals
    assert apart.compute() == pytest.approx(together.compute(), rel=1e-6)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("compat", ["sound", "official"])
def test_nothing_to_count_is_nan_and_never_an_error(task: str, compat: str) -> None:
    meter = meter_of(task, compat)
    assert math.isnan(meter.compute())
    predictions, labels = make_batch(8, ignored=1.1)
    meter.update(predictions[task], labels[task])
    meter.update(predictions[task][:0], labels[task][:0])
    assert math.isnan(meter.compute())
    predictions, labels = make_batch(9)
    meter.update(predictions[task], labels[task])
    assert math.isfinite(meter.compute())


@pytest.mark.parametrize("task", list(TASKS))
def test_perfect_predictions_score_perfectly(task: str) -> None:
    _, labels = make_batch(10)
    label = labels[task]
    if task in ("depth", "normals"):
        prediction = label
    elif task == "edge":
        prediction = torch.where(label == 1, 50.0, -50.0)[:, None]
    else:
        classes = DATASETS[HOME.get(task, "nyud")].channels[task]
        one_hot = torch.nn.functional.one_hot(label.long().clamp(max=classes - 1), classes)
        prediction = one_hot.permute(0, 3, 1, 2).float() * 50
    best = 100 if METRICS[meter_of(task).name].higher_is_better else 0
    assert score(task, prediction, label) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("dataset", list(DATASETS))
def test_every_task_has_a_meter_of_its_table(dataset: str) -> None:
    for task in DATASETS[dataset].channels:
        assert for_task(task, dataset).name in TASKS[task].metrics


def test_unknown_names_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="did you mean 'semseg'"):
        for_task("semsegg", "nyud")
    with pytest.raises(ValueError, match="nyud has no labels for task 'sal'"):
        for_task("sal", "nyud")
    with pytest.raises(ValueError, match="known are pascal_context, nyud"):
        for_task("sal", "cityscapes")
    with pytest.raises(ValueError, match="use one of sound, official"):
        for_task("depth", "nyud", compat="offical")


PASCAL = ("semseg", "human_parts", "sal", "normals", "edge")
NYUD = ("semseg", "depth", "normals", "edge")
SINGLE = {
    PASCAL: (80.25, 70.54, 84.54, 13.57, 74.22),
    NYUD: (51.15, 0.5792, 19.77, 77.35),
}


@pytest.mark.parametrize(
    ("tasks", "values", "percent"),
    [
        (PASCAL, (81.88, 74.30, 84.79, 14.02, 74.09), 0.83),
        (PASCAL, (76.76, 65.26, 84.39, 13.98, 70.37), -4.04),
        (PASCAL, (76.51, 67.53, 84.38, 14.56, 70.34), -4.33),
        (NYUD, (50.30, 0.5367, 19.00, 77.60), 2.47),
        (NYUD, (49.27, 0.5823, 19.92, 75.88), -1.72),
    ],
)
def test_delta_m_gives_the_papers_tables_13_and_14(tasks: tuple, values: tuple, percent: float) -> None:
    gain = delta_m(dict(zip(tasks, values, strict=True)), dict(zip(tasks, SINGLE[tasks], strict=True)))
    assert 100 * gain == pytest.approx(percent, abs=0.0051)


def test_delta_m_with_another_metric_and_without_a_baseline() -> None:
    assert delta_m({"edge": 0.9}, {"edge": 1.0}) == pytest.approx(-0.1)
    assert delta_m({"edge": 0.9}, {"edge": 1.0}, metrics={"edge": "boundary_loss"}) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"\['depth'\] have none"):
        delta_m({"semseg": 1.0, "depth": 2.0}, {"semseg": 1.0})
    with pytest.raises(ValueError, match="train those baselines"):
        delta_m({}, {})
