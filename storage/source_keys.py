"""Which photos does a cache hold already: the keys of a source, from its committed sample tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from storage.cache import Cache
from storage.errors import CorruptObject
from storage.layout import Column
from storage.manifest import Shard
from storage.segments import segments_by_source

_THREADS = 8


def known_keys(cache: Cache, source: str) -> pa.ChunkedArray:
    """Keys of a source of the cache, as far as its images are committed and sound; in no useful order.

    All views of a key are in the same place of their shards, so one of them is enough to know it.
    """
    mine = {segment.index for segment in segments_by_source(cache.segments)[source]}
    committed = cache.committed(Column.images())
    places: dict[int, list[Shard]] = {}
    for shard in cache.shards():
        if shard.segment in mine and shard.index in committed:
            places.setdefault(shard.first, []).append(shard)
    with ThreadPoolExecutor(_THREADS) as threads:
        tables = threads.map(lambda shards: _keys_of_place(cache, shards), places.values())
        return pa.chunked_array(list(tables), pa.string())


def _keys_of_place(cache: Cache, views: Sequence[Shard]) -> pa.Array:
    """Keys of the first view whose sample table is sound."""
    for shard in views:
        try:
            names = cache.samples(shard.index)["key"].combine_chunks()
        except CorruptObject:
            continue
        return pc.utf8_slice_codeunits(names, 0, -len(f"~v{shard.view}"))
    return pa.array([], pa.string())
