"""What will a recipe cost: terabytes, GPU-hours, GB/s, cores, and does a cache pay against live teachers?

Pure arithmetic over the recipe's sections; neither torch nor a GPU is needed. Sizes of f16 and int8 are exact
up to the lossless stage (which only shrinks them) and the containers' headers, klt's are measured or from a
table; times rest on the stated peak and utilisation.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pipeline.macs import student_macs
from pipeline.plan_answer import MeasuredColumn, Plan, PlanInput
from pipeline.plan_costs import Costs
from pipeline.plan_rates import choice_of, choices

__all__ = ["MeasuredColumn", "Plan", "PlanInput", "plan"]


def plan(asked: PlanInput) -> Plan:
    """Sizes and costs of a recipe.

    Raises:
        ValueError: there is no image, a teacher is unknown, a crop is smaller than a patch, or the student's
            grid is asked for and its patches do not fill a crop.
    """
    if asked.images < 1:
        raise ValueError(
            f"a plan for {asked.images} images is empty; give the number of images, such as 1281167"
        )
    size, views = asked.views.size, asked.views.count
    if asked.cache.codec.grid == "student" and asked.student_grid is None:
        raise ValueError(
            f"cache.codec.grid is student, but views.size {size} is no multiple of the student's patch "
            f"{asked.student.patch}; change views.size"
        )
    costs = Costs(asked)
    rows = tuple(costs.teacher_row(spec) for spec in costs.specs)
    codecs = tuple(
        costs.codec_row(choice, grid) for grid in costs.grids for choice in choices(asked.cache.codec)
    )
    tas, adapters = student_macs(asked.student, size, [spec.width for spec in costs.specs])
    answer = Plan(
        images=asked.images,
        views=views,
        size=size,
        samples=asked.images * views,
        shards=views * math.ceil(asked.images / asked.cache.samples_per_shard),
        codec=choice_of(asked.cache.codec).label,
        grid=asked.cache.codec.grid,
        rows=rows,
        codecs=codecs,
        crops_terabytes=asked.images * views * costs.crop_bytes / 1e12,
        student_gmac=tas.linear / 1e9,
        student_gmac_with_attention=tas.total / 1e9,
        adapters_gmac=adapters.total / 1e9,
        step_gmac=costs.step / 1e9,
        decode_budget_gmac=costs.decode_budget_gmac,
        teacher_gpu_hours_per_view=costs.live,
        student_gpu_hours_per_epoch=costs.trained,
        images_per_s=costs.speed,
        epochs=asked.epochs,
        live_gpu_hours=asked.epochs * (costs.live + costs.trained),
        cached_gpu_hours=0.0,
        usd=None,
        assume=asked.assume,
    )
    hours = views * costs.live + asked.epochs * answer.chosen.epoch_gpu_hours
    return replace(answer, cached_gpu_hours=hours, usd=_usd(replace(answer, cached_gpu_hours=hours)))


def _usd(answer: Plan) -> dict[str, float] | None:
    hour, month = answer.assume.gpu_hour_usd, answer.assume.tb_month_usd
    if not hour and not month:
        return None
    stored = answer.chosen.terabytes + answer.crops_terabytes
    found = {"storage_per_month": stored * month} if month else {}
    if hour:
        found |= {"live": answer.live_gpu_hours * hour, "cached": answer.cached_gpu_hours * hour}
    return found
