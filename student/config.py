"""What a user may ask of the student: architecture, the two stages, data, evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from storage.config import Frozen
from student.tasks.spec import DATASETS, TASKS


class StudentConfig(Frozen):
    """Student: TAS (timm ViT), one TSAP per teacher, MoR routers and heads."""

    arch: str = "vit_base_patch16"
    """Name in student/archs.py's table: vit_small_patch16, vit_base_patch16, vit_large_patch16 or mini."""
    weights: str = "pretrained"
    """TAS initialisation: pretrained (timm), random:<seed>, or a safetensors file."""
    adapter_reduction: int = Field(4, ge=1)
    """Channel reduction of the adapters (r = d / reduction, paper B.1)."""


class OptimConfig(Frozen):
    """AdamW and its schedule."""

    lr: float = Field(1e-3, gt=0)
    """Base learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """AdamW weight decay, on every parameter as the authors do."""
    clip: float = Field(0.0, ge=0)
    """Gradient norm clip; 0: none."""


class Stage1Config(Frozen):
    """Stage 1: distillation on ImageNet views (paper eq. 5, Table 11)."""

    epochs: float = Field(30, gt=0)
    """Passes over one view's samples."""
    batch_size: int = Field(128, ge=1)
    """Global batch (samples per step over all ranks)."""
    warmup_epochs: float = Field(2, ge=0)
    """Linear warm-up from warmup_lr."""
    warmup_lr: float = Field(1.25e-7, ge=0)
    """Learning rate at step 0."""
    min_lr: float = Field(1e-5, ge=0)
    """Floor of the cosine."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    alpha: float = Field(0.9, ge=0)
    """Weight of the cosine term (eq. 5)."""
    beta: float = Field(0.1, ge=0)
    """Weight of the smooth-L1 term (eq. 5)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Autocast precision of the student."""
    seed: int = 0
    """Seed of initialisation and sample order."""
    window_shards: int = Field(8, ge=1)
    """Shards mixed together by the shuffle of one slot."""
    log_every: int = Field(50, ge=1)
    """Steps per log line."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps per checkpoint."""
    threads: int = Field(2, ge=1)
    """Threads that read and decode ahead."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """stop: a damaged, unreadable or missing shard ends the run; skip: its samples keep their positions with
    weight 0 and are counted."""
    local_cache: str = ""
    """Folder on this machine that keeps what was read of a distant cache, for later passes and runs; empty:
    none."""
    local_cache_gb: float = Field(100.0, gt=0)
    """Most that one training process keeps there, 1e9 bytes; what came first stays."""


class DatasetConfig(Frozen):
    """Multi-task data set of stage 2, in the layout that the field's archives have."""

    name: Literal["nyud", "pascal_context"] = "nyud"
    """nyud: NYUDv2/ (4 tasks, 448x576); pascal_context: PASCALContext/ (5 tasks, 512x512)."""
    path: str = ""
    """Folder that holds images/ or JPEGImages/."""
    tasks: tuple[str, ...] = ("semseg", "depth", "normals", "edge")
    """Tasks to train: semseg, human_parts, sal, normals, edge, depth."""
    size: tuple[int, int] = (448, 576)
    """Input height and width, pixels."""
    compat: Literal["sound", "official"] = "sound"
    """official: labels and metrics as in the released code, so that numbers compare with the paper."""

    @model_validator(mode="after")
    def _tasks(self) -> DatasetConfig:
        unknown = [t for t in self.tasks if t not in TASKS]
        if unknown:
            raise ValueError(f"dataset.tasks has {unknown}, known tasks are {', '.join(TASKS)}")
        wrong = [t for t in self.tasks if t not in DATASETS[self.name].channels]
        if wrong:
            raise ValueError(f"dataset.tasks has {wrong}, which {self.name} does not label; leave them out")
        if not self.tasks:
            raise ValueError("dataset.tasks is empty; name at least one task, for example semseg")
        return self


class Stage2Config(Frozen):
    """Stage 2: multi-task training with live teachers (paper eq. 6, Table 11)."""

    iterations: int = Field(40_000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(4, ge=1)
    """Images per step."""
    optim: OptimConfig = OptimConfig(lr=2e-5, weight_decay=1e-6, clip=10.0)
    """Optimiser; the schedule is poly with power 0.9."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the distillation loss (eq. 6); 0: no teachers are run."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision of the student."""
    teacher_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the live teachers, in place of committee.precision."""
    noise: Literal["image", "pixel"] = "image"
    """MoR gate noise: one draw per image (eq. 4), or per token as the authors' code does."""
    seed: int = 0
    """Seed of heads, order, augmentation and gate noise."""
    log_every: int = Field(50, ge=1)
    """Steps per log line."""
    checkpoint_every: int = Field(1000, ge=1)
    """Steps per checkpoint."""
    workers: int = Field(2, ge=0)
    """Data loader workers."""


class EvaluateConfig(Frozen):
    """Evaluation: representation similarity after stage 1, task metrics after stage 2."""

    similarity_source: str = ""
    """Folder of held-out images (ImageNet val); empty: similarity is not scored."""
    similarity_images: int = Field(0, ge=0)
    """How many of them; 0: all."""
    batch_size: int = Field(4, ge=1)
    """Images per forward."""
    save_predictions: int = Field(20, ge=0)
    """Validation images whose predictions are saved as pictures; 0: none."""
    workers: int = Field(2, ge=0)
    """Data loader workers of the task metrics."""
