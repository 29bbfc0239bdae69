"""A recipe: one experiment, from images to a multi-task model, as one validated frozen model."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.config import CommitteeConfig, ExtractConfig, PlanConfig, SourceConfig
from storage.config import CacheConfig, Frozen, ViewConfig
from student.config import DatasetConfig, EvaluateConfig, Stage1Config, Stage2Config, StudentConfig


class Recipe(Frozen):
    """One experiment; every field can be overridden on the command line."""

    name: str = Field("unnamed", pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the experiment; also of its output folders."""
    source: SourceConfig = SourceConfig()
    views: ViewConfig = ViewConfig()
    committee: CommitteeConfig = CommitteeConfig()
    cache: CacheConfig = CacheConfig()
    extract: ExtractConfig = ExtractConfig()
    student: StudentConfig = StudentConfig()
    stage1: Stage1Config = Stage1Config()
    dataset: DatasetConfig = DatasetConfig()
    stage2: Stage2Config = Stage2Config()
    evaluate: EvaluateConfig = EvaluateConfig()
    plan: PlanConfig = PlanConfig()

    @model_validator(mode="after")
    def _warmup_fits(self) -> Recipe:
        if self.stage1.warmup_epochs >= self.stage1.epochs:
            raise ValueError(
                f"stage1.warmup_epochs {self.stage1.warmup_epochs:g} is not below stage1.epochs "
                f"{self.stage1.epochs:g}; shorten the warm-up"
            )
        return self
