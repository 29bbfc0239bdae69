"""How does a new column of a teacher take the place of older ones, and who may read meanwhile?

The new column is extracted beside the old ones, which go only when it is complete. A document says so from
the first shard to the last deletion: between the two nobody trains from either by mistake, and the same
command finishes what was begun.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage import layout
from storage.cache import Cache
from storage.errors import AmbiguousColumn, CacheError
from storage.identity import seal, unseal
from storage.layout import Column


@dataclass(frozen=True)
class Replacement:
    """A column that takes the place of others of its teacher."""

    new: Column
    old: tuple[Column, ...]
    """Those of them that are still there."""


def begin_replacing(cache: Cache, column: Column) -> Replacement | None:
    """Say that `column` takes the place of every other one of its teacher; None when there is no other.

    Saying it again, of another column too, is harmless: whatever else is there will go.
    """
    old = tuple(other for other in cache.every_feature_column() if _rivals(other, column))
    if not old:
        _forget(cache, column)
        return None
    names = [other.fingerprint for other in old]
    cache.store.replace(_path(column), seal({"new": column.fingerprint, "old": names}))
    return Replacement(column, old)


def finish_replacing(cache: Cache, column: Column) -> list[Column]:
    """Drop the columns that `column` replaces; those dropped. Nothing may read or write them meanwhile.

    Raises CacheError while `column` lacks a shard: the old ones are all there is of it.
    """
    found = replacement(cache, str(column.teacher))
    if found is None or found.new != column:
        return []
    if missing := cache.missing(column):
        raise CacheError(
            f"{column} lacks {len(missing)} shards and cannot replace {_named(found.old)} yet; "
            "run the same extract command again"
        )
    for old in found.old:
        cache.drop(old)
    _forget(cache, column)
    return list(found.old)


def replacement(cache: Cache, teacher: str) -> Replacement | None:
    """The replacement of a teacher's column that was begun and not finished. Raises CorruptObject."""
    path = layout.replacing_path(teacher)
    try:
        doc = unseal(cache.store.read(path), path)
    except FileNotFoundError:
        return None
    there = cache.every_feature_column()
    columns = [Column.features(teacher, name) for name in (doc["new"], *doc["old"])]
    old = tuple(column for column in columns[1:] if column in there)
    return Replacement(columns[0], old) if old and columns[0] in there else None


def refuse_half_replaced(cache: Cache, teacher: str) -> None:
    """Raise AmbiguousColumn, with all fingerprints, while a teacher's column is half replaced."""
    if found := replacement(cache, teacher):
        raise AmbiguousColumn(
            f"cache {cache.url}: {found.new} is about to replace {_named(found.old)} and has "
            f"{len(cache.committed(found.new))} of {len(cache.shards())} shards; finish it with the same "
            f"`extract ... --replace`, or give one up with `drop {cache.url} {teacher}/FINGERPRINT`"
        )


def drop_column(cache: Cache, column: Column) -> None:
    """Take a column out of a cache, and the word of a replacement that it ends. Nothing may write meanwhile.

    Raises CacheError for the images.
    """
    cache.drop(column)
    if replacement(cache, str(column.teacher)) is None:
        _forget(cache, column)


def _rivals(other: Column, column: Column) -> bool:
    return other != column and other.teacher == column.teacher


def _path(column: Column) -> str:
    return layout.replacing_path(str(column.teacher))


def _forget(cache: Cache, column: Column) -> None:
    cache.store.delete(_path(column))


def _named(columns: tuple[Column, ...]) -> str:
    return " and ".join(map(str, columns))
