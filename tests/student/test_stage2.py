"""Stage 2: eq. 6 on real data and a real teacher, exact resume, workers that leave."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from student import stage2
from student.config import DatasetConfig, OptimConfig, Stage2Config, StudentConfig
from student.loading import loading
from student.losses import distill_loss
from student.multitask import SAKMultiTask, build_multitask
from student.pixels import denormalise
from student.sak import build_student
from student.stage2 import _step, run_stage2
from student.tasks.batches import BatchOrder, TrainingSet, collate, open_dataset
from student.tasks.losses import LOSSES
from student.tasks.spec import TASKS as TASK_SPECS
from student.tasks.spec import out_channels
from tests.student.nyud_folder import TASKS, nyud_config, write_nyud_folder

CHANNELS = {"tiny": (48,) * 4, "wide": (96,) * 4}


class TinyTeachers:
    """Two frozen ViTs of timm, one with its own channels and grid; counts its calls and keeps what it saw."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        build = {"depth": 4, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
        self.models = {
            "tiny": timm.create_model("vit_tiny_patch16_224", embed_dim=48, **build).eval(),
            "wide": timm.create_model("vit_tiny_patch16_224", embed_dim=96, patch_size=8, **build).eval(),
        }
        self.seen: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, list[Tensor]]:
        self.seen.append(images)
        taps = {"indices": [0, 1, 2, 3], "norm": False, "intermediates_only": True}
        return {name: model.forward_intermediates(images, **taps) for name, model in self.models.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return nyud_config(write_nyud_folder(tmp_path_factory.mktemp("nyud") / "NYUDv2"))


@pytest.fixture(scope="module")
def teachers() -> TinyTeachers:
    return TinyTeachers()


def make_model(data: DatasetConfig, channels: dict[str, tuple[int, ...]] = CHANNELS) -> SAKMultiTask:
    config = StudentConfig(arch="mini", weights="random:0")
    sak = build_student(config, channels, 0, image_size=data.size)
    return build_multitask(sak, out_channels(data.name, data.tasks), seed=1)


def settings(**changes: Any) -> Stage2Config:
    values = {"iterations": 6, "batch_size": 2, "log_every": 2, "checkpoint_every": 3, "workers": 0}
    return Stage2Config(**{**values, "optim": OptimConfig(lr=1e-3, weight_decay=1e-6, clip=10.0), **changes})


def log_of(out: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("samples_per_s", "data_wait")} for r in records]


