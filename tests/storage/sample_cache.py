"""Small caches for tests: real images, two teachers' random maps, a few quarantined rows."""

from __future__ import annotations

import torch

from storage.cache import Cache
from storage.codecs import make_calibrator
from storage.config import CodecConfig, JpegConfig, ViewConfig
from storage.identity import escape_key, sample_key
from storage.layout import Column
from storage.manifest import Invariants, SampleRow, Shard

KEYS = 7
SHAPES = {"alpha": ((6, 2, 3), (6, 2, 3)), "beta": ((4, 3, 3), (4, 3, 3))}
IDENTITY = {"timm": "nothing", "weights": "random:0"}
BAD_IMAGE = "img 2.jpg"


def invariants(container: str = "wds") -> Invariants:
    """Three samples a shard: the last of seven keys' shards is short."""
    return Invariants(views=ViewConfig(size=32), jpeg=JpegConfig(), samples_per_shard=3, container=container)


def make_cache(url: str, container: str = "wds", *, lossless: str = "none", views: int = 2) -> Cache:
    """A complete cache: seven keys, `views` views, teachers alpha (f16) and beta (int8)."""
    cache = Cache.create(url, invariants(container))
    cache.add_segment("source-fp", KEYS, views)
    for shard in cache.shards():
        put_images(cache, shard)
    for teacher, codec in (("alpha", "f16"), ("beta", "int8")):
        column = register(cache, teacher, CodecConfig(name=codec, lossless=lossless))
        for shard in cache.shards():
            put_features(cache, column, shard.index)
    return cache


def names() -> list[str]:
    """Paths of the source's images."""
    return [f"img {number}.jpg" for number in range(KEYS)]


def sample_rows(cache: Cache, shard: Shard) -> list[SampleRow]:
    """The rows of a shard."""
    order = cache.segments[shard.segment - 1].permutation()[shard.first : shard.first + shard.rows]
    paths = [names()[position] for position in order]
    return [
        SampleRow(
            row=row,
            key=sample_key(escape_key(path), shard.view),
            source=path,
            x=row,
            y=2,
            w=30,
            h=31,
            flip=bool(row % 2),
            width=64,
            height=48,
            quarantine="truncated file" if path == BAD_IMAGE else None,
        )
        for row, path in enumerate(paths)
    ]


def jpeg_of(row: SampleRow) -> bytes | None:
    """Stands for a JPEG: storage does not look inside."""
    return None if row.quarantine else f"jpeg of {row.key}".encode() * 3


def put_images(cache: Cache, shard: Shard) -> None:
    """Commit the images of a shard."""
    rows = sample_rows(cache, shard)
    cache.put_images(shard.index, rows, [jpeg_of(row) for row in rows])


def maps(teacher: str, seed: int, batch: int) -> list[torch.Tensor]:
    """Feature maps [batch, C, h, w] per level, seeded."""
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(batch, *shape, generator=generator) + 1 for shape in SHAPES[teacher]]


def register(cache: Cache, teacher: str, codec: CodecConfig) -> Column:
    """The column of a teacher, calibrated on seeded maps."""
    calibrator = make_calibrator(codec, SHAPES[teacher])
    calibrator.update(maps(teacher, 99, 8))
    return cache.register(teacher, IDENTITY, codec, SHAPES[teacher], calibrator.finish, {"torch": "2"})


def encode(cache: Cache, column: Column, shard: int, seed: int = 0):
    """Records, quality and reasons of a shard, as put_features takes them."""
    samples = cache.samples(shard)
    codec = cache.codec(column)
    encoded = codec.encode(maps(column.teacher, 1000 * seed + shard, samples.num_rows))
    bad = [reason is not None for reason in samples["quarantine"].to_pylist()]
    records = [None if skip else codec.pack(row) for skip, row in zip(bad, encoded.codes, strict=True)]
    return records, encoded.quality, [None] * len(records)


def put_features(cache: Cache, column: Column, shard: int, seed: int = 0):
    """Commit a shard of a column."""
    return cache.put_features(column, shard, *encode(cache, column, shard, seed))
