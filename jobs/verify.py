"""`verify`: is every byte of a cache what was written, and is all there that should be?"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Literal

import tyro

from jobs.cli import parse
from jobs.errors import IncompleteError
from storage.config import Frozen

log = logging.getLogger(__name__)
SHOWN = 50


class VerifyOptions(Frozen):
    """Check every object of a cache and name what is wrong."""

    caches: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders or URLs of caches."""
    depth: Literal["commits", "checksums"] = "checksums"
    """commits: documents and sizes; checksums: every byte."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is damaged or missing."""
    options = parse("verify", VerifyOptions, argv, recipe=False).options
    if not options.caches:
        raise ValueError("verify needs a cache: python -m jobs verify CACHE [CACHE ...]")
    faults = sum(check(url, options.depth) for url in options.caches)
    if faults:
        raise IncompleteError(
            f"{faults} problems; extract again what is named (rerun the same extract command)"
        )
    return 0


def check(url: str, depth: Literal["commits", "checksums"]) -> int:
    """Verify one cache, print what was found, and return the number of problems."""
    from storage.inspect import format_bytes
    from storage.verify import verify

    report = verify(url, depth, progress=show if sys.stderr.isatty() else None)
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
    return len(report.problems)


def show(done: int, total: int) -> None:
    """One line that is overwritten, for a person."""
    sys.stderr.write(f"\r{done}/{total} commits" + ("\n" if done == total else ""))