@pytest.fixture(scope="module")
def whole(data: DatasetConfig, teachers: TinyTeachers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    run_stage2(make_model(data), teachers, data, settings(), out=out, device="cpu")
    return out


def test_step_is_equation_6(data: DatasetConfig, teachers: TinyTeachers) -> None:
    samples = TrainingSet(open_dataset(data, "train"), size=data.size, seed=0)
    batch = collate([samples[0, i] for i in range(3)])
    model = make_model(data).eval()
    loss, scalars = _step(model, teachers, settings(gamma=0.5), torch.device("cpu"))(batch)
    output = model(batch["image"])
    by_task = {task: LOSSES[task](output.predictions[task], batch[task]) for task in TASKS}
    weighted = sum(TASK_SPECS[task].loss_weight * value for task, value in by_task.items())
    pixels = denormalise(batch["image"]).clamp(0, 1)
    aligned = model.backbone.align(output.paths)
    distilled, _ = distill_loss(aligned, teachers(pixels), torch.ones(3), alpha=0.9, beta=0.1)
    assert torch.allclose(loss, weighted + 0.5 * distilled)
    assert set(scalars) == {f"loss/{task}" for task in TASKS} | {"distill/tiny", "distill/wide"}
    for task, value in by_task.items():
        assert torch.allclose(scalars[f"loss/{task}"], value)
    assert torch.allclose(scalars["distill/tiny"] + scalars["distill/wide"], distilled)


def test_teachers_see_pixels_and_mean_coloured_padding(data: DatasetConfig, teachers: TinyTeachers) -> None:
    samples = TrainingSet(open_dataset(data, "train"), size=(128, 192), seed=0)
    batch = collate([samples[0, i] for i in range(7)])
    model = make_model(data).eval()
    _step(model, teachers, settings(), torch.device("cpu"))(batch)
    seen = teachers.seen[-1]
    assert seen.min() >= 0 and seen.max() <= 1
    padded = (batch["image"] == 0).all(1)
    assert padded.any()
    mean = torch.tensor([0.485, 0.456, 0.406])
    assert torch.allclose(seen.permute(0, 2, 3, 1)[padded], mean.expand(int(padded.sum()), 3))
    bytes_ = seen.permute(0, 2, 3, 1)[~padded] * 255
    assert torch.allclose(bytes_, bytes_.round(), atol=1e-3)


def test_run_leaves_log_model_and_summary(data: DatasetConfig, whole: Path) -> None:
    records = log_of(whole)
    assert [record["step"] for record in records] == [2, 4, 6]
    assert all(
        record["lr"] == pytest.approx(1e-3 * (1 - (record["step"] - 1) / 6) ** 0.9) for record in records
    )
    assert "grad_norm" in records[0] and "distill/wide" in records[0] and "loss/normals" in records[0]
    saved = load_file(whole / "student.safetensors")
    last = load_file(whole / "checkpoints" / "step-00000006" / "model.safetensors")
    assert saved.keys() == last.keys() and all(torch.equal(saved[key], last[key]) for key in saved)
    assert {key.split(".")[0] for key in saved} == {"backbone", "heads"}
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == summary["steps_run"] == 6


def test_finished_run_takes_no_step_and_changes_no_file(
    data: DatasetConfig, teachers: TinyTeachers, whole: Path
) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (whole / "student.safetensors", whole / "summary.json")
    }
    model, calls = make_model(data), len(teachers.seen)
    summary = run_stage2(model, teachers, data, settings(log_every=1), out=whole, device="cpu")
    assert summary["steps_run"] == 0 and len(teachers.seen) == calls
    assert {path: path.stat().st_mtime_ns for path in before} == before
    saved = load_file(whole / "student.safetensors")
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())


class Interrupted(Exception):
    """What stops the run in the tests below."""


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_run_resumes_bit_for_bit(
    data: DatasetConfig, teachers: TinyTeachers, whole: Path, tmp_path: Path, workers: int
) -> None:
    calls = 0

    def failing(images: Tensor) -> dict[str, list[Tensor]]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Interrupted
        return teachers(images)

    with pytest.raises(Interrupted):
        run_stage2(make_model(data), failing, data, settings(workers=workers), out=tmp_path, device="cpu")
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "student.safetensors").exists()
    run_stage2(make_model(data), teachers, data, settings(), out=tmp_path, device="cpu")
    assert log_of(tmp_path) == log_of(whole)
    ours, theirs = load_file(tmp_path / "student.safetensors"), load_file(whole / "student.safetensors")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_other_recipe_or_data_is_refused(
    data: DatasetConfig, teachers: TinyTeachers, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"stage2.gamma 1.0, this run has 0.5"):
        run_stage2(make_model(data), teachers, data, settings(gamma=0.5), out=whole, device="cpu")
    other = nyud_config(write_nyud_folder(tmp_path / "NYUDv2", train=6))
    with pytest.raises(ValueError, match=r"dataset.ids"):
        run_stage2(make_model(other), teachers, other, settings(), out=whole, device="cpu")


def test_what_does_not_fit_is_refused_before_anything_is_written(
    data: DatasetConfig, teachers: TinyTeachers, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="no teachers were given; set it to 0"):
        run_stage2(make_model(data), None, data, settings(), out=out, device="cpu")
    with pytest.raises(ValueError, match="the student has no teachers"):
        run_stage2(make_model(data, {}), teachers, data, settings(), out=out, device="cpu")
    fewer = nyud_config(Path(data.path), ("semseg", "edge"))
    with pytest.raises(ValueError, match="heads for semseg, depth, normals, edge"):
        run_stage2(make_model(data), teachers, fewer, settings(), out=out, device="cpu")
    with pytest.raises(ValueError, match="lower batch_size"):
        run_stage2(make_model(data), teachers, data, settings(batch_size=8), out=out, device="cpu")
    assert not (out / "checkpoints").exists()


