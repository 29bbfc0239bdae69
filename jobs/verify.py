"""`verify`: is every byte of a cache what was written, is all there, and do the teachers still agree?"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field

from jobs.cli import parse
from jobs.device import Device
from jobs.errors import IncompleteError
from jobs.paths import place
from jobs.tally import Tally
from storage.config import Frozen

if TYPE_CHECKING:
    from storage.audit import Problem
    from storage.verify import VerifyReport

log = logging.getLogger(__name__)
SHOWN = 50


class VerifyOptions(Frozen):
    """Check every object of a cache and name what is wrong."""

    caches: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders or URLs of caches."""
    depth: Literal["commits", "checksums", "teachers"] = "checksums"
    """commits: documents and sizes; checksums: every byte; teachers: that, and the teachers run again on a
    sample of the cache and compared with what is decoded."""
    samples: int = Field(32, ge=1)
    """teachers: samples that are compared, drawn at random."""
    seed: int = Field(0, ge=0)
    """teachers: of the draw."""
    weights: str = ""
    """teachers: random:<seed>, pretrained, or a folder of weights; default: as the extractions named them."""
    tolerance: float = Field(0.002, ge=0, le=1)
    """teachers: how far a cosine may lie below the recorded minimum; 0.002 allows for maps that another GPU
    computes to a cosine of 0.9999."""
    device: Device = "auto"
    """teachers: CUDA if there is a GPU."""
    discard: bool = False
    """Take damaged shards and columns out of the cache, so that extract makes them again. Nothing may write
    meanwhile."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is damaged, missing or not what its teacher makes."""
    options = parse("verify", VerifyOptions, argv, recipe=False).options
    if not options.caches:
        raise ValueError("verify needs a cache: python -m jobs verify CACHE [CACHE ...]")
    from storage.cache import Cache
    from storage.mend import discard_damage
    from storage.verify import verify

    kinds: list[str] = []
    for url in options.caches:
        refuse_what_is_no_cache(url)
        depth = "checksums" if options.depth == "teachers" else options.depth
        report = verify(url, depth, progress=Tally("commits"))
        if options.depth == "teachers" and not report.whole:
            log.warning("%s: the teachers are not run, what there is of it is not sound", url)
        elif options.depth == "teachers":
            report.problems += teachers_against(Cache.open(url), options)
        tell(url, report)
        kinds += [problem.kind for problem in report.problems]
        if options.discard and report.problems:
            for done in discard_damage(Cache.open(url), report.problems):
                log.warning("%s: %s", url, done)
    if kinds:
        raise IncompleteError(f"{len(kinds)} problems: {remedy(set(kinds), options.discard)}")
    return 0


def teachers_against(cache: Any, options: VerifyOptions) -> list[Problem]:
    """Run the teachers on a sample, show what they and the cache agree on, return what they do not."""
    from jobs.device import pick_device
    from jobs.verify_teachers import Ask, compare

    device, weights = pick_device(options.device), options.weights
    if weights != "pretrained" and not weights.startswith("random:"):
        weights = place(weights)
    ask = Ask(options.samples, options.seed, weights, options.tolerance, device)
    checks, problems = compare(cache, ask)
    for check in checks:
        log.info(
            "%s level %d: %d samples, cosine min %.5f mean %.5f, recorded min %.5f",
            check.column,
            check.level,
            check.samples,
            check.lowest,
            check.mean,
            check.recorded,
        )
    return problems


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
    if kinds <= {"differs", "missing"}:
        return "every byte is what was written; if other hardware made them, --tolerance allows for more"
    if "unplaced" in kinds:
        return "a segment's document is lost; `repair` with the recipe and its source writes it again"
    if discarded:
        return "now extract again"
    return "make it again with `repair`, or discard the damage with --discard, then extract again"


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
