"""How good is a multi-task student? Metrics, pictures and gate weights on a data set's validation split."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.atomic import write_json
from storage.identity import fingerprint
from student.config import DatasetConfig, EvaluateConfig
from student.loading import loading, to_device
from student.multitask import SAKMultiTask
from student.pictures import pictured, save_pictures
from student.single_task import SingleTask
from student.tasks.batches import ValidationSet, open_dataset
from student.tasks.metrics import Meter, delta_m, for_task

log = logging.getLogger(__name__)


def evaluate_tasks(
    model: SAKMultiTask,
    data: DatasetConfig,
    config: EvaluateConfig,
    *,
    out: Path,
    device: torch.device | str,
    single_task: SingleTask | Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Score a student on the validation split, in float32.

    Leaves metrics.json, gates.json and predictions/ in `out`, as student.report.inputs describes them;
    metrics.json is written last. A second call with the same model, data and settings reads it and runs
    nothing.

    Args:
        model: moved to the device, scored in evaluation mode; its mode is restored.
        data: the data set; `data.compat` picks the definitions of the metrics.
        config: batch size, workers, number of pictures.
        out: the evaluation's folder.
        device: where to run.
        single_task: single-task models' figures; with them delta_m (eq. 7) is reported, over the tasks whose
            metric is the same. A plain mapping task -> value holds the paper's metrics (B.4).

    Returns:
        task -> metric in the units of student.tasks.spec.METRICS; NaN where the split labels nothing.

    Raises:
        ValueError: the data set is incomplete, or `single_task` does not compare or lacks a task.
    """
    device = torch.device(device)
    given, compared = _baseline(single_task, data)
    samples = ValidationSet(open_dataset(data, "val"), size=data.size)
    asked = {"dataset": data.model_dump(mode="json", exclude={"path"}), "ids": samples.reader.ids}
    asked |= {**given, "delta_m_tasks": compared, "pictures": config.save_predictions}
    identity = fingerprint({**asked, "weights": weights_digest(model)})
    if (done := _finished(out / "metrics.json", identity)) is not None:
        log.info("%s holds this evaluation already", out)
        return done
    training = model.training
    try:
        meters, gates = _score(model.to(device).eval(), samples, data, config, out=out)
    finally:
        model.train(training)
    write_json(out / "gates.json", {"experts": ["shared", *model.backbone.teachers], "tasks": gates})
    scores = {**_scores(meters), **given, **_gain(meters, given["single_task"], compared)}
    facts = {"dataset": data.name, "images": len(samples), "compat": data.compat, "identity": identity}
    pictures = [samples.reader.ids[i] for i in pictured(len(samples), config.save_predictions)]
    write_json(out / "metrics.json", {**facts, **scores, "pictures": pictures})
    return {task: meter.compute() for task, meter in meters.items()}


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names and values of a model's state: the same for the same weights on any device."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        total.update(name.encode() + b"\0")
        total.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@torch.inference_mode()
def _score(
    model: SAKMultiTask, samples: ValidationSet, data: DatasetConfig, config: EvaluateConfig, *, out: Path
) -> tuple[dict[str, Meter], dict[str, list[list[float]]]]:
    """Run the split once: a filled meter per task, and per task the mean gates [level][expert]."""
    device = next(model.parameters()).device
    meters = {task: for_task(task, data.name, compat=data.compat) for task in data.tasks}
    shown = {samples.reader.ids[i] for i in pictured(len(samples), config.save_predictions)}
    order = torch.arange(len(samples)).split(config.batch_size)
    sums: dict[str, Tensor] = {}
    with loading(
        samples, [rows.tolist() for rows in order], workers=config.workers, device=device
    ) as batches:
        for batch in batches:
            tensors = to_device(batch, ("image", *data.tasks), device)
            output = model(tensors["image"])
            for task, meter in meters.items():
                meter.update(output.predictions[task], tensors[task])
                sums[task] = sums.get(task, 0) + torch.stack(output.gates[task]).double().sum(1)
            save_pictures(batch, output.predictions, shown, out / "predictions")
    return meters, {task: (total / len(samples)).tolist() for task, total in sums.items()}


def _baseline(
    single_task: SingleTask | Mapping[str, float] | None, data: DatasetConfig
) -> tuple[dict[str, Any], list[str]]:
    """The baselines as metrics.json has them, and the tasks to compare; told before the run, not after it."""
    if not single_task:
        return {"single_task": None}, []
    single = single_task if isinstance(single_task, SingleTask) else SingleTask(single_task)
    names = {task: for_task(task, data.name, compat=data.compat).name for task in data.tasks}
    compared = single.compared(names, {"dataset": data.name, "compat": data.compat})
    return {"single_task": dict(single.values)}, compared


def _scores(meters: Mapping[str, Meter]) -> dict[str, Any]:
    """The scores as JSON has them: null where there was nothing to count."""
    metrics = {task: _or_null(meter.compute()) for task, meter in meters.items()}
    return {"metrics": metrics, "names": {task: meter.name for task, meter in meters.items()}}


def _gain(
    meters: Mapping[str, Meter], single_task: Mapping[str, float] | None, compared: list[str]
) -> dict[str, Any]:
    """Delta_m (eq. 7) in per cent over the compared tasks, and which these are."""
    if not single_task or not compared:
        return {"delta_m": None, "delta_m_tasks": compared}
    metrics = {task: meters[task].compute() for task in compared}
    gain = delta_m(metrics, single_task, metrics={task: meters[task].name for task in compared})
    return {"delta_m": _or_null(100 * gain), "delta_m_tasks": compared}


def _finished(path: Path, identity: str) -> dict[str, float] | None:
    """The metrics of an earlier call with the same identity."""
    document = json.loads(path.read_text()) if path.is_file() else {}
    if document.get("identity") != identity:
        return None
    return {task: math.nan if value is None else value for task, value in document["metrics"].items()}


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
