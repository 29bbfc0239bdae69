"""Stage 1 end to end on small frozen teachers: it learns, resumes exactly, and ignores rows of weight 0."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from student import stage1
from student.config import OptimConfig, Stage1Config, StudentConfig
from student.losses import distill_loss
from student.metrics_log import read_records
from student.pixels import normalise, to_unit
from student.sak import SAK, build_student
from student.similarity import similarity
from student.stage1 import Stage1Data, _step, run_stage1, total_steps

CPU = torch.device("cpu")


@dataclass
class Batch:
    """The fields of storage.stream.Batch."""

    step: int
    images: Tensor
    weight: Tensor
    codes: dict = field(default_factory=dict)
    keys: list = field(default_factory=list)
    skipped: int = 0


class Teachers:
    """Two frozen ViTs of timm: other width and patch than the student's, and the same."""

    def __init__(self) -> None:
        torch.manual_seed(11)
        sizes = {"wide": (120, 14), "same": (96, 16)}
        self.vits = {
            name: VisionTransformer(
                img_size=64, patch_size=p, embed_dim=w, depth=4, num_heads=3, num_classes=0, init_values=1.0,
                dynamic_img_size=True,
            ).eval()
            for name, (w, p) in sizes.items()
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, list[Tensor]]:
        cut = {"wide": images[..., :56, :56], "same": images}
        return {
            name: vit.forward_intermediates(
                normalise(cut[name]), indices=4, norm=False, intermediates_only=True
            )
            for name, vit in self.vits.items()
        }


def pictures(count: int, seed: int) -> Tensor:
    """Smooth coloured pictures, uint8 [count, 64, 64, 3]."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous()


POOL = pictures(40, 0)


@contextmanager
def stream(first: int, steps: int):
    """Batches of 4 in a fixed order, one row of weight 0 in each third."""
    yield (
        Batch(n, POOL[torch.arange(4 * n, 4 * n + 4) % 40], torch.tensor([1.0, 1, 1, float(n % 3 > 0)]))
        for n in range(first, first + steps)
    )


@pytest.fixture(scope="module")
def teachers() -> Teachers:
    return Teachers()


def make_student(seed: int = 0) -> SAK:
    """A mini student of both teachers."""
    config = StudentConfig(arch="mini", weights=f"random:{seed}")
    return build_student(config, {"wide": (120,) * 4, "same": (96,) * 4}, seed, image_size=64)


def data(teachers: Teachers) -> Stage1Data:
    """Ten batches an epoch, teachers live."""
    return Stage1Data(stream, lambda batch: teachers(to_unit(batch.images, CPU)), 10, {"shards": 2})


def config(**changes) -> Stage1Config:
    """A short run."""
    values = {"epochs": 3, "warmup_epochs": 0.3, "batch_size": 4, "log_every": 1, "checkpoint_every": 7}
    return Stage1Config(**(values | {"precision": "fp32"} | changes))


def test_it_learns_the_teachers_and_leaves_a_student(tmp_path: Path, teachers: Teachers) -> None:
    held_out = [to_unit(pictures(4, 99), CPU)]
    student = make_student()
    before = similarity(student, teachers, held_out)
    summary = run_stage1(student, data(teachers), config(epochs=12), out=tmp_path, device="cpu")
    after = similarity(student, teachers, held_out)
    for name in teachers.vits:
        assert after[name]["flattened"] > before[name]["flattened"] + 0.3
    records = read_records(tmp_path / "metrics.jsonl")
    assert records[-1]["loss"] < 0.6 * records[0]["loss"]
    assert records[5]["loss"] == pytest.approx(records[5]["loss/wide"] + records[5]["loss/same"])
    again = build_student(
        StudentConfig(arch="mini", weights=summary["student"]), student.teacher_channels, 5, image_size=64
    )
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())


def test_resumed_losses_are_those_of_the_whole_run(tmp_path: Path, teachers: Teachers) -> None:
    run_stage1(make_student(), data(teachers), config(), out=tmp_path / "whole", device="cpu")

    class Dies:
        def __call__(self, batch: Batch):
            if batch.step == 17:
                raise MemoryError
            return teachers(to_unit(batch.images, CPU))

    dying = Stage1Data(stream, Dies(), 10, {"shards": 2})
    with pytest.raises(MemoryError):
        run_stage1(make_student(), dying, config(), out=tmp_path / "killed", device="cpu")
    summary = run_stage1(make_student(3), data(teachers), config(), out=tmp_path / "killed", device="cpu")
    assert summary["first_step"] == 14
    losses = [
        [r["loss"] for r in read_records(tmp_path / name / "metrics.jsonl")] for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1], "bit for bit"
    finished = run_stage1(make_student(4), data(teachers), config(), out=tmp_path / "killed", device="cpu")
    assert finished["steps_run"] == 0


def test_another_snapshot_or_recipe_is_refused(tmp_path: Path, teachers: Teachers) -> None:
    run_stage1(make_student(), data(teachers), config(epochs=0.4), out=tmp_path, device="cpu")
    other = Stage1Data(stream, data(teachers).targets, 10, {"shards": 3})
    with pytest.raises(ValueError, match=r"snapshot \{'shards': 2\}, this run has \{'shards': 3\}"):
        run_stage1(make_student(), other, config(epochs=0.4), out=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=r"stage1\.optim\.lr 0\.001, this run has 0\.5"):
        changed = config(epochs=0.4, optim=OptimConfig(lr=0.5))
        run_stage1(make_student(), data(teachers), changed, out=tmp_path, device="cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_of_weight_0_changes_neither_loss_nor_gradient(teachers: Teachers, precision: str) -> None:
    student = make_student()
    step = _step(student, data(teachers), config(precision=precision), CPU)
    results = []
    for weight, rows in (([1.0, 0.0, 1.0], [0, 1, 2]), ([1.0, 1.0], [0, 2])):
        student.zero_grad()
        loss, parts = step(Batch(0, POOL[rows], torch.tensor(weight)))
        loss.backward()
        results.append((loss, parts["loss/wide"], student.tsap["same"][4].up.weight.grad.clone()))
    tolerance = {"fp32": 1e-5, "bf16": 2e-2}[precision]
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_maps_enter_the_loss_in_fp32_under_bf16(teachers: Teachers, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    def spied(paths, *args, **kwargs):
        entered.extend(level.dtype for maps in paths.values() for level in maps)
        return distill_loss(paths, *args, **kwargs)

    monkeypatch.setattr(stage1, "distill_loss", spied)
    step = _step(make_student(), data(teachers), config(precision="bf16"), CPU)
    step(Batch(0, POOL[:2], torch.ones(2)))
    assert entered == [torch.float32] * 8


class NoHostSync(TorchDispatchMode):
    """Fails where a value is asked for on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "a training step waits for the device"
        return func(*args, **(kwargs or {}))


def test_a_step_never_waits_for_the_device(teachers: Teachers) -> None:
    student = make_student()
    targets = teachers(to_unit(POOL[:2], CPU))
    step = _step(student, Stage1Data(stream, lambda batch: targets, 10), config(), CPU)
    with NoHostSync():
        loss, _ = step(Batch(0, POOL[:2], torch.ones(2)))
        loss.backward()
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        loss.item()


def test_steps_follow_epochs() -> None:
    assert total_steps(Stage1Config(), 10_010) == 300_300
    assert total_steps(config(epochs=0.1, warmup_epochs=0), 30) == 3
    assert total_steps(config(epochs=0.01, warmup_epochs=0), 30) == 1
