"""`extract`: run the frozen teachers once over the images, write the cache; rerun to do what is missing."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.cli import parse
from jobs.config import Recipe
from jobs.errors import IncompleteError
from storage.config import Frozen
from storage.layout import Column

log = logging.getLogger(__name__)


class ExtractOptions(Frozen):
    """Run the frozen teachers once over the images and write the cache; rerun to resume."""

    cache: str
    """Folder or URL (s3://, gs://) of the cache."""
    dry_run: bool = False
    """Say what would be done, write nothing."""
    ray: str = ""
    """Address of a Ray cluster; default: RAY_ADDRESS, a running one, or a new one."""


@dataclass(frozen=True)
class Work:
    """The cache, the photos of each shard, and what is wanted of them."""

    cache: Any
    index: pa.Table | None
    """The source's photos; None where the images column is complete and no source is named."""
    order: Any

    def entries(self, shard: int) -> pa.Table:
        """The photos of a shard, in row order."""
        if self.index is None:
            return pa.table({})
        spec = self.cache.shard(shard)
        return self.index.take(self.order[spec.first : spec.first + spec.rows])


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is missing at the end."""
    invocation = parse("extract", ExtractOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    if options.dry_run:
        return dry_run(recipe, options)
    work = open_work(recipe, options.cache)
    from jobs.ray_session import cluster

    with cluster(options.ray):
        return run(recipe, options, work)


def open_work(recipe: Recipe, url: str) -> Work:
    """List the source, create or open the cache, add the segment.

    Without a source, a cache whose images are complete gets more teachers from its own images.
    """
    from pipeline.sources import open_source
    from storage.cache import Cache
    from storage.manifest import Invariants

    if not recipe.source.path and (cache := complete_images(recipe, url)) is not None:
        return Work(cache, None, None)
    source = open_source(recipe.source)
    start = time.monotonic()
    index = source.index()
    log.info(
        "source %s: %d images, listed in %.1f s", recipe.source.path, len(index), time.monotonic() - start
    )
    cache = Cache.create(url, Invariants.of(recipe.views, recipe.cache))
    segment = cache.add_segment(source.fingerprint(), keys=len(index), views=recipe.views.count)
    return Work(cache, index, segment.permutation())


def complete_images(recipe: Recipe, url: str) -> Any:
    """The cache at `url` if there is one that has all images of the recipe's views, else None."""
    from storage.cache import Cache
    from storage.errors import MissingData
    from storage.manifest import Invariants

    try:
        Cache.open(url)
    except MissingData:
        return None
    cache = Cache.create(url, Invariants.of(recipe.views, recipe.cache))
    views = len({shard.view for shard in cache.shards()})
    return cache if recipe.views.count <= views and not cache.missing(Column.images()) else None


def dry_run(recipe: Recipe, options: ExtractOptions) -> int:
    """Print what extraction would do."""
    from pipeline.sources import open_source

    keys = len(open_source(recipe.source).index())
    shards = -(-keys // recipe.cache.samples_per_shard) * recipe.views.count
    log.info(
        "would write %d samples (%d images x %d views) in %d shards of 1 + %d columns to %s; see also `plan`",
        keys * recipe.views.count,
        keys,
        recipe.views.count,
        shards,
        len(recipe.committee.teachers),
        options.cache,
    )
    return 0


def run(recipe: Recipe, options: ExtractOptions, work: Work) -> int:
    """Register the columns, execute the missing shards, compact the commits, say what is missing."""
    from pipeline.calibrate import calibration_shards
    from pipeline.engine import Engine, slots_for
    from pipeline.progress import Progress
    from pipeline.queue import Queue
    from pipeline.worker import ExtractionJob

    ask, cache = recipe.extract, work.cache
    slots = slots_for(device=ask.device, actors=ask.actors, cpus_per_actor=ask.cpus_per_actor)
    job = ExtractionJob(
        options.cache,
        recipe.source,
        recipe.views,
        recipe.committee,
        recipe.cache.codec,
        ask,
        slots.device,
        slots.cpus,
    )
    engine = Engine(job, slots, stall_timeout_s=ask.stall_timeout_s)
    try:
        wanted = calibration_shards(cache, recipe.cache.codec.resolved().calibration_images)
        columns = engine.register({shard: work.entries(shard) for shard in wanted})
        missing = missing_units(cache, columns)
        queue = Queue(missing, max_tries=ask.max_tries)
        progress = Progress(len(missing), sum(cache.shard(shard).rows for shard in missing))
        log.info(
            "%d shards to do on %d workers (%s)", len(missing), min(slots.actors, len(missing)), slots.device
        )
        with stop_on_sigterm(engine):
            engine.run(queue, lambda shard: (work.entries(shard), missing[shard]), on_result=progress.add)
        progress.close()
    finally:
        engine.close()
    for column in (Column.images(), *columns.values()):
        cache.compact(column)
    return conclude(recipe, cache, columns, progress=progress, bad=queue.bad, stopped=engine.stopping)


def missing_units(cache: Any, columns: Mapping[str, Column]) -> dict[int, list[str]]:
    """Shard -> teachers whose column misses it, for every shard that misses anything."""
    without_images = set(cache.missing(Column.images()))
    lacking = {name: set(cache.missing(column)) for name, column in columns.items()}
    return {
        shard.index: teachers
        for shard in cache.shards()
        if (teachers := [name for name in columns if shard.index in lacking[name]])
        or shard.index in without_images
    }


class stop_on_sigterm:
    """While entered, SIGTERM lets the shards in hand finish and starts no other."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._stop)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self, *_: object) -> None:
        log.warning("SIGTERM: finishing the shards in hand, then stopping")
        self._engine.stopping = True


def conclude(
    recipe: Recipe,
    cache: Any,
    columns: Mapping[str, Column],
    *,
    progress: Any,
    bad: Mapping[int, str],
    stopped: bool,
) -> int:
    """Write the run's summary; expected against committed; raise if anything is missing.

    Raises:
        IncompleteError: some shard of some column is not committed; names them.
    """
    from jobs.provenance import provenance

    shards = cache.shards()
    missing = missing_units(cache, columns)
    expected = len(shards) * (1 + len(columns))
    committed = sum(len(cache.committed(column)) for column in (Column.images(), *columns.values()))
    summary = {
        **provenance(recipe, "extract"),
        "shards_done": progress.done,
        "images": progress.rows,
        "quarantined": progress.quarantined,
        "bytes": progress.bytes,
        "teacher_forwards": progress.forwards,
        "seconds": progress.seconds,
        "committed": committed,
        "expected": expected,
        "bad": {f"{shard:06d}": reason for shard, reason in sorted(bad.items())},
    }
    cache.store.replace(
        f"logs/extract-{time.strftime('%Y%m%dT%H%M%S')}.json", json.dumps(summary, indent=1).encode()
    )
    if progress.done:
        log.info("worker time: %s", progress.where_time_went())
    log.info(
        "%d of %d shard commits are there; this run: %d images, %d teacher forwards, %.3f GB",
        committed,
        expected,
        progress.rows,
        progress.forwards,
        progress.bytes / 1e9,
    )
    if missing:
        raise IncompleteError(_what_is_missing(missing, bad, stopped))
    return 0


def _what_is_missing(missing: Mapping[int, Sequence[str]], bad: Mapping[int, str], stopped: bool) -> str:
    named = ", ".join(f"{shard:06d}" for shard in list(missing)[:20]) + (" ..." if len(missing) > 20 else "")
    reasons = "; ".join(f"{shard:06d}: {reason}" for shard, reason in list(bad.items())[:5])
    why = "stopped by SIGTERM" if stopped else f"given up ({reasons})" if bad else "not committed"
    return f"{len(missing)} shards are missing ({named}): {why}; rerun the same command to resume"
