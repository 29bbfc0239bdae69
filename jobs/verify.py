"""`verify`: is every byte of a cache what was written, and is all there that should be?"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.cli import parse
from jobs.errors import IncompleteError
from storage.config import Frozen

if TYPE_CHECKING:
    from storage.verify import VerifyReport

log = logging.getLogger(__name__)
SHOWN = 50


class VerifyOptions(Frozen):
    """Check every object of a cache and name what is wrong."""

    caches: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders or URLs of caches."""
    depth: Literal["commits", "checksums"] = "checksums"
    """commits: documents and sizes; checksums: every byte."""
    discard: bool = False
    """Take damaged shards and columns out of the cache, so that extract makes them again. Nothing may write
    meanwhile."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is damaged or missing."""
    options = parse("verify", VerifyOptions, argv, recipe=False).options
    if not options.caches:
        raise ValueError("verify needs a cache: python -m jobs verify CACHE [CACHE ...]")
    from storage.cache import Cache
    from storage.mend import discard_damage
    from storage.verify import verify

    kinds: list[str] = []
    for url in options.caches:
        refuse_what_is_no_cache(url)
        report = verify(url, options.depth, progress=show if sys.stderr.isatty() else None)
        tell(url, report)
        kinds += [problem.kind for problem in report.problems]
        if options.discard and report.problems:
            for done in discard_damage(Cache.open(url), report.problems):
                log.warning("%s: %s", url, done)
    if kinds:
        raise IncompleteError(f"{len(kinds)} problems: {remedy(set(kinds), options.discard)}")
    return 0


def refuse_what_is_no_cache(url: str) -> None:
    """Raise MissingData for a place without a cache; a damaged one is for the report."""
    from storage.cache import Cache
    from storage.errors import CacheError, MissingData

    try:
        Cache.open(url)
    except MissingData:
        raise
    except (CacheError, OSError):
        return


def remedy(kinds: set[str], discarded: bool) -> str:
    """What to do about problems; what could not be read may be sound, and is never discarded."""
    if "unreadable" in kinds:
        return "some objects could not be read; mend the access to them, then verify again"
    if kinds == {"missing"}:
        return "the extraction is not finished; run the same extract command again"
    return "now extract again" if discarded else "discard the damage with --discard, then extract again"


def tell(url: str, report: VerifyReport) -> None:
    """Log what a verification found; shards that were never extracted in one line a column."""
    from storage.text_table import format_bytes

    missing = Counter(str(problem.column) for problem in report.problems if problem.kind == "missing")
    for column, count in sorted(missing.items()):
        log.error("%s: %d shards are not extracted yet", column, count)
    damage = [problem for problem in report.problems if problem.kind != "missing"]
    for problem in damage[:SHOWN]:
        log.error("%s: %s", problem.path, problem.what)
    if len(damage) > SHOWN:
        log.error("... and %d more", len(damage) - SHOWN)
    for note in report.notes:
        log.info("note: %s", note)
    counts = report.counts
    log.info(
        "%s: %s (%d columns, %d shard commits, %d objects, %s, %d samples)",
        url,
        "sound" if report.ok else f"{len(report.problems)} problems",
        counts["columns"],
        counts["shards"],
        counts["objects"],
        format_bytes(counts["bytes"]),
        counts["samples"],
    )


def show(done: int, total: int) -> None:
    """One line that is overwritten, for a person."""
    sys.stderr.write(f"\r{done}/{total} commits" + ("\n" if done == total else ""))
