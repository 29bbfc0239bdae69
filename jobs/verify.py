"""`verify`: is every byte of a cache what was written, and is all there that should be?"""

from __future__ import annotations

import logging
import sys
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

    faults, unread = 0, False
    for url in options.caches:
        report = verify(url, options.depth, progress=show if sys.stderr.isatty() else None)
        tell(url, report)
        faults += len(report.problems)
        unread |= any(problem.kind == "unreadable" for problem in report.problems)
        if options.discard and report.problems:
            for done in discard_damage(Cache.open(url), report.problems):
                log.warning("%s: %s", url, done)
    if faults:
        raise IncompleteError(f"{faults} problems; {remedy(unread, options.discard)}")
    return 0


def remedy(unread: bool, discarded: bool) -> str:
    """What to do about problems; what could not be read may be sound, and is never discarded."""
    if unread:
        return "some objects could not be read: mend the access to them, then verify again"
    return "now extract again" if discarded else "discard the damage with --discard, then extract again"


def tell(url: str, report: VerifyReport) -> None:
    """Log what a verification found."""
    from storage.text_table import format_bytes

    for problem in report.problems[:SHOWN]:
        log.error("%s: %s", problem.path, problem.what)
    if len(report.problems) > SHOWN:
        log.error("... and %d more", len(report.problems) - SHOWN)
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
