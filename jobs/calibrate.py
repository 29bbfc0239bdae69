"""`calibrate`: give each teacher of a recipe its column and codec, and say what the cache will be like."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from jobs.cli import parse
from jobs.config import Recipe
from storage.config import Frozen

log = logging.getLogger(__name__)


class CalibrateOptions(Frozen):
    """Calibrate the codecs of a recipe's teachers and say what they give; `extract` else does it first."""

    cache: str
    """Folder or URL (s3://, gs://) of the cache."""
    dry_run: bool = False
    """Say what would be done, write nothing."""
    ray: str = ""
    """Address of a Ray cluster; default: RAY_ADDRESS, a running one, or a new one."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("calibrate", CalibrateOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    if options.dry_run:
        return dry_run(recipe, options)
    from jobs.ray_session import cluster
    from jobs.work import open_work

    work = open_work(recipe, options.cache)
    with cluster(options.ray):
        return run(recipe, options, work)


def dry_run(recipe: Recipe, options: CalibrateOptions) -> int:
    """Say which images would be read and which teachers calibrated."""
    from jobs.work import planned

    cache, segments, _ = planned(recipe, options.cache)
    there = len(cache.shards(view=0)) if cache else 0
    wanted = recipe.cache.codec.resolved().calibration_images
    images = sum(s.keys for s in segments if s.first_view == 0)
    images += sum(shard.rows for shard in cache.shards(view=0)) if there and cache else 0
    log.info(
        "would calibrate %s of %s on %d of %d images in %s, unless their columns are there",
        recipe.cache.codec.name,
        ", ".join(recipe.committee.teachers),
        min(wanted, images),
        images,
        options.cache,
    )
    return 0


def run(recipe: Recipe, options: CalibrateOptions, work: Any) -> int:
    """Register the columns, encode a batch in each of them, print a table, leave it in the cache's logs."""
    from jobs.calibration_table import format_calibration, teacher_rows
    from jobs.provenance import provenance
    from jobs.register import commit_calibration_images, register
    from jobs.workers import extraction_workers

    with extraction_workers(recipe, options.cache) as engine:
        registered = register(engine, recipe, work)
        shards = registered.shards or tuple(commit_calibration_images(engine, recipe, work))
        encoded = engine.call("encode_sample", shards[-1], registered.columns)
    rows = teacher_rows(recipe, work.cache, registered, encoded)
    summary = {**provenance(recipe, "calibrate"), "teachers": [row.as_json() for row in rows]}
    name = f"logs/calibrate-{time.strftime('%Y%m%dT%H%M%S')}.json"
    work.cache.store.replace(name, json.dumps(summary, indent=1).encode())
    sys.stdout.write("\n".join(format_calibration(recipe, rows)) + "\n")
    return 0
