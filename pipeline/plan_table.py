"""A plan as text: three aligned tables and one sentence of advice."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.plan import CodecRow, Plan
from storage.text_table import aligned, format_bytes


def format_plan(plan: Plan) -> str:
    """Lines for a terminal: teachers, student, codecs, and whether the cache pays."""
    head = (
        f"{plan.images:,} images x {plan.views} views at {plan.size} px = {plan.samples:,} samples in "
        f"{plan.shards:,} shards; crops about {_size(plan.crops_terabytes)}"
    )
    a = plan.assume
    foot = [
        f"GPU-hours at {a.tflops:g} TFLOPS x {a.utilisation:g}; {a.gpus} GPUs together read "
        f"{a.read_gb_per_s:g} GB/s.",
        "Sizes before the lossless stage. GMAC as papers count them, +attn with the attention products.",
    ]
    parts = [_teachers(plan), _student(plan), _codecs(plan), [*_advice(plan), *foot]]
    return "\n\n".join([head, *map("\n".join, parts)])


def _teachers(plan: Plan) -> list[str]:
    names = [row.codec for row in plan.codecs]
    header = ["teacher", "grid", "values/image"]
    header += [f"{name}/{unit}" for unit in ("image", "view") for name in names]
    rows = [
        _teacher_cells(
            row.teacher,
            f"{row.grid[0]}x{row.grid[1]}x{row.channels}",
            values=row.values_per_image,
            terabytes=[row.bytes_per_image[n] / 1e12 for n in names] + [row.terabytes[n] for n in names],
            work=(row.gmac, row.gmac_with_attention, row.gpu_hours),
        )
        for row in plan.rows
    ]
    total = _teacher_cells(
        "all",
        "",
        values=sum(row.values_per_image for row in plan.rows),
        terabytes=[sum(r.bytes_per_image[n] for r in plan.rows) / 1e12 for n in names]
        + [sum(r.terabytes[n] for r in plan.rows) for n in names],
        work=(
            sum(row.gmac for row in plan.rows),
            sum(row.gmac_with_attention for row in plan.rows),
            plan.teacher_gpu_hours_per_view,
        ),
    )
    return aligned([[*header, "GMAC", "+attn", "GPU-h/view"], *rows, total], left=2)


def _teacher_cells(
    name: str, grid: str, *, values: int, terabytes: Sequence[float], work: tuple[float, float, float]
) -> list[str]:
    return [name, grid, f"{values:,}", *map(_size, terabytes), *map(_number, work)]


def _student(plan: Plan) -> list[str]:
    header = ["student", "GMAC", "+attn", "adapters", "step", "GPU-h/epoch"]
    row = [
        "stage 1",
        _number(plan.student_gmac),
        _number(plan.student_gmac_with_attention),
        _number(plan.adapters_gmac),
        _number(plan.step_gmac),
        _number(plan.student_gpu_hours_per_epoch),
    ]
    return aligned([header, row], left=1)


def _codecs(plan: Plan) -> list[str]:
    wanted = f"GB/s at {plan.images_per_s:,.0f} images/s"
    header = ["codec", "all views", wanted, "GPU-h/epoch", "break-even epochs", "pays above GB/s"]
    rows = [
        [
            row.codec + (" (recipe)" if row.codec == plan.codec else ""),
            _size(row.terabytes),
            _number(row.read_gb_per_s),
            _number(row.epoch_gpu_hours),
            _epochs(row),
            _number(row.pays_above_gb_per_s),
        ]
        for row in plan.codecs
    ]
    return aligned([header, *rows], left=1)


def _advice(plan: Plan) -> list[str]:
    """Which of the two ways is cheaper for this many epochs, said plainly."""
    chosen = next(row for row in plan.codecs if row.codec == plan.codec)
    live, cached = plan.live_gpu_hours, plan.cached_gpu_hours
    costs = f"live teachers {_number(live)} GPU-hours, cache {_number(cached)}"
    head = f"{plan.epochs:g} epochs: {costs};"
    if chosen.break_even_epochs is None:
        return [
            f"{head} live teachers are faster however many epochs there are:",
            f"reading {plan.codec} at {plan.assume.read_gb_per_s:g} GB/s takes longer than the teachers, "
            f"the cache pays above {_number(chosen.pays_above_gb_per_s)} GB/s",
        ]
    if cached >= live:
        return [f"{head} live teachers are cheaper below {_epochs(chosen)} epochs (over all runs)"]
    return [f"{head} the cache pays from {_epochs(chosen)} epochs (over all runs)"]


def _epochs(row: CodecRow) -> str:
    return "never" if row.break_even_epochs is None else f"{math.ceil(row.break_even_epochs - 1e-9)}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _size(terabytes: float) -> str:
    return format_bytes(terabytes * 1e12)
