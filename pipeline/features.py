"""One committed shard of images -> the codes of every teacher that misses it (the feature columns)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.teachers.committee import Committee
from pipeline.timers import Timers
from storage.cache import Cache
from storage.codecs.spec import Codec
from storage.commits import Commit
from storage.jpeg import decode_jpeg
from storage.layout import Column
from storage.quality import Quality

Target = tuple[Column, Codec]


@dataclass(frozen=True)
class Runner:
    """What runs the teachers over a shard: batch i is always rows [i * batch_size, (i + 1) * batch_size)."""

    committee: Committee
    batch_size: int
    pool: Executor
    timers: Timers

    def batches(self, cache: Cache, shard: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """As `pixel_batches`."""
        return pixel_batches(cache, shard, batch_size=self.batch_size, pool=self.pool, timers=self.timers)

    def run(self, teacher: str, images: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's level maps, timed."""
        with self.timers(f"forward:{teacher}"):
            return self.committee.run(teacher, images)


@dataclass(frozen=True)
class Encoding:
    """What a few samples became in a column."""

    samples: int
    bytes: int
    """Of their records."""
    fidelity: float
    """The worst of their levels."""


def pixel_batches(
    cache: Cache, shard: int, *, batch_size: int, pool: Executor, timers: Timers
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Batches of a shard's decoded crops, one decoded ahead.

    Batch i is always rows [iB, (i+1)B); a quarantined row stays in its place as zeros, so that every other
    row sees the same batch shape and position whatever is missing.

    Yields:
        rows present `[b]` bool, and pixels `[b, 3, H, W]` uint8.
    """
    total, size = cache.shard(shard).rows, cache.invariants.views.size

    def decode(first: int) -> tuple[np.ndarray, torch.Tensor]:
        rows = list(range(first, min(first + batch_size, total)))
        with timers("read_crops"):
            jpegs = cache.read_images(shard, rows)
        pixels = np.zeros((len(rows), size, size, 3), np.uint8)
        with timers("decode_crops"):
            for i, jpeg in enumerate(jpegs):
                if jpeg is not None:
                    pixels[i] = decode_jpeg(jpeg)
        present = np.array([jpeg is not None for jpeg in jpegs])
        return present, torch.from_numpy(pixels).permute(0, 3, 1, 2)

    ahead = pool.submit(decode, 0)
    for start in range(0, total, batch_size):
        batch = ahead.result()
        if start + batch_size < total:
            ahead = pool.submit(decode, start + batch_size)
        yield batch


def to_unit(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 pixels on the host -> float32 in 0..1 on the device, as the committee takes them."""
    return pixels.to(device, non_blocking=True).float().div_(255)


class ColumnRows:
    """The records, fidelity and reasons of one teacher's column for one shard, filled batch by batch."""

    def __init__(self, codec: Codec, pool: Executor, timers: Timers) -> None:
        self._codec, self._pool, self._timers = codec, pool, timers
        self._records: list[Future[bytes] | None] = []
        self._quality: list[Quality] = []
        self._reasons: list[str | None] = []

    def add(self, levels: list[torch.Tensor], present: np.ndarray) -> None:
        """Quantise a batch on the teacher's device; compress its rows in threads, behind the next forward."""
        with self._timers("encode"):
            encoded = self._codec.encode(levels)
        self._quality.append(encoded.quality)
        for i, reason in enumerate(encoded.reasons):
            keep = bool(present[i]) and reason is None
            self._records.append(self._pool.submit(self._pack, encoded.codes[i]) if keep else None)
            self._reasons.append(reason if present[i] else None)

    def _pack(self, codes: np.ndarray) -> bytes:
        with self._timers("compress"):
            return self._codec.pack(codes)

    def records(self) -> list[bytes | None]:
        """The rows' records, None for rows without one; waits for the threads."""
        return [None if future is None else future.result() for future in self._records]

    def quality(self) -> Quality:
        """Of all rows."""
        return Quality.join(self._quality)

    def reasons(self) -> list[str | None]:
        """Why a row cannot be stored, None for those that can and those that are not present."""
        return list(self._reasons)

    def commit(self, cache: Cache, column: Column, shard: int) -> Commit:
        """Write the shard's object and commit it."""
        records = self.records()
        with self._timers("write"):
            return cache.put_features(column, shard, records, self.quality(), self._reasons)


def write_features(
    cache: Cache, shard: int, targets: Mapping[str, Target], runner: Runner
) -> dict[str, Commit]:
    """Run the teachers named in `targets` over shard `shard` and commit their columns.

    Args:
        targets: teacher -> (column, codec) that misses this shard.

    Returns:
        teacher -> its commit.
    """
    filled = {name: ColumnRows(codec, runner.pool, runner.timers) for name, (_, codec) in targets.items()}
    for present, pixels in runner.batches(cache, shard):
        images = to_unit(pixels, runner.committee.device)
        for name in targets:
            filled[name].add(runner.run(name, images), present)
    return {name: filled[name].commit(cache, column, shard) for name, (column, _) in targets.items()}


def encode_sample(
    cache: Cache, shard: int, targets: Mapping[str, Target], runner: Runner
) -> dict[str, Encoding]:
    """What the first batch of a shard becomes in each column, by teacher; nothing is written."""
    present, pixels = next(runner.batches(cache, shard))
    images = to_unit(pixels, runner.committee.device)
    found = {}
    for name, (_, codec) in targets.items():
        rows = ColumnRows(codec, runner.pool, runner.timers)
        rows.add(runner.run(name, images), present)
        sizes = [len(record) for record in rows.records() if record is not None]
        worst = rows.quality().fidelity[present]
        found[name] = Encoding(len(sizes), sum(sizes), float(np.nanmin(worst, initial=1.0)))
    return found
