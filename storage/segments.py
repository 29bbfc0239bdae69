"""Which segments a cache has, and how it gets another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
        next_shard += shard_count(segment, samples_per_shard)
    return segments


def shard_count(segment: Segment, samples_per_shard: int) -> int:
    """Shards of a segment."""
    return segment.views * -(-segment.keys // samples_per_shard)


def segments_by_source(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Source -> its segments, in the order in which the sources came; more views are further segments."""
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.source, []).append(segment)
    return found


def views_of(segments: Sequence[Segment]) -> int:
    """Views that the segments of one source hold of each of its keys."""
    return sum(segment.views for segment in segments)


def next_segment(
    segments: Sequence[Segment],
    *,
    source: str,
    keys: int,
    views: int,
    first_shard: int,
    append: bool = False,
) -> Segment | None:
    """The segment that brings the cache to `views` views of a source; None when it has them.

    Args:
        append: a source that the cache does not hold becomes one more.

    Raises CacheError when the cache holds other sources alone, or another number of this one's keys; when the
    views would leave the order of an epoch without a sense, which reads the sources of every view in turn.
    """
    held = segments_by_source(segments)
    mine = held.get(source, [])
    if any(segment.keys != keys for segment in mine) or (held and not mine and not append):
        raise CacheError(
            f"the cache holds {describe(held)}, the recipe's source is {source} with {keys}; extract it into "
            "a new cache, or add its images to this one with --append"
        )
    have = views_of(mine)
    if views <= have:
        return None
    if mine:
        _refuse_views_out_of_turn(held, source, views)
    else:
        _refuse_uneven_views(held, views)
    return Segment(
        index=len(segments) + 1,
        source=source,
        keys=keys,
        views=views - have,
        first_view=have,
        first_shard=first_shard,
    )


def describe(held: Mapping[str, Sequence[Segment]]) -> str:
    """The sources of a cache, for a message."""
    return ", ".join(f"source {name} with {found[0].keys} keys" for name, found in held.items())


def _refuse_views_out_of_turn(held: Mapping[str, Sequence[Segment]], source: str, views: int) -> None:
    for earlier, segments in held.items():
        if earlier == source:
            return
        if (have := views_of(segments)) < views:
            raise CacheError(
                f"views are added to the sources of a cache in turn: {describe({earlier: segments})} has "
                f"{have} views, {source} comes after it; extract that source with views.count = {views} first"
            )


def _refuse_uneven_views(held: Mapping[str, Sequence[Segment]], views: int) -> None:
    for earlier, segments in held.items():
        if (have := views_of(segments)) != views:
            raise CacheError(
                f"{describe({earlier: segments})} has {have} views, the recipe asks {views} of what it "
                f"appends; append with views.count = {have}, more views can be added to all sources later"
            )


def create_segment(store: Store, segment: Segment) -> bool:
    """Write a segment's document; False when another writer was first."""
    return store.put_new(layout.segment_path(segment.index), write_segment(segment))
