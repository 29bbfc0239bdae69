"""`plan`: what will a recipe cost, before a byte is written."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from jobs.cli import parse
from jobs.config import Recipe
from jobs.device import Device
from storage.config import Frozen

if TYPE_CHECKING:
    from pipeline.plan import Plan

IMAGENET_TRAIN = 1_281_167


class PlanOptions(Frozen):
    """Sizes, GPU-hours, GB/s, cores and break-even of a recipe, before a byte is written."""

    images: int = 0
    """Number of images; 0: count recipe's source if it has a path, else ImageNet-1k train (1,281,167)."""
    cache: str = ""
    """Where the cache would go: a folder is checked for free space."""
    measured: str = ""
    """A cache (extracted or calibrated) whose bits per value and decoding work stand in for the table's."""
    measure_bf16: int = 0
    """Run the teachers in bf16 and in fp32 on so many images of the source (or generated ones)."""
    device: Device = "auto"
    """Of --measure-bf16. auto: CUDA if there is a GPU."""
    json_output: bool = False
    """Print JSON instead of tables."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("plan", PlanOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from jobs.disk_space import warn_if_small
    from pipeline.plan_table import format_plan

    answer = plan_of(recipe, options)
    text = json.dumps(answer.as_json(), indent=1) if options.json_output else format_plan(answer)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if options.cache:
        warn_if_small(options.cache, 1e12 * (answer.chosen.terabytes + answer.crops_terabytes))
    return 0


def plan_of(recipe: Recipe, options: PlanOptions) -> Plan:
    """The plan of a recipe; counts, reads and runs what the options say."""
    from jobs.measured import measured_columns
    from jobs.register import student_size
    from pipeline.plan import PlanInput, plan

    teachers = recipe.committee.teachers
    return plan(
        PlanInput(
            images=options.images or count_images(recipe),
            views=recipe.views,
            committee=recipe.committee,
            cache=recipe.cache,
            student=student_size(recipe),
            epochs=recipe.stage1.epochs,
            assume=recipe.plan,
            measured=measured_columns(options.measured, teachers) if options.measured else {},
            bf16_cosine=measure_bf16(recipe, options) if options.measure_bf16 else {},
        )
    )


def count_images(recipe: Recipe) -> int:
    """Images of the source, or of ImageNet-1k where the recipe names none."""
    if not recipe.source.path:
        return IMAGENET_TRAIN
    from pipeline.sources import open_source

    return len(open_source(recipe.source).index())


def measure_bf16(recipe: Recipe, options: PlanOptions) -> dict[str, float]:
    """teacher -> cosine of its maps in both precisions, on images of the source or on generated ones."""
    from itertools import islice

    import torch

    from jobs.device import pick_device
    from jobs.held_out import HeldOut
    from pipeline.bf16 import bf16_cosines

    size, count = recipe.views.size, options.measure_bf16
    if recipe.source.path:
        spread = HeldOut(recipe.source, size, 1, count)
        images = [batch[0] for batch in islice(spread.batches(), count)]
    else:
        noise = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        images = list(torch.nn.functional.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1))
    return bf16_cosines(recipe.committee, images, pick_device(options.device))
