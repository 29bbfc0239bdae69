"""One shard of photos -> its JPEG crops, the pixels that teachers and student see (the images column)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import pyarrow as pa

from pipeline.decode import Quarantine, decode_rgb
from pipeline.sources import Source
from pipeline.timers import Timers
from pipeline.views import crop_of, render
from storage.cache import Cache
from storage.commits import Commit
from storage.config import JpegConfig, ViewConfig
from storage.identity import sample_key
from storage.jpeg import encode_jpeg
from storage.manifest import SampleRow


@dataclass(frozen=True)
class CropMaker:
    """Makes one sample's row and JPEG from the source.

    Attributes:
        source: where the photos are.
        views: crop distribution and size.
        jpeg: how the crop is stored.
        max_pixels: a larger photo is quarantined.
    """

    source: Source
    views: ViewConfig
    jpeg: JpegConfig
    max_pixels: int

    def sample(self, row: int, entry: dict, view: int, timers: Timers) -> tuple[SampleRow, bytes | None]:
        """Row `row` of a shard: view `view` of the photo at `entry` (key, path, offset, size)."""
        with timers("read"):
            data = self.source.read(entry["path"], entry["offset"], entry["size"])
        key = sample_key(entry["key"], view)
        try:
            with timers("decode"):
                rgb = decode_rgb(data, max_pixels=self.max_pixels)
        except Quarantine as reason:
            return SampleRow(row, key, entry["path"], 0, 0, 0, 0, False, 0, 0, str(reason)), None
        height, width = rgb.shape[:2]
        with timers("crop"):
            crop = crop_of(entry["key"], view, width, height, self.views)
            pixels = render(rgb, crop, self.views.size)
        with timers("encode_jpeg"):
            jpeg = encode_jpeg(pixels, self.jpeg)
        box = (crop.x, crop.y, crop.w, crop.h, crop.flip)
        return SampleRow(row, key, entry["path"], *box, width, height), jpeg


def write_images(
    cache: Cache, shard: int, entries: pa.Table, *, maker: CropMaker, pool: Executor, timers: Timers
) -> Commit:
    """Decode, crop, store and commit the images of shard `shard`.

    Args:
        entries: the shard's photos in row order (columns key, path, offset, size).
        pool: threads that decode; PIL releases the GIL.

    Raises:
        OSError: a photo could not be read; the shard may be tried again.
    """
    view = cache.shard(shard).view
    rows: Sequence[dict] = entries.to_pylist()
    futures = [pool.submit(maker.sample, i, entry, view, timers) for i, entry in enumerate(rows)]
    made = [future.result() for future in futures]
    with timers("write"):
        return cache.put_images(shard, [row for row, _ in made], [jpeg for _, jpeg in made])
