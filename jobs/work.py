"""Which cache does an extraction fill, and which photos belong to each of its shards?

A cache holds one or more sources: images that are appended become a further one. A folder (or tars) that a
recipe names holds a source of the cache when the names and sizes of its photos, without those whose keys are
in another source of the cache, give that source's fingerprint. So a folder that has grown holds every source
that it once was, a folder of new photos alone holds the one that it became, and the same command finds the
same segments however often it is run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.config import Recipe
from storage.errors import CacheError, MissingData
from storage.layout import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from storage.cache import Cache
    from storage.manifest import Segment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """The cache, and the photos of each shard whose source is named."""

    cache: Cache
    photos: Mapping[str, pa.Table]
    """Source of the cache -> its photos (columns key, path, offset, size), sorted by key."""
    _order: dict[str, np.ndarray] = field(default_factory=dict)

    def source_of(self, shard: int) -> str:
        """The source whose photos a shard holds."""
        return self.cache.segments[self.cache.shard(shard).segment - 1].source

    def entries(self, shard: int) -> pa.Table:
        """The photos of a shard, in row order; none where its images are there and its source is not named.

        Raises CacheError where neither is so.
        """
        source, spec = self.source_of(shard), self.cache.shard(shard)
        if source not in self.photos:
            import pyarrow as pa

            if self.cache.commit_of(Column.images(), shard) is None:
                raise CacheError(f"shard {shard:06d} cannot be made: {'; '.join(self.waiting(1))}")
            return pa.table({})
        if source not in self._order:
            self._order[source] = self.cache.segments[spec.segment - 1].permutation()
        return self.photos[source].take(self._order[source][spec.first : spec.first + spec.rows])

    def possible(self, shards: Iterable[int]) -> list[int]:
        """Those of `shards` that can be made: their images are there, or their source is named."""
        there = self.cache.committed(Column.images())
        return [shard for shard in shards if shard in there or self.source_of(shard) in self.photos]

    def waiting(self, views: int) -> list[str]:
        """What cannot be done because its source is not named; a sentence for each source."""
        from storage.segments import describe, segments_by_source, views_of

        shards = self.cache.missing(Column.images())
        out = []
        for source, segments in segments_by_source(self.cache.segments).items():
            if source in self.photos:
                continue
            what = describe({source: segments})
            lacking = sum(self.source_of(shard) == source for shard in shards)
            if lacking:
                out.append(f"{lacking} shards lack the images of {what}; name it with --source.path")
            if (have := views_of(segments)) < views:
                out.append(f"{what} has {have} of {views} views; run again with it as --source.path")
        return out


def open_work(recipe: Recipe, url: str, *, append: bool = False) -> Work:
    """List the source, create or open the cache, add the segments.

    Without a source, a cache whose images are complete gets more teachers from its own images.

    Raises:
        CacheError: the cache has other invariants, holds another source that is not to be appended, or lacks
            images while no source is named.
    """
    from storage.cache import Cache
    from storage.manifest import Invariants

    if not recipe.source.path and (cache := _open_if_there(recipe, url)) is not None:
        require_images(cache, recipe.views.count)
        return Work(cache, {})
    index = listed(recipe)
    cache = Cache.create(url, Invariants.of(recipe.views, recipe.cache))
    photos = photos_of(cache, index, append=append)
    for source, table in photos.items():
        cache.add_segment(source, len(table), recipe.views.count, append=append)
    return Work(cache, photos)


def planned(recipe: Recipe, url: str, *, append: bool = False) -> tuple[Cache | None, list[Segment], int]:
    """What `open_work` would find and add, writing nothing: the cache, segments, photos it would leave out.

    Raises as `open_work`.
    """
    from storage.segments import next_segment, shard_count

    cache = _open_if_there(recipe, url)
    if cache is not None and not recipe.source.path:
        require_images(cache, recipe.views.count)
        return cache, [], 0
    index = listed(recipe)
    photos = {fingerprint_of(index): index} if cache is None else photos_of(cache, index, append=append)
    held = list(cache.segments) if cache else []
    new: list[Segment] = []
    for source, table in photos.items():
        first = sum(shard_count(segment, recipe.cache.samples_per_shard) for segment in held + new)
        segment = next_segment(
            held + new,
            source=source,
            keys=len(table),
            views=recipe.views.count,
            first_shard=first,
            append=append,
        )
        new += [segment] if segment else []
    return cache, new, len(index) - sum(map(len, photos.values()))


def require_images(cache: Cache, views: int) -> None:
    """Raise CacheError unless the cache has all images of that many views: no source is named."""
    if wanted := Work(cache, {}).waiting(views):
        raise CacheError(f"cache {cache.url}, and source.path is empty: {'; '.join(wanted)}")


def photos_of(cache: Cache, index: pa.Table, *, append: bool = False) -> dict[str, pa.Table]:
    """Source of the cache -> its photos, for every source that an index of photos holds, in their order.

    Args:
        append: photos that are in no source of the cache are one source more, under their own fingerprint.

    Raises:
        CacheError: there is nothing to append, or the sources to append to are not complete.
    """
    from storage.segments import segments_by_source
    from storage.source_keys import known_keys

    held = segments_by_source(cache.segments)
    whole = fingerprint_of(index)
    if not held or whole in held or (len(held) == 1 and not append):
        return {whole: index}
    keys = {source: known_keys(cache, source) for source in held}
    found = {}
    for source in held:
        rest = without(index, [known for other, known in keys.items() if other != source])
        if len(rest) and fingerprint_of(rest) == source:
            found[source] = rest
    if append:
        found |= _new_photos(cache, index, keys, held, found)
    return found or {whole: index}


def without(index: pa.Table, keys: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Table:
    """The photos of an index whose keys are in none of `keys`."""
    import pyarrow.compute as pc

    for known in keys:
        index = index.filter(pc.invert(pc.is_in(index["key"], value_set=known)))
    return index


def _new_photos(
    cache: Cache,
    index: pa.Table,
    keys: Mapping[str, pa.ChunkedArray],
    held: Mapping[str, Sequence[Segment]],
    found: Mapping[str, pa.Table],
) -> dict[str, pa.Table]:
    """The photos that no source of the cache holds, under their fingerprint."""
    from storage.segments import describe

    for source, segments in held.items():
        if source not in found and len(keys[source]) < segments[0].keys:
            raise CacheError(
                f"images can be appended to complete ones only, and of {describe({source: segments})} "
                f"{len(keys[source])} are there; extract that source first, without --append"
            )
    new = without(index, [*keys.values(), *(table["key"] for table in found.values())])
    if len(new):
        return {fingerprint_of(new): new}
    if not found:
        raise CacheError(
            f"all {len(index)} images of the source are in the cache {cache.url}: nothing to append"
        )
    return {}


def _open_if_there(recipe: Recipe, url: str) -> Cache | None:
    """The cache at `url`, if there is one. Raises CacheError when its invariants are not the recipe's."""
    from storage.cache import Cache
    from storage.manifest import Invariants, refuse_difference

    try:
        cache = Cache.open(url)
    except MissingData:
        return None
    refuse_difference(url, cache.invariants, Invariants.of(recipe.views, recipe.cache))
    return cache


def listed(recipe: Recipe) -> Any:
    """The index of the recipe's source: a table of photos (key, path, offset, size), sorted by key."""
    from pipeline.sources import open_source

    start = time.monotonic()
    index = open_source(recipe.source).index()
    spent = time.monotonic() - start
    log.info("source %s: %d images, listed in %.1f s", recipe.source.path, len(index), spent)
    return index


def fingerprint_of(index: pa.Table) -> str:
    """The fingerprint of photos as a source."""
    from pipeline.source_index import index_fingerprint

    return index_fingerprint(index)
