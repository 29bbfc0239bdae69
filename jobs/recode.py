"""`recode`: write a cache again with another codec, fidelity, grid or container; no teacher runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.cli import parse
from jobs.config import Recipe
from jobs.errors import UsageError
from storage.config import Frozen
from storage.layout import Column

if TYPE_CHECKING:
    from pipeline.recode import RecodeJob
    from storage.cache import Cache

log = logging.getLogger(__name__)


class RecodeOptions(Frozen):
    """Write a cache again as the recipe's [cache] section says, without running a teacher; rerun to resume.

    The recipe's teachers are recoded, as far as the cache holds them.
    """

    cache: str
    """Folder or URL of the cache that is read."""
    out: str
    """Folder or URL of the cache that is written; the same one gets the new columns beside the old."""
    replace: bool = False
    """Once a teacher's new column is complete, drop its older ones from `out`."""
    ray: str = ""
    """Address of a Ray cluster; default: RAY_ADDRESS, a running one, or a new one."""


@dataclass(frozen=True)
class Recoding:
    """What is read, what is written, and how."""

    source: Cache
    cache: Cache
    """The one that is written."""
    sources: Mapping[str, Column]
    """Teacher -> the column of the source that is recoded or copied."""
    grid: tuple[int, int] | None
    """The student's, where larger maps are pooled to it."""

    def entries(self, shard: int) -> None:
        """Nothing more is needed to make a shard."""

    def possible(self, shards: Iterable[int]) -> list[int]:
        """All of them: the source is complete."""
        return list(shards)

    def waiting(self, views: int) -> list[str]:
        """Nothing is waited for."""
        return []


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when anything is missing at the end."""
    invocation = parse("recode", RecodeOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    work = open_recoding(recipe, options.cache, options.out)
    from jobs.ray_session import cluster

    with cluster(options.ray):
        return run(recipe, options, work)


def run(recipe: Recipe, options: RecodeOptions, work: Recoding) -> int:
    """Recode every shard that is missing; say what it cost."""
    from jobs.extract import fill
    from jobs.workers import engine_of
    from pipeline.recode import RecodeWorker

    def job(device: str, threads: int) -> RecodeJob:
        return make_job(recipe, work, device=device, threads=threads)

    with engine_of(recipe, RecodeWorker, job) as engine:
        columns = fill(engine, recipe, work, replace=options.replace, command="recode")
    for line in told(work, columns):
        log.info("%s", line)
    return 0


def open_recoding(recipe: Recipe, source_url: str, url: str) -> Recoding:
    """Both caches, and the column of each teacher that is read; segments and copied columns are written.

    Raises:
        ValueError: the source is not complete, or holds no such teacher, or several columns of one; shard
            size, views or JPEG settings differ; a pooled grid is asked to grow; names the values.
    """
    from jobs.workers import stored_grid
    from storage.cache import Cache
    from storage.manifest import Invariants, refuse_difference
    from storage.recoding import copy_registration, copy_segments, require_complete

    source, grid = Cache.open(source_url), stored_grid(recipe)
    asked = Invariants.of(recipe.views, recipe.cache)
    here = source_url == url
    kept = asked if here else asked.model_copy(update={"container": source.invariants.container})
    refuse_difference(source_url, source.invariants, kept)
    sources = {name: source_column(name, recipe, source, here=here) for name in teachers_of(recipe, source)}
    require_complete(source, list(sources.values()))
    target = source if here else copy_segments(source, Cache.create(url, asked))
    work = Recoding(source, target, sources, grid)
    for column in () if here else sources.values():
        if is_copied(source, column, recipe, grid):
            copy_registration(source, column, target)
    return work


def make_job(recipe: Recipe, work: Recoding, *, device: str, threads: int) -> RecodeJob:
    """What the workers need to know."""
    from pipeline.recode import RecodeJob, recoded
    from pipeline.worker import Described

    described = {}
    for name, column in work.sources.items():
        doc = work.source.teacher_doc(column)
        same = is_copied(work.source, column, recipe, work.grid)
        shapes = tuple(tuple(shape) for shape in doc["shapes"])
        described[name] = (
            Described(doc["identity"], shapes) if same else recoded(work.source, column, work.grid)
        )
    return RecodeJob(
        source=work.source.url,
        target=work.cache.url,
        sources=dict(work.sources),
        described=described,
        codec=recipe.cache.codec,
        grid=work.grid,
        batch_size=recipe.extract.batch_size,
        device=device,
        threads=threads,
    )


def teachers_of(recipe: Recipe, source: Cache) -> list[str]:
    """The recipe's teachers that the source holds. Raises UsageError when these are none."""
    held = {str(column.teacher) for column in source.columns() if not column.is_images}
    chosen = [name for name in recipe.committee.teachers if name in held]
    if not chosen:
        raise UsageError(
            f"cache {source.url} holds {', '.join(sorted(held)) or 'no teacher'}, the recipe asks "
            f"{', '.join(recipe.committee.teachers)}; set committee.teachers to those to be recoded"
        )
    for name in sorted(held.symmetric_difference(recipe.committee.teachers)):
        why = "the recipe does not ask for it" if name in held else "the cache does not hold it"
        log.info("%s is left out: %s", name, why)
    return chosen


