"""What one worker does with one shard, without Ray: real photos, a miniature teacher, a real cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.calibrate import Merged, portions
from pipeline.config import CommitteeConfig, ExtractConfig, SourceConfig
from pipeline.sources import open_source
from pipeline.worker import ExtractionJob, ExtractionWorker
from storage.cache import Cache
from storage.config import CacheConfig, CodecConfig, ViewConfig
from storage.errors import CorruptObject
from storage.layout import Column
from storage.manifest import Invariants

VIEWS = ViewConfig(count=1, size=64)
CODEC = CodecConfig(name="int8", calibration_images=2)
PHOTOS = 5


@pytest.fixture
def job(tmp_path: Path) -> ExtractionJob:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(PHOTOS):
        rgb = rng.integers(0, 255, (70, 90, 3), np.uint8)
        Image.fromarray(rgb).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "4.png").write_bytes(b"no image")
    return ExtractionJob(
        cache=str(tmp_path / "cache"),
        source=SourceConfig(path=str(tmp_path / "photos")),
        views=VIEWS,
        committee=CommitteeConfig(teachers=("mini_clip",), weights="random:0", precision="fp32"),
        codec=CODEC,
        extract=ExtractConfig(batch_size=2),
        device="cpu",
        threads=1,
    )


def open_cache(job: ExtractionJob) -> tuple[Cache, pa.Table]:
    """The cache with its one segment, and the photos in shard order."""
    cache = Cache.create(job.cache, Invariants.of(VIEWS, CacheConfig(samples_per_shard=3)))
    source = open_source(job.source)
    segment = cache.add_segment(source.fingerprint(), PHOTOS, 1)
    return cache, source.index().take(segment.permutation())


def register(cache: Cache, worker: ExtractionWorker, photos: pa.Table) -> dict[str, Column]:
    """The column of each teacher, calibrated on the first shard."""
    worker.images(0, photos)
    ((shard, portion),) = portions(cache, CODEC.calibration_images).items()
    described, libraries = worker.describe()
    merged = Merged([shard])
    merged.add(shard, worker.calibrate(shard, portion, dict.fromkeys(described, 1.0)).calibrators)
    return {
        name: cache.register(
            name, it.identity, CODEC, it.shapes, lambda name=name: merged.finish(name), libraries
        )
        for name, it in described.items()
    }


def test_a_shard_is_made_once_and_only_what_is_written_counts(job: ExtractionJob) -> None:
    cache, photos = open_cache(job)
    worker = ExtractionWorker(job)
    columns = register(cache, worker, photos.slice(0, 3))
    worker.use(columns)
    images, column = Column.images(), columns["mini_clip"]
    assert cache.missing(images) == [1], "calibration made the shard it read"
    made = {shard: worker.run(shard, photos.slice(3 * shard, 3), ["mini_clip"]) for shard in (0, 1)}
    assert cache.missing(images) == cache.missing(column) == []

    def size(shard: int, which: Column) -> int:
        return sum(ref.bytes for ref in cache.committed(which)[shard].objects)

    assert made[0].bytes == size(0, column), "its images were there before"
    assert made[1].bytes == size(1, column) + size(1, images)
    assert [made[shard].rows for shard in made] == [3, 2]
    assert sum(result.quarantined for result in made.values()) == 1
    again = worker.run(1, photos.slice(3, 2), [])
    assert (again.bytes, again.forwards, again.rows) == (0, 0, 2)


def test_what_is_wrong_with_a_column_is_said_by_the_shard(job: ExtractionJob) -> None:
    """`use` is sent to an actor and not waited for: an error in it would be lost."""
    cache, photos = open_cache(job)
    columns = register(cache, ExtractionWorker(job), photos.slice(0, 3))
    cache.store.replace(f"{columns['mini_clip'].path}/codec.safetensors", b"damaged")
    worker = ExtractionWorker(job)
    worker.use(columns)
    with pytest.raises(CorruptObject, match=r"codec\.safetensors"):
        worker.run(0, photos.slice(0, 3), ["mini_clip"])
