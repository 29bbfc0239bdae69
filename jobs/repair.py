"""`repair`: verify a cache, take out exactly what is damaged, make it again, verify what was made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.cli import parse
from jobs.config import Recipe
from jobs.errors import IncompleteError
from jobs.work import Work, photos_of
from storage.config import Frozen
from storage.layout import Column

if TYPE_CHECKING:
    from storage.cache import Cache
    from storage.mend import Damage
    from storage.verify import VerifyReport

log = logging.getLogger(__name__)


class RepairOptions(Frozen):
    """Find what is damaged or missing in a cache and make exactly that again. Nothing may use it meanwhile.

    The recipe is the one that the cache was extracted with; its source is needed where images are damaged.
    """

    cache: str
    """Folder or URL of the cache."""
    dry_run: bool = False
    """Say what would be done, write nothing."""
    ray: str = ""
    """Address of a Ray cluster; default: RAY_ADDRESS, a running one, or a new one."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 0 when the cache is sound at the end (in a dry run: as it is)."""
    invocation = parse("repair", RepairOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from jobs.workers import extraction_workers

    @contextmanager
    def workers(asked: Recipe) -> Iterator[Any]:
        from jobs.ray_session import cluster

        with cluster(options.ray), extraction_workers(asked, options.cache) as engine:
            yield engine

    return repair(recipe, options, workers)


def repair(recipe: Recipe, options: RepairOptions, workers: Any) -> int:
    """Do it; `workers` gives, for a recipe, a context manager of the engine that extracts with it.

    Raises:
        IncompleteError: something is not sound at the end; says what, and why.
        ValueError: images are damaged and their source is not named, or a document cannot be mended.
    """
    from jobs.remake import remake
    from jobs.repair_documents import mend_documents
    from jobs.tally import Tally
    from jobs.verify import tell
    from storage.cache import Cache
    from storage.mend import Damage, restore_derived
    from storage.verify import verify

    mended = mend_documents(recipe, options.cache, dry_run=options.dry_run)
    say(mended, options)
    if mended and options.dry_run:
        log.info("nothing else can be looked at before that is done")
        return 1
    report = verify(options.cache, "checksums", Tally("commits"))
    tell(options.cache, report)
    if report.ok:
        log.info("%s is sound: nothing to repair", options.cache)
        return 0
    refuse_what_is_unclear(report)
    cache, damage = Cache.open(options.cache), Damage.of(report.problems)
    say(told(damage), options)
    if not options.dry_run:
        # compactions hold nothing of their own, and are read before commits
        damage.of_files().take_out(cache)
    lacking = to_make(cache, report, damage)
    photos = photos_for(recipe, cache, lacking.get(Column.images(), set()))
    if options.dry_run:
        for column, shards in lacking.items():
            log.info("would make %d shards of %s", len(shards), column)
        return 1
    damage.take_out_shards(cache)
    before = shards_of(options.cache)
    unfit = remake(recipe, options.cache, damage.columns, photos=photos, workers=workers)
    restore_derived(Cache.open(options.cache))
    verify_again(options.cache, shards_of(options.cache) - before, unfit)
    return 0


def told(damage: Damage) -> list[str]:
    """A phrase for each thing that goes or is written anew."""
    anew = (f"calibrated again {column}: its codec cannot be read" for column in damage.columns)
    return [*anew, *replace(damage, columns=()).told()]


def say(phrases: Sequence[str], options: RepairOptions) -> None:
    """Log what was done, or would have been."""
    for phrase in phrases:
        log.warning("%s%s", "to be " if options.dry_run else "", phrase)


def refuse_what_is_unclear(report: VerifyReport) -> None:
    """Raise IncompleteError where taking something out could cost what is sound."""
    from jobs.verify import remedy

    unclear = {problem.kind for problem in report.problems} & {"unreadable", "unplaced"}
    if unclear:
        raise IncompleteError(f"nothing was taken out: {remedy(unclear, False)}")


def photos_for(recipe: Recipe, cache: Cache, shards: set[int]) -> dict[str, Any]:
    """Source -> its photos, for the sources of these shards; nothing is listed where there are none.

    Raises CacheError, before anything is taken out, where a source is not named.
    """
    from jobs.work import listed
    from storage.errors import CacheError
    from storage.segments import describe, segments_by_source

    if not shards:
        return {}
    photos = photos_of(cache, listed(recipe)) if recipe.source.path else {}
    held, work = segments_by_source(cache.segments), Work(cache, photos)
    for shard in sorted(shards):
        if (source := work.source_of(shard)) not in photos:
            named = recipe.source.path or "no source is named"
            raise CacheError(
                f"images of shard {shard:06d} of {cache.url} have to be made from "
                f"{describe({source: held[source]})}, and {named}; name it with --source.path: nothing was "
                "taken out"
            )
    return photos


def to_make(cache: Cache, report: VerifyReport, damage: Damage) -> dict[Column, set[int]]:
    """Column -> shards of it that are missing once the damage is out; images first."""
    found: dict[Column, set[int]] = {Column.images(): set(damage.images)}
    for problem in report.problems:
        if problem.kind == "missing" and problem.column and problem.shard is not None:
            found.setdefault(problem.column, set()).add(problem.shard)
    for column, shard in damage.shards:
        found.setdefault(column, set()).add(shard)
    for column in cache.every_feature_column():
        found.setdefault(column, set()).update(found[Column.images()])
    return {column: shards for column, shards in found.items() if shards}


def shards_of(url: str) -> set[tuple[Column, int]]:
    """Every committed (column, shard)."""
    from storage.cache import Cache

    cache = Cache.open(url)
    return {(column, shard) for column in cache.columns() for shard in cache.committed(column)}


def verify_again(url: str, made: set[tuple[Column, int]], unfit: Sequence[str]) -> None:
    """Verify every byte of what was made. Raises IncompleteError unless the cache is sound."""
    from jobs.tally import Tally
    from jobs.verify import tell
    from storage.verify import verify

    report = verify(url, "checksums", Tally("commits"), only=made)
    tell(url, report)
    if unfit or not report.ok:
        left = [*unfit, *(f"{problem.path}: {problem.what}" for problem in report.problems[:3])]
        raise IncompleteError(f"{url} is not sound yet: {'; '.join(left)}")
    log.info("%s is sound: %d shards were made and verified", url, len(made))
