"""How does each teacher of a recipe get its column: found in the cache, or calibrated on all workers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs.config import Recipe
from jobs.errors import IncompleteError
from storage.layout import Column

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """The recipe's columns, and what calibrating the new ones took."""

    columns: dict[str, Column]
    """By teacher, in the recipe's order."""
    new: tuple[str, ...]
    """Teachers that were calibrated now."""
    shards: tuple[int, ...]
    """Shards that hold the calibration's samples; their images are committed."""
    images: int
    """Samples of the calibration."""
    tokens: Mapping[str, int]
    """New teacher -> tokens that its codec's statistics are of."""


def register(engine: Any, recipe: Recipe, work: Any) -> Registered:
    """Make each teacher's column known to the cache; where it is new, calibrate its codec first.

    Raises:
        IncompleteError: a shard that calibration needs was given up, or SIGTERM came; names it.
    """
    codec, cache = recipe.cache.codec, work.cache
    described, libraries = engine.call("describe")
    fingerprints = {
        name: cache.column_fingerprint(it.identity, codec, it.shapes) for name, it in described.items()
    }
    known = set(cache.columns())
    new = tuple(name for name, found in fingerprints.items() if Column.features(name, found) not in known)
    tokens: dict[str, int] = {}
    shares: dict[int, Any] = {}
    merged: Any = None
    if new:
        budgets = decode_budgets_of(recipe, described)
        shares = commit_calibration_images(engine, recipe, work)
        merged = calibrate(engine, recipe, cache, shares, {name: budgets[name] for name in new})

    def finish(name: str) -> Any:
        start, tokens[name] = time.monotonic(), merged.tokens(name)
        stats = merged.finish(name)
        log.info("%s: codec found in %.0f s", name, time.monotonic() - start)
        return stats

    # one after the other: a run that is ended here keeps the columns that were found
    columns = {
        name: cache.register(name, it.identity, codec, it.shapes, partial(finish, name), libraries)
        for name, it in described.items()
    }
    return Registered(columns, new, tuple(shares), sum(share.samples for share in shares.values()), tokens)


def decode_budgets_of(recipe: Recipe, described: Mapping[str, Any]) -> dict[str, float]:
    """teacher -> multiply-adds, 1e9, that decoding its maps of one image may cost the trainer."""
    from pipeline.macs import decode_budgets

    values = {name: sum(c * h * w for c, h, w in it.shapes) for name, it in described.items()}
    step = step_of(recipe, [it.shapes[-1][0] for it in described.values()])
    return decode_budgets(values, asked_gmac=recipe.cache.codec.decode_gmac_per_image, step=step)


def step_of(recipe: Recipe, widths: Sequence[int]) -> int:
    """Multiply-adds of one image of the student's training step, for teachers of these widths."""
    from pipeline.macs import step_macs

    return step_macs(student_size(recipe), recipe.views.size, widths)


def student_size(recipe: Recipe) -> Any:
    """What of the recipe's student decides its cost."""
    from pipeline.macs import StudentSize
    from student.archs import arch_of

    arch = arch_of(recipe.student.arch)
    return StudentSize(arch.width, arch.depth, arch.patch, recipe.student.adapter_reduction)


def commit_calibration_images(engine: Any, recipe: Recipe, work: Any) -> dict[int, Any]:
    """Shard -> its portion of the calibration's samples; the images of those shards are committed."""
    from pipeline.calibrate import portions, uncommitted_shards

    wanted, cache = recipe.cache.codec.resolved().calibration_images, work.cache
    # a shard may turn out to hold quarantined images: then more shards are needed
    while shards := uncommitted_shards(cache, wanted):
        execute(engine, recipe, cache, {shard: (work.entries(shard),) for shard in shards}, method="images")
    shares = portions(cache, wanted)
    found = sum(share.samples for share in shares.values())
    if found < wanted:
        log.warning(
            "calibrating on all %d images that there are; cache.codec.calibration_images asks for %d",
            found,
            wanted,
        )
    return shares


def calibrate(
    engine: Any, recipe: Recipe, cache: Any, shares: Mapping[int, Any], budgets: Mapping[str, float]
) -> Any:
    """The merged calibrators of the teachers in `budgets`."""
    from pipeline.calibrate import Merged

    merged = Merged(list(shares))
    units = {shard: (share, budgets) for shard, share in shares.items()}
    execute(
        engine,
        recipe,
        cache,
        units,
        method="calibrate",
        on_result=lambda part: merged.add(part.shard, part.calibrators),
    )
    return merged


def execute(
    engine: Any,
    recipe: Recipe,
    cache: Any,
    units: Mapping[int, tuple[Any, ...]],
    *,
    method: str,
    on_result: Callable[[Any], None] = lambda _: None,
) -> None:
    """Have the workers call `method` for every unit (shard -> its further arguments).

    Raises:
        IncompleteError: a unit was given up, or SIGTERM came.
    """
    from pipeline.progress import Progress
    from pipeline.queue import Queue

    # one unit a worker: the partial sums of a unit are large, and a worker that dies loses one
    queue = Queue(units, max_tries=recipe.extract.max_tries, in_flight=1)
    progress = Progress(len(units), sum(cache.shard(shard).rows for shard in units), what=method)

    def finished(result: Any) -> None:
        progress.add(result)
        on_result(result)

    engine.run(queue, units.__getitem__, method=method, on_result=finished)
    progress.close()
    if queue.bad:
        shard, reason = min(queue.bad.items())
        raise IncompleteError(
            f"calibration needs shard {shard:06d}, which was given up: {reason}; mend that and rerun the "
            "same command"
        )
    if not queue.finished:
        raise IncompleteError("stopped by SIGTERM while calibrating; rerun the same command to resume")
