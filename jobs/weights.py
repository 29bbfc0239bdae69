"""`weights`: stage the teachers' weights once, so that every worker runs offline and from the same bytes."""

from __future__ import annotations

import logging
from pathlib import Path

from jobs.cli import parse
from storage.config import Frozen

log = logging.getLogger(__name__)


class WeightsOptions(Frozen):
    """Download (or take from files) the weights of a recipe's committee into a folder, with digests."""

    dir: Path
    """Folder to stage into; use it as committee.weights afterwards."""


def main(argv: list[str]) -> int:
    """Command entry: `weights RECIPE --dir DIR [--committee.teachers ...]`."""
    invocation = parse("weights", WeightsOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from pipeline.teachers.weights import stage_weights

    staged = stage_weights(recipe.committee.teachers, options.dir, source=recipe.committee.weights)
    for name, digest in staged.items():
        log.info("%-16s %s", name, digest)
    log.info("use them with --committee.weights %s", options.dir)
    return 0
