"""Which segments a cache has, and how it gets another."""

from __future__ import annotations

from collections.abc import Sequence

from storage import layout
from storage.errors import CacheError, CorruptObject
from storage.manifest import Segment, read_segment, write_segment
from storage.store import Store


def load_segments(store: Store, samples_per_shard: int) -> tuple[Segment, ...]:
    """All segments, in order.

    Raises CorruptObject unless each is whole, in its place, and begins where the one before ends.
    """
    segments = tuple(read_segment(store.read(path), path) for path in store.list(layout.SEGMENTS + "/"))
    next_shard = 0
    for number, segment in enumerate(segments, 1):
        if (segment.index, segment.first_shard) != (number, next_shard):
            raise CorruptObject(
                layout.segment_path(number),
                f"it is segment {segment.index} from shard {segment.first_shard}, "
                f"the cache has segment {number} from shard {next_shard} here",
            )
        next_shard += segment.views * -(-segment.keys // samples_per_shard)
    return segments


def next_segment(
    segments: Sequence[Segment], *, source: str, keys: int, views: int, first_shard: int
) -> Segment | None:
    """The segment that brings the cache to `views` views of a source; None when it has them.

    Raises CacheError when the cache holds another source, or another number of its keys.
    """
    for segment in segments:
        if (segment.source, segment.keys) != (source, keys):
            raise CacheError(
                f"the cache holds source {segment.source} with {segment.keys} keys, the recipe's source is "
                f"{source} with {keys}; extract it into a new cache"
            )
    have = sum(segment.views for segment in segments)
    if views <= have:
        return None
    return Segment(
        index=len(segments) + 1,
        source=source,
        keys=keys,
        views=views - have,
        first_view=have,
        first_shard=first_shard,
    )


def create_segment(store: Store, segment: Segment) -> bool:
    """Write a segment's document; False when another writer was first."""
    return store.put_new(layout.segment_path(segment.index), write_segment(segment))
