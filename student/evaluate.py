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
    single_task: Mapping[str, float] | None = None,
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
        single_task: task -> the same metric of a single-task model; with it delta_m (eq. 7) is reported.

    Returns:
        task -> metric in the units of student.tasks.spec.METRICS; NaN where the split labels nothing.

    Raises:
        ValueError: the data set is incomplete, or `single_task` lacks a task.
    """
    device = torch.device(device)
    if single_task:  # a missing baseline is told before the run, not after it
        delta_m(dict.fromkeys(data.tasks, 1.0), single_task)
    samples = ValidationSet(open_dataset(data, "val"), size=data.size)
    asked = {"dataset": data.model_dump(mode="json", exclude={"path"}), "ids": samples.reader.ids}
    asked |= {"single_task": dict(single_task or {}), "pictures": config.save_predictions}
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
    scores = _scores(meters, single_task)
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


def _scores(meters: Mapping[str, Meter], single_task: Mapping[str, float] | None) -> dict[str, Any]:
    """The scores as JSON has them: null where there was nothing to count."""
    metrics = {task: meter.compute() for task, meter in meters.items()}
    names = {task: meter.name for task, meter in meters.items()}
    gain = 100 * delta_m(metrics, single_task, metrics=names) if single_task else math.nan
    given = dict(single_task) if single_task else None
    nulled = {task: _or_null(value) for task, value in metrics.items()}
    return {"metrics": nulled, "names": names, "single_task": given, "delta_m": _or_null(gain)}


def _finished(path: Path, identity: str) -> dict[str, float] | None:
    """The metrics of an earlier call with the same identity."""
    document = json.loads(path.read_text()) if path.is_file() else {}
    if document.get("identity") != identity:
        return None
    return {task: math.nan if value is None else value for task, value in document["metrics"].items()}


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
