"""Is there room for a cache where it would go?"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.config import Recipe
from storage.text_table import format_bytes

log = logging.getLogger(__name__)


def free_bytes(url: str) -> int | None:
    """Bytes free on the disk of a folder, which need not exist yet; None for object stores."""
    if "://" in url and not url.startswith("file://"):
        return None
    folder = Path(url.removeprefix("file://")).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def bytes_of(recipe: Recipe, cache: Any, missing: Mapping[int, Sequence[str]]) -> float:
    """What writing the shards `missing` (shard -> teachers) will take, as the plan has it."""
    from jobs.register import student_size
    from pipeline.plan import PlanInput, plan

    student, epochs = student_size(recipe), recipe.stage1.epochs
    one = plan(PlanInput(1, recipe.views, recipe.committee, recipe.cache, student, epochs))
    crop = 1e12 * one.crops_terabytes / recipe.views.count
    sizes = {row.teacher: row.bytes_per_image[one.grid][one.codec] for row in one.rows}
    return sum(
        cache.shard(shard).rows * (crop + sum(sizes[teacher] for teacher in teachers))
        for shard, teachers in missing.items()
    )


def warn_if_small(url: str, wanted: float) -> bool:
    """Say so, with both numbers, where fewer bytes are free than `wanted`; whether that is so."""
    free = free_bytes(url)
    if free is None or wanted <= free:
        return False
    log.warning(
        "%s needs about %s and its disk has %s free; free some, choose a cheaper cache.codec or grid, or "
        "name another place",
        url,
        format_bytes(wanted),
        format_bytes(free),
    )
    return True