def source_column(name: str, recipe: Recipe, source: Cache, *, here: bool) -> Column:
    """The column of a teacher that is read: one that has the codec already, else the one that was extracted.

    Args:
        here: columns are added to the same cache: then one that has the codec already is what is made.

    Raises:
        ValueError: there is none, or several; its maps were pooled and are asked unpooled.
    """
    from jobs.cache_columns import differences, fitting_columns
    from jobs.workers import stored_grid
    from storage.errors import AmbiguousColumn
    from storage.replacing import refuse_half_replaced

    grid, fitting = stored_grid(recipe), fitting_columns(name, recipe, source)
    if not here:
        refuse_half_replaced(source, name)
    same = [column for column in fitting if is_copied(source, column, recipe, grid)]
    others = [column for column in fitting if column not in same]
    first = [column for column in others if "recoded_from" not in source.teacher_doc(column)["identity"]]
    for candidates in (others, first) if here else (same, others, first):
        if len(candidates) == 1:
            refuse_growth(source, candidates[0], recipe)
            return candidates[0]
    if here and not others:
        raise UsageError(f"{', '.join(map(str, same))} of {source.url} has that codec and grid already")
    raise AmbiguousColumn(
        f"cache {source.url} holds {name} {len(fitting)} times: {differences(source, fitting)}; drop those "
        "that are not meant"
    )


def is_copied(source: Cache, column: Column, recipe: Recipe, grid: tuple[int, int] | None) -> bool:
    """Whether a column's records are already as the recipe asks for them."""
    from pipeline.grid import pooled_shapes

    doc = source.teacher_doc(column)
    shapes = tuple(tuple(shape) for shape in doc["shapes"])
    codec = recipe.cache.codec.model_dump(mode="json")
    return bool(doc["codec"] == codec and pooled_shapes(shapes, grid) == shapes)


def refuse_growth(source: Cache, column: Column, recipe: Recipe) -> None:
    """Raise UsageError where pooled maps are asked to be on the teacher's grid again."""
    if source.teacher_doc(column)["codec"].get("grid") == "student" and recipe.cache.codec.grid == "teacher":
        raise UsageError(
            f"{column} of {source.url} was pooled to the student's grid, the recipe asks cache.codec.grid = "
            "teacher; pooling cannot be undone: extract that teacher again, or set it to student"
        )


def told(work: Recoding, columns: Mapping[str, Column]) -> Iterable[str]:
    """A line for each teacher: what its new column keeps, of the old one and of the teacher."""
    from storage.recoding import lowest_fidelity

    for name, column in columns.items():
        origin = work.cache.teacher_doc(column)["identity"].get("recoded_from")
        if origin is None or origin["fingerprint"] != work.sources[name].fingerprint:
            yield f"{column}: the records of {work.sources[name]} of {work.source.url}, byte for byte"
            continue
        levels = [lv.min for c in work.cache.committed(column).values() for lv in c.fidelity or ()]
        yield (
            f"{column}: cosine of at least {min(levels, default=1.0):.5f} to {work.sources[name]}, which "
            f"has at least {origin['min_fidelity']:.5f} to the teacher's maps; together the angles add up to "
            f"{lowest_fidelity(work.cache, column):.5f} at worst"
        )
