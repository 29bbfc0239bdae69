"""How is a cache.json or a segment's document written again, once it is damaged or lost?

Neither is guessed. Every column's fingerprint is over the invariants too, so those that are asked for are the
cache's when each column confirms them. A segment's shards are committed with digests of their keys, so a
source is a segment's when its keys, in the segment's order, give every one of these digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa

from storage import layout, manifest
from storage.audit import ColumnAudit
from storage.column_folders import registered_columns
from storage.columns import column_fingerprint
from storage.commits import Commit
from storage.errors import CacheError, CorruptObject, MissingData
from storage.identity import sample_key, sha256, unseal
from storage.layout import Column
from storage.manifest import Invariants, Segment, keys_digest, segment_shards
from storage.segments import shard_count
from storage.store import Store


class Photos(NamedTuple):
    """The photos that a segment may hold."""

    source: str
    """Their fingerprint."""
    keys: Sequence[str]
    """Sorted."""


def mended_invariants(store: Store, asked: Invariants) -> bytes | None:
    """The bytes that cache.json must have, where it is damaged or lost; None where it is sound.

    Raises CacheError when no column confirms `asked`, or one contradicts it; MissingData where nothing is.
    """
    try:
        manifest.read_invariants(store.read(layout.INVARIANTS), layout.INVARIANTS)
    except CorruptObject as damage:
        why = damage.why
    except FileNotFoundError:
        if not store.list(layout.COMMITS + "/"):
            raise MissingData(f"{store.url} is no cache: it has neither cache.json nor commits") from None
        why = "it is gone"
    else:
        return None
    confirmed = 0
    for column in registered_columns(store):
        path = layout.teacher_path(column)
        try:
            doc = unseal(store.read(path), path)
        except CorruptObject:
            continue
        found = column_fingerprint(asked, doc["identity"], doc["codec"], doc["shapes"])
        if found != column.fingerprint:
            raise CacheError(
                f"{layout.INVARIANTS} of {store.url} is damaged ({why}), and with the recipe's views and "
                f"cache {column} would have fingerprint {found}: it was made with others; name the recipe "
                "that the cache was extracted with"
            )
        confirmed += 1
    if not confirmed:
        raise CacheError(
            f"{layout.INVARIANTS} of {store.url} is damaged ({why}), and no teacher's column is there to "
            "confirm what it said; extract into a new cache"
        )
    return manifest.write_invariants(asked)


class Segments(NamedTuple):
    """The documents of a cache's segments, as far as they are sound."""

    sound: dict[int, Segment]
    """By number."""
    lost: tuple[int, ...]
    """Numbers of those that are damaged or gone, as far as others or commits tell that they were there."""
    images: dict[int, Commit]
    """Shard -> commit of its images, those that are sound."""

    def held_keys(self, store: Store, samples_per_shard: int) -> pa.Array:
        """Keys of the images in the shards of sound segments, as far as their sample tables are sound."""
        found: list[pa.Array] = []
        for segment in self.sound.values():
            for shard in segment_shards(segment, samples_per_shard):
                commit = self.images.get(shard.index)
                data = _read(store, commit.objects[1].name) if commit else b""
                if commit and sha256(data) == commit.objects[1].sha256:
                    names: list[str] = manifest.read_samples(data)["key"].to_pylist()
                    found.append(pa.array([name.rpartition("~v")[0] for name in names], pa.string()))
        return pa.concat_arrays([pa.array([], pa.string()), *found])


def look_at_segments(store: Store, invariants: Invariants) -> Segments:
    """Read every segment's document and the images' commits."""
    sound, names = dict[int, Segment](), store.list(layout.SEGMENTS + "/")
    for number in range(1, len(names) + 2):
        path = layout.segment_path(number)
        try:
            segment = manifest.read_segment(store.read(path), path)
        except (CorruptObject, FileNotFoundError):
            continue
        if segment.index == number:
            sound[number] = segment
    images = ColumnAudit(store, Column.images(), store.list(layout.COMMITS + "/")).commits
    last = max([*sound, *(n for n in range(1, len(names) + 2) if layout.segment_path(n) in names)], default=0)
    lost = [number for number in range(1, last + 1) if number not in sound]
    placed = sum(shard_count(segment, invariants.samples_per_shard) for segment in sound.values())
    if not lost and images and max(images) >= placed:
        lost = [last + 1]
    return Segments(sound, tuple(lost), images)


def mended_segment(
    found: Segments, invariants: Invariants, candidates: Iterable[Photos], *, views: int
) -> Segment:
    """The only segment that is lost, made of one of the `candidates`.

    Args:
        views: that the cache has of each image, where nothing that follows the segment tells.

    Raises CacheError naming what is not known: several segments are lost, or no candidate gives the keys that
    the shards were committed with.
    """
    number = found.lost[0]
    path, per_shard = layout.segment_path(number), invariants.samples_per_shard
    if len(found.lost) > 1:
        raise CacheError(f"{path} and {len(found.lost) - 1} more are damaged or lost: only one can be told")
    before = [found.sound[n] for n in range(1, number)]
    first = sum(shard_count(segment, per_shard) for segment in before)
    follows = found.sound.get(number + 1)
    for photos in candidates:
        have = sum(segment.views for segment in before if segment.source == photos.source)
        count = views - have
        if follows is not None:
            count = (follows.first_shard - first) // -(-len(photos.keys) // per_shard)
        if count < 1:
            continue
        segment = Segment(
            index=number,
            source=photos.source,
            keys=len(photos.keys),
            views=count,
            first_view=have,
            first_shard=first,
        )
        if _explains(segment, photos.keys, found, per_shard, last=follows is None):
            return segment
    shards = [f"{shard:06d}" for shard in sorted(found.images) if shard >= first]
    raise CacheError(
        f"{path} is damaged or lost, and the source that is named does not hold the images that shards from "
        f"{shards[0] if shards else f'{first:06d}'} on were committed with; name it with --source.path, and "
        f"the cache's number of views with --views.count (asked: {views})"
    )


def _explains(segment: Segment, keys: Sequence[str], found: Segments, per_shard: int, *, last: bool) -> bool:
    """Whether every committed shard of the segment, at least one, has its keys; and no shard is left over."""
    shards = segment_shards(segment, per_shard)
    end = segment.first_shard + len(shards)
    follows = found.sound.get(segment.index + 1)
    if (last and max(found.images, default=0) >= end) or (follows and follows.first_shard != end):
        return False
    order, seen = segment.permutation(), 0
    for shard in shards:
        if commit := found.images.get(shard.index):
            places = order[shard.first : shard.first + shard.rows]
            if commit.keys != keys_digest([sample_key(keys[place], shard.view) for place in places]):
                return False
            seen += 1
    return seen > 0


def _read(store: Store, path: str) -> bytes:
    try:
        return store.read(path)
    except FileNotFoundError:
        return b""
