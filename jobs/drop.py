"""`drop`: take one teacher's column out of a cache; images and other columns stay as they are."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.cli import parse
from jobs.errors import UsageError, suggestion
from storage.config import Frozen

if TYPE_CHECKING:
    from storage.cache import Cache
    from storage.layout import Column

log = logging.getLogger(__name__)


class DropOptions(Frozen):
    """Take one teacher's column out of a cache. Nothing may read or write it meanwhile."""

    cache: Annotated[str, tyro.conf.Positional]
    """Folder or URL of the cache."""
    column: Annotated[str, tyro.conf.Positional]
    """TEACHER, or TEACHER/FINGERPRINT where a teacher has several columns."""
    yes: bool = False
    """Do not ask."""


def main(argv: list[str]) -> int:
    """Command entry; exit code 1 when the question was answered with no."""
    options = parse("drop", DropOptions, argv, recipe=False).options
    from storage.cache import Cache
    from storage.replacing import drop_column
    from storage.text_table import format_bytes

    cache = Cache.open(options.cache)
    column = named_column(cache, options.column)
    shards, size = held(cache, column)
    log.info(
        "%s of %s: %d of %d shards, %s",
        column,
        cache.url,
        shards,
        len(cache.shards()),
        format_bytes(size),
    )
    if not options.yes and not confirmed(f"drop {column}?"):
        log.info("nothing was dropped")
        return 1
    drop_column(cache, column)
    log.info("dropped %s", column)
    return 0


def named_column(cache: Cache, name: str) -> Column:
    """The column that a user means by TEACHER or TEACHER/FINGERPRINT.

    Raises:
        UsageError: it is the images, there is none, or a teacher has several.
    """
    teacher, _, fingerprint = name.removeprefix("features/").partition("/")
    if teacher == "images":
        raise UsageError(
            f"every column of {cache.url} is made from its images, they cannot be dropped; delete the cache"
        )
    there = cache.every_feature_column()
    mine = [column for column in there if column.teacher == teacher]
    found = [column for column in mine if fingerprint in ("", column.fingerprint)]
    if not found:
        names = [f"{column.teacher}/{column.fingerprint}" for column in there]
        known = ", ".join(names) or "no teacher's column"
        raise UsageError(f"{cache.url} has no column {name}{suggestion(name, names)}; it has {known}")
    if len(found) > 1:
        ways = " or ".join(f"{teacher}/{column.fingerprint}" for column in found)
        raise UsageError(f"{cache.url} has {teacher} {len(found)} times; say {ways}")
    return found[0]


def held(cache: Cache, column: Column) -> tuple[int, int]:
    """Committed shards of a column, and bytes of all its files."""
    from storage import layout

    folders = (column.path, layout.commit_folder(column))
    paths = [path for folder in folders for path in cache.store.list(folder + "/")]
    names = [path.rpartition("/")[2] for path in paths if path.startswith(folders[1])]
    shards = sum(layout.committed_shard(name) is not None for name in names)
    return shards, sum(cache.store.size(path) for path in paths)


def confirmed(question: str) -> bool:
    """Ask on the terminal. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked; say --yes to drop it")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
