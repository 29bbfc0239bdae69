"""`extract`: run the frozen teachers once over the images, write the cache; rerun to do what is missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.cli import parse
from jobs.config import Recipe
from jobs.disk_space import bytes_of, warn_if_small
from jobs.errors import IncompleteError
from jobs.register import register
from jobs.work import Work, open_work, planned
from jobs.workers import extraction_workers
from storage.config import Frozen
from storage.layout import Column

log = logging.getLogger(__name__)


class ExtractOptions(Frozen):
    """Run the frozen teachers once over the images and write the cache; rerun to resume."""

    cache: str
    """Folder or URL (s3://, gs://) of the cache."""
    append: bool = False
    """Add the source's images that the cache does not hold as a new segment; nothing there is rewritten."""
    replace: bool = False
    """Once a teacher's new column is complete, drop its older ones."""
    dry_run: bool = False
    """Say what would be done, write nothing."""
    ray: str = ""
    """Address of a Ray cluster; default: RAY_ADDRESS, a running one, or a new one."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is missing at the end."""
    invocation = parse("extract", ExtractOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    if options.dry_run:
        return dry_run(recipe, options)
    work = open_work(recipe, options.cache, append=options.append)
    from jobs.ray_session import cluster

    with cluster(options.ray):
        return run(recipe, options, work)


def dry_run(recipe: Recipe, options: ExtractOptions) -> int:
    """Say what extraction would do."""
    from storage.segments import shard_count

    cache, new, left_out = planned(recipe, options.cache, append=options.append)
    shards = sum(shard_count(segment, recipe.cache.samples_per_shard) for segment in new)
    columns = f"1 + {len(recipe.committee.teachers)} columns"
    for segment in new:
        log.info(
            "would add segment %d: views %d to %d of %d images of source %s, in shards from %06d",
            segment.index,
            segment.first_view,
            segment.first_view + segment.views - 1,
            segment.keys,
            segment.source,
            segment.first_shard,
        )
    if left_out:
        log.info(
            "%d images of the source are in other segments of %s and are left out", left_out, options.cache
        )
    if cache is not None:
        log.info(
            "%d shards are there, %d lack images", len(cache.shards()), len(cache.missing(Column.images()))
        )
    log.info(
        "would write %d samples in %d shards of %s to %s; see also `plan`",
        sum(segment.keys * segment.views for segment in new),
        shards,
        columns,
        options.cache,
    )
    return 0


def run(recipe: Recipe, options: ExtractOptions, work: Work) -> int:
    """Register the columns, execute the missing shards, compact the commits, say what is missing."""
    with extraction_workers(recipe, options.cache) as engine:
        fill(engine, recipe, work, replace=options.replace)
    return 0


def fill(
    engine: Any, recipe: Recipe, work: Any, *, replace: bool = False, command: str = "extract"
) -> dict[str, Column]:
    """Have an engine's workers make every missing shard of their columns; the columns, complete.

    Args:
        work: the cache, the arguments of each shard and what of it is possible, as `Work` has them.
        replace: older columns of the same teachers go once the new ones are whole.
        command: whose summary is written to the cache's logs.

    Raises:
        IncompleteError: some shard is missing at the end; names them.
    """
    from pipeline.progress import Progress
    from pipeline.queue import Queue

    cache = work.cache
    columns = register(engine, recipe, work).columns
    if replace:
        tell_replacements(cache, columns)
    missing = missing_units(cache, columns)
    missing = {shard: missing[shard] for shard in work.possible(missing)}
    if command == "extract":
        warn_if_small(cache.url, bytes_of(recipe, cache, missing))
    queue = Queue(missing, max_tries=recipe.extract.max_tries)
    progress = Progress(len(missing), sum(cache.shard(shard).rows for shard in missing))
    log.info("%d shards to do on %s", len(missing), engine.workers(len(missing)))
    engine.prepare("use", columns)
    engine.run(queue, lambda shard: (work.entries(shard), missing[shard]), on_result=progress.add)
    progress.close()
    for column in (Column.images(), *columns.values()):
        cache.compact(column)
    summarise(recipe, work, columns, progress=progress, bad=queue.bad, command=command)
    refuse_gaps(recipe, work, missing_units(cache, columns), bad=queue.bad, stopped=engine.stopping)
    end_replacements(cache, columns, replace=replace)
    return columns


def tell_replacements(cache: Any, columns: Mapping[str, Column]) -> None:
    """Begin to replace the older columns of the teachers, and say which."""
    from storage.replacing import begin_replacing

    for column in columns.values():
        if found := begin_replacing(cache, column):
            old = ", ".join(map(str, found.old))
            log.info(
                "%s will replace %s once it is complete; nobody trains from either till then", column, old
            )


def end_replacements(cache: Any, columns: Mapping[str, Column], *, replace: bool) -> None:
    """Drop what the complete `columns` replace; without `replace`, refuse to leave one half replaced."""
    from storage.replacing import finish_replacing, refuse_half_replaced

    for column in columns.values():
        if replace:
            for old in finish_replacing(cache, column):
                log.info("dropped %s, which %s replaces", old, column)
        else:
            refuse_half_replaced(cache, str(column.teacher))


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


def summarise(
    recipe: Recipe,
    work: Any,
    columns: Mapping[str, Column],
    *,
    progress: Any,
    bad: Mapping[int, str],
    command: str,
) -> None:
    """Write the run's summary to the cache's logs; tell expected against committed."""
    from jobs.provenance import provenance

    cache, shards = work.cache, work.cache.shards()
    expected = len(shards) * (1 + len(columns))
    committed = sum(len(cache.committed(column)) for column in (Column.images(), *columns.values()))
    summary = {
        **provenance(recipe, command),
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
        f"logs/{command}-{time.strftime('%Y%m%dT%H%M%S')}.json", json.dumps(summary, indent=1).encode()
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


def refuse_gaps(
    recipe: Recipe,
    work: Any,
    missing: Mapping[int, Sequence[str]],
    *,
    bad: Mapping[int, str],
    stopped: bool,
) -> None:
    """Raise IncompleteError where shards are missing: those that could be made, then those that wait."""
    possible, waiting = set(work.possible(missing)), work.waiting(recipe.views.count)
    mine = {shard: teachers for shard, teachers in missing.items() if shard in possible}
    said = [_what_is_missing(mine, bad, stopped)] if mine else []
    if said or waiting:
        raise IncompleteError("; ".join([*said, *waiting]))


def _what_is_missing(missing: Mapping[int, Sequence[str]], bad: Mapping[int, str], stopped: bool) -> str:
    named = ", ".join(f"{shard:06d}" for shard in list(missing)[:20]) + (" ..." if len(missing) > 20 else "")
    reasons = "; ".join(f"{shard:06d}: {reason}" for shard, reason in list(bad.items())[:5])
    why = "stopped by SIGTERM" if stopped else f"given up ({reasons})" if bad else "not committed"
    return f"{len(missing)} shards are missing ({named}): {why}; rerun the same command to resume"