def test_baseline_without_teachers_learns(data: DatasetConfig, tmp_path: Path) -> None:
    config = settings(gamma=0.0, iterations=40, batch_size=4, log_every=10, checkpoint_every=40)
    run_stage2(make_model(data, {}), None, data, config, out=tmp_path, device="cpu")
    records = log_of(tmp_path)
    assert records[-1]["loss"] < 0.7 * records[0]["loss"]
    assert not any(key.startswith("distill") for key in records[0])


def test_gamma_0_never_runs_teachers(data: DatasetConfig, teachers: TinyTeachers, tmp_path: Path) -> None:
    calls = len(teachers.seen)
    run_stage2(make_model(data), teachers, data, settings(gamma=0, iterations=1), out=tmp_path, device="cpu")
    assert len(teachers.seen) == calls


def test_bf16_keeps_losses_and_weights_in_fp32(
    data: DatasetConfig, teachers: TinyTeachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps: list[Tensor] = []

    def spy(paths: dict[str, list[Tensor]], *rest: Any) -> Any:
        maps.extend(level for levels in paths.values() for level in levels)
        return distill_loss(paths, *rest)

    monkeypatch.setattr(stage2, "distill_loss", spy)
    config = settings(precision="bf16", iterations=1, log_every=1)
    run_stage2(make_model(data), teachers, data, config, out=tmp_path, device="cpu")
    assert [level.dtype for level in maps] == [torch.float32] * 8
    assert log_of(tmp_path)[0]["loss"] > 0
    saved = load_file(tmp_path / "student.safetensors").values()
    assert {tensor.dtype for tensor in saved} == {torch.float32, torch.int64}


def test_workers_give_the_batches_of_one_process(data: DatasetConfig) -> None:
    samples = TrainingSet(open_dataset(data, "train"), size=data.size, seed=0)
    order = BatchOrder(len(samples), batch_size=2, seed=0, first=2, stop=7)
    expected = [collate([samples[name] for name in names]) for names in order]
    with loading(samples, order, workers=1, device=torch.device("cpu")) as stream:
        found = list(stream)
    assert [batch["id"] for batch in found] == [batch["id"] for batch in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("image", *TASKS))
    assert multiprocessing.active_children() == []


SCRIPT = """
import sys
from pathlib import Path
from tests.student.nyud_folder import nyud_config
from tests.student.test_stage2 import TinyTeachers, make_model, settings
from student.stage2 import run_stage2

if __name__ == "__main__":
    data = nyud_config(Path(sys.argv[1]))
    config = settings(iterations=2000, log_every=1, checkpoint_every=1000, workers=1)
    run_stage2(make_model(data), TinyTeachers(), data, config, out=Path(sys.argv[2]), device="cpu")
"""


def start(script: Path, data: DatasetConfig, out: Path) -> subprocess.Popen[bytes]:
    """Train in a process group of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    out.mkdir()
    with (out / "log").open("wb") as log:
        command = [sys.executable, str(script), data.path, str(out)]
        return subprocess.Popen(command, env=env, start_new_session=True, stdout=log, stderr=log)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def alive_in_group(group: int) -> list[str]:
    """Command lines of the group's processes, those that are dead but not yet reaped left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_to_the_whole_group_saves_and_leaves_nobody(
    data: DatasetConfig, tmp_path: Path, number: signal.Signals
) -> None:
    """What a job's stop and Ctrl-C in a terminal do: every process of the group gets the signal."""
    script, out = tmp_path / "train.py", tmp_path / "run"
    script.write_text(SCRIPT)
    process, records = start(script, data, out), out / "metrics.jsonl"

    def logged() -> bool:
        assert process.poll() is None, (out / "log").read_text()
        return records.exists() and records.stat().st_size > 0

    wait_for(logged, "no step was taken")
    os.killpg(process.pid, number)
    assert process.wait(60) == 128 + number, (out / "log").read_text()
    (saved,) = (out / "checkpoints").glob("step-*")
    assert len(records.read_text().splitlines()) == int(saved.name.removeprefix("step-"))
    wait_for(lambda: alive_in_group(process.pid) == [], "a process is left", 10)
    assert "Traceback" not in (out / "log").read_text()
