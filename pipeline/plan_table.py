"""A plan as text: aligned tables, what the trainer needs against what the node has, and a word of advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline.plan_answer import CodecRow, Plan, TeacherRow
from storage.text_table import aligned, format_bytes


def format_plan(plan: Plan) -> str:
    """Lines for a terminal of 120 columns."""
    head = (
        f"{plan.images:,} images x {plan.views} views at {plan.size} px = {plan.samples:,} samples in "
        f"{plan.shards:,} shards; crops about {_size(plan.crops_terabytes)}"
    )
    parts = [
        _teachers(plan),
        _sizes(plan),
        _student(plan),
        _codecs(plan),
        _needs(plan),
        _advice(plan),
        _foot(plan),
    ]
    return "\n\n".join([head, *("\n".join(part) for part in parts)])


def _teachers(plan: Plan) -> list[str]:
    header = ["teacher", "grid", "channels", "values/image", "GMAC", "+attn", "GPU-h/view", "bf16 cosine"]
    rows = [
        [
            row.teacher,
            _grid(row.grid),
            f"{row.channels:,}",
            f"{row.values_per_image['teacher']:,}",
            _number(row.gmac),
            _number(row.gmac_with_attention),
            _number(row.gpu_hours),
            "not measured" if row.bf16_cosine is None else f"{row.bf16_cosine:.5f}",
        ]
        for row in plan.rows
    ]
    values = sum(row.values_per_image["teacher"] for row in plan.rows)
    work = (sum(row.gmac for row in plan.rows), sum(row.gmac_with_attention for row in plan.rows))
    total = ["all", "", "", f"{values:,}", *map(_number, (*work, plan.teacher_gpu_hours_per_view)), ""]
    return aligned([header, *rows, total], left=2)


def _sizes(plan: Plan) -> list[str]:
    """Bytes of all views by teacher and codec, on each grid."""
    labels = list(plan.rows[0].bytes_per_image["teacher"])
    rows = [["all views", "grid", "values", *labels]]
    for grid in plan.rows[0].bytes_per_image:
        of_grid = [(row, row.bytes_per_image[grid]) for row in plan.rows]
        for row, sizes in of_grid:
            rows.append(
                _sizes_cells(plan, row.teacher, _stored(row, grid), row.values_per_image[grid], sizes)
            )
        values = sum(row.values_per_image[grid] for row in plan.rows)
        total = {label: sum(sizes[label] for _, sizes in of_grid) for label in labels}
        rows.append(_sizes_cells(plan, f"all, {grid}'s grid", "", values, total))
    return aligned(rows, left=2)


def _sizes_cells(plan: Plan, name: str, grid: str, values: int, sizes: dict[str, int]) -> list[str]:
    return [name, grid, f"{values:,}", *(format_bytes(size * plan.samples) for size in sizes.values())]


def _stored(row: TeacherRow, grid: str) -> str:
    return _grid(row.student_grid if grid == "student" and row.student_grid else row.grid)


def _student(plan: Plan) -> list[str]:
    header = ["student", "GMAC", "+attn", "adapters", "step", "GPU-h/epoch", "images/s", "decode budget GMAC"]
    row = [
        "stage 1",
        *map(_number, (plan.student_gmac, plan.student_gmac_with_attention, plan.adapters_gmac)),
        *map(_number, (plan.step_gmac, plan.student_gpu_hours_per_epoch, plan.images_per_s)),
        _number(plan.decode_budget_gmac),
    ]
    return aligned([header, row], left=1)


COLUMNS: tuple[tuple[str, Callable[[CodecRow], str]], ...] = (
    ("bits", lambda row: f"{row.bits_per_value:.2f}"),
    ("are", lambda row: row.source),
    ("MB/image", lambda row: _number(row.bytes_per_image / 1e6)),
    ("all views", lambda row: _size(row.terabytes)),
    ("GB/s", lambda row: _number(row.read_gb_per_s)),
    ("cores", lambda row: _number(row.cores_per_gpu)),
    ("GMAC", lambda row: _number(row.decode_gmac)),
    ("of step", lambda row: f"{row.decode_share:.1%}"),
    ("GPU-h/epoch", lambda row: _number(row.epoch_gpu_hours)),
    ("limit", lambda row: row.limit),
    ("epochs", lambda row: _epochs(row)),
)


def _codecs(plan: Plan) -> list[str]:
    rows = [
        [row.codec + (" *" if row is plan.chosen else ""), row.grid, *(show(row) for _, show in COLUMNS)]
        for row in plan.codecs
    ]
    return aligned([["codec", "grid", *(name for name, _ in COLUMNS)], *rows], left=2)


def _needs(plan: Plan) -> list[str]:
    """What the trainer needs of the node with the recipe's codec, and what the node has."""
    row, a = plan.chosen, plan.assume
    where = "read" if a.reach_gb_per_s == a.read_gb_per_s else "network"
    pairs = [
        (f"{where}, GB/s", row.read_gb_per_s, a.reach_gb_per_s),
        ("unpacking, cores/GPU", row.cores_per_gpu, a.cores_per_gpu),
        ("decoding, GMAC/image", row.decode_gmac, plan.decode_budget_gmac),
    ]
    header = [f"{plan.images_per_s:,.0f} images/s with {row.codec}", "needs", "has"]
    head, *lines = aligned([header, *([name, _number(n), _number(h)] for name, n, h in pairs)], left=1)
    return [head, *(f"{line}  {_verdict(n, h)}" for line, (_, n, h) in zip(lines, pairs, strict=True))]


