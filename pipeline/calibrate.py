"""Which statistics does a codec need, and over which samples: the calibration pass of one teacher.

The samples are the first shards of view 0. Shards come from a seeded permutation of the keys, so they are a
random sample of the source, and the same one on every machine.
"""

from __future__ import annotations

from concurrent.futures import Executor

import torch

from pipeline.features import pixel_batches, to_unit
from pipeline.teachers.committee import Committee
from pipeline.timers import Timers
from storage.cache import Cache
from storage.codecs import make_calibrator
from storage.config import CodecConfig


def calibration_shards(cache: Cache, images: int) -> list[int]:
    """The fewest leading shards of view 0 that hold `images` samples (all of view 0 if it has fewer)."""
    chosen, samples = [], 0
    for shard in cache.shards(view=0):
        if samples >= images:
            break
        chosen.append(shard.index)
        samples += shard.rows
    return chosen


def calibrate(
    cache: Cache,
    teacher: str,
    *,
    codec: CodecConfig,
    committee: Committee,
    batch_size: int,
    pool: Executor,
    timers: Timers,
) -> dict[str, torch.Tensor]:
    """The tensors that `codec` needs, from the first `codec.calibration_images` samples of view 0.

    The images of `calibration_shards` must be committed. Quarantined samples do not count.
    """
    size = cache.invariants.views.size
    calibrator = make_calibrator(codec, committee.shapes(teacher, size, size))
    left = codec.resolved().calibration_images
    for shard in calibration_shards(cache, left):
        for present, pixels in pixel_batches(cache, shard, batch_size=batch_size, pool=pool, timers=timers):
            keep = torch.from_numpy(present.nonzero()[0][:left])
            if len(keep):
                levels = committee.run(teacher, to_unit(pixels, committee.device))
                calibrator.update([level[keep.to(level.device)] for level in levels])
                left -= len(keep)
            if left <= 0:
                return calibrator.finish()
    return calibrator.finish()
