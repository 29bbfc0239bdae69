"""Which photos does a cache hold already: the keys of a source, from its committed sample tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from storage.cache import Cache
from storage.layout import Column
from storage.manifest import Shard
from storage.segments import segments_by_source

_THREADS = 8


def known_keys(cache: Cache, source: str) -> pa.ChunkedArray:
    """Keys of a source of the cache, as far as its images are committed; strings, in no useful order.

    All views of a key are in the same place of their shards, so one of them is enough to know it. Raises
    CorruptObject for a damaged sample table.
    """
    mine = {segment.index for segment in segments_by_source(cache.segments)[source]}
    committed = cache.committed(Column.images())
    place = {s.first: s for s in cache.shards() if s.segment in mine and s.index in committed}
    with ThreadPoolExecutor(_THREADS) as threads:
        tables = list(threads.map(lambda shard: _keys_of_shard(cache, shard), place.values()))
    return pa.chunked_array(tables, pa.string())


def _keys_of_shard(cache: Cache, shard: Shard) -> pa.Array:
    names = cache.samples(shard.index)["key"].combine_chunks()
    return pc.utf8_slice_codeunits(names, 0, -len(f"~v{shard.view}"))