def _verdict(needs: float, has: float) -> str:
    return "enough" if needs <= has * (1 + 1e-9) else f"short: {needs / has:.1f} times what there is"


def _advice(plan: Plan) -> list[str]:
    """Which of the two ways is cheaper for this many epochs, said plainly."""
    chosen, live, cached = plan.chosen, plan.live_gpu_hours, plan.cached_gpu_hours
    costs = f"live teachers {_number(live)} GPU-hours, cache {_number(cached)}"
    head = f"{plan.epochs:g} epochs: {costs};"
    if chosen.break_even_epochs is None:
        lines = [
            f"{head} live teachers are faster however many epochs there are:",
            f"{chosen.limit} {plan.codec} takes longer than the teachers; it must be read at "
            f"{_number(chosen.pays_above_gb_per_s)} GB/s or faster for the cache to pay",
        ]
    elif cached >= live:
        lines = [f"{head} live teachers are cheaper below {_epochs(chosen)} epochs (over all runs)"]
    else:
        lines = [f"{head} the cache pays from {_epochs(chosen)} epochs (over all runs)"]
    return lines + _prices(plan) + _ceilings(plan)


def _prices(plan: Plan) -> list[str]:
    if plan.usd is None:
        return []
    said = {"live": "live teachers", "cached": "from the cache", "storage_per_month": "storage, a month"}
    return ["USD: " + ", ".join(f"{said[name]} {plan.usd[name]:,.0f}" for name in said if name in plan.usd)]


def _ceilings(plan: Plan) -> list[str]:
    """Where the teachers' own precision makes the asked fidelity meaningless."""
    asked = float(plan.codec.partition(" ")[2] or 0)
    return [
        f"{row.teacher} in bf16 and in fp32 agree to {row.bf16_cosine:.5f}, fidelity {asked:g} is above that"
        for row in plan.rows
        if row.bf16_cosine is not None and row.bf16_cosine < asked
    ]


def _foot(plan: Plan) -> list[str]:
    a = plan.assume
    network = f", over a network of {a.network_gb_per_s:g}" if a.network_gb_per_s else ""
    lines = [
        f"*: the recipe's. GPU-hours at {a.tflops:g} TFLOPS x {a.utilisation:g}; {a.gpus} GPUs, "
        f"{a.cores_per_gpu:g} cores each, together read {a.read_gb_per_s:g} GB/s{network}.",
        "GMAC as papers count them, +attn with the attention products; of a codec: to decode an image. "
        "cores: per GPU.",
        "limit: what bounds an epoch from the cache; epochs: from how many on the cache pays, over all runs.",
        "bits: exact (before a lossless stage), of --measured, scaled from those, or of a table (hard maps).",
    ]
    if any(row.bf16_cosine is None for row in plan.rows):
        lines.append("bf16 cosine (no fidelity above it means anything): add --measure-bf16 8 to measure it.")
    return lines


def _epochs(row: CodecRow) -> str:
    return "never" if row.break_even_epochs is None else f"{math.ceil(row.break_even_epochs - 1e-9)}"


def _grid(grid: Sequence[int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _size(terabytes: float) -> str:
    return format_bytes(terabytes * 1e12)
