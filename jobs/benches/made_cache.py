"""How does a benchmark get a cache: made-up keys, real JPEG crops, and records that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from storage.cache import Cache
from storage.config import CacheConfig, CodecConfig, ViewConfig
from storage.identity import sample_key
from storage.jpeg import decode_jpeg
from storage.manifest import Invariants, SampleRow
from storage.quality import Quality

BATCH = 4


@dataclass(frozen=True)
class Filling:
    """What one teacher's column is made of."""

    config: CodecConfig
    stats: Mapping[str, Tensor]
    levels: Sequence[Tensor]
    """Maps [n, C, h, w] per level; sample s of the cache gets map s mod n."""

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the levels."""
        return [tuple(level.shape[1:]) for level in self.levels]


def make_cache(
    folder: Path,
    jpegs: Sequence[bytes],
    fillings: Mapping[str, Filling],
    *,
    samples: int,
    samples_per_shard: int,
    container: Literal["wds", "zarr"] = "wds",
) -> Cache:
    """A complete cache of one view; sample s shows crop s mod len(jpegs)."""
    size = len(decode_jpeg(jpegs[0]))
    asked = CacheConfig(samples_per_shard=samples_per_shard, container=container)
    cache = Cache.create(str(folder), Invariants.of(ViewConfig(count=1, size=size), asked))
    cache.add_segment("bench", samples, 1)
    for shard in cache.shards():
        rows = [_row(row, shard.first + row, size) for row in range(shard.rows)]
        cache.put_images(
            shard.index, rows, [jpegs[(shard.first + row) % len(jpegs)] for row in range(shard.rows)]
        )
    for teacher, filling in fillings.items():
        _fill(cache, teacher, filling)
    return cache


def _row(row: int, number: int, size: int) -> SampleRow:
    key = sample_key(f"bench/{number:06d}", 0)
    return SampleRow(row, key, f"{number:06d}.jpg", 0, 0, size, size, False, size, size)


def _fill(cache: Cache, teacher: str, filling: Filling) -> None:
    column = cache.register(
        teacher, {"bench": teacher}, filling.config, filling.shapes, lambda: dict(filling.stats), {}
    )
    records, quality = records_of(cache.codec(column), filling.levels)
    for shard in cache.shards():
        chosen = (shard.first + np.arange(shard.rows)) % len(records)
        cache.put_features(
            column, shard.index, [records[at] for at in chosen], quality.rows(chosen), [None] * shard.rows
        )


def records_of(codec: Any, levels: Sequence[Tensor]) -> tuple[list[bytes], Quality]:
    """Records and quality of maps [n, C, h, w] per level. Raises ValueError where one is refused."""
    records: list[bytes] = []
    qualities = []
    for first in range(0, len(levels[0]), BATCH):
        encoded = codec.encode([level[first : first + BATCH] for level in levels])
        if any(encoded.reasons):
            raise ValueError(f"a map cannot be stored: {next(filter(None, encoded.reasons))}")
        records += [codec.pack(row) for row in encoded.codes]
        qualities.append(encoded.quality)
    return records, Quality.join(qualities)
