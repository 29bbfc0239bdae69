"""`plan`: what will a recipe cost, before a byte is written."""

from __future__ import annotations

import json
import sys

from jobs.cli import parse
from storage.config import Frozen

IMAGENET_TRAIN = 1_281_167


class PlanOptions(Frozen):
    """Sizes, GPU-hours, GB/s and break-even of a recipe, before a byte is written."""

    images: int = 0
    """Number of images; 0: count recipe's source if it has a path, else ImageNet-1k train (1,281,167)."""
    json_output: bool = False
    """Print JSON instead of tables."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("plan", PlanOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from pipeline.macs import StudentSize
    from pipeline.plan import PlanInput, plan
    from pipeline.plan_table import format_plan
    from student.archs import arch_of

    arch = arch_of(recipe.student.arch)
    asked = PlanInput(
        images=options.images or count_images(recipe.source),
        views=recipe.views,
        committee=recipe.committee,
        cache=recipe.cache,
        student=StudentSize(arch.width, arch.depth, arch.patch, recipe.student.adapter_reduction),
        epochs=recipe.stage1.epochs,
        assume=recipe.plan,
    )
    answer = plan(asked)
    text = json.dumps(answer.as_json(), indent=1) if options.json_output else format_plan(answer)
    sys.stdout.write(text + "\n")
    return 0


def count_images(source: object) -> int:
    """Images of the source, or of ImageNet-1k where the recipe names none."""
    from pipeline.config import SourceConfig

    assert isinstance(source, SourceConfig)
    if not source.path:
        return IMAGENET_TRAIN
    from pipeline.sources import open_source

    return len(open_source(source).index())
