"""What one worker does to a shard of a cache that is written again in another codec, grid or container.

No teacher runs: the maps are those that the source's column decodes to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from pipeline.calibrate import Portion
from pipeline.features import ColumnRows
from pipeline.grid import Grid, pool, pooled_shapes
from pipeline.timers import Timers
from pipeline.worker import LIBRARIES, CalibrationPart, Described, ShardResult
from storage.cache import Cache
from storage.codecs.spec import make_calibrator
from storage.commits import Commit
from storage.config import CodecConfig
from storage.layout import Column
from storage.recoding import copy_features, copy_images, lowest_fidelity


@dataclass(frozen=True)
class RecodeJob:
    """Everything a recoding worker needs to know; travels to its node as one value.

    Attributes:
        source, target: URLs of the two caches, which may be one.
        sources: teacher -> the column that its maps are decoded from, or its records copied.
        described: teacher -> what makes its new column.
        codec: of the new columns.
        grid: the student's, to which larger maps are pooled; None keeps the source's.
        batch_size: rows decoded and encoded at once; batch i is always rows [iB, (i+1)B).
        threads: that read and compress.
    """

    source: str
    target: str
    sources: Mapping[str, Column]
    described: Mapping[str, Described]
    codec: CodecConfig
    grid: Grid | None
    batch_size: int
    device: str
    threads: int


def recoded(source: Cache, column: Column, grid: Grid | None) -> Described:
    """What makes the column that a complete one is recoded into.

    Its identity is the source's, and says what it was recoded from and how near that was to the teacher.
    """
    doc = source.teacher_doc(column)
    before = {key: value for key, value in doc["identity"].items() if key == "recoded_from"}
    origin = {
        "fingerprint": column.fingerprint,
        "codec": doc["codec"],
        "min_fidelity": lowest_fidelity(source, column),
        **before,
    }
    return Described(doc["identity"] | {"recoded_from": origin}, pooled_shapes(doc["shapes"], grid))


class RecodeWorker:
    """Both caches and their codecs in one GPU or CPU slot; an engine's worker, as ExtractionWorker is."""

    def __init__(self, job: RecodeJob) -> None:
        torch.set_num_threads(job.threads)
        torch.backends.cudnn.allow_tf32 = False
        self._job = job
        self._source, self._target = Cache.open(job.source), Cache.open(job.target)
        self._device = torch.device(job.device)
        self._pool = ThreadPoolExecutor(job.threads, thread_name_prefix="cutler-recode")
        self._columns: Mapping[str, Column] = {}

    def describe(self) -> tuple[dict[str, Described], dict[str, str]]:
        """What makes each teacher's column, and the versions of the libraries that recode it."""
        return dict(self._job.described), {library: version(library) for library in LIBRARIES}

    def images(self, shard: int, entries: Any = None) -> ShardResult:
        """Copy the images of `shard`."""
        return self.run(shard, entries, [])

    def calibrate(self, shard: int, portion: Portion, budgets: Mapping[str, float]) -> CalibrationPart:
        """What the decoded maps of a shard's first samples say of each teacher in `budgets`.

        Args:
            portion: which of the samples that are not quarantined.
            budgets: teacher -> multiply-adds, 1e9, that decoding its maps of one image may cost.
        """
        start, timers = time.perf_counter(), Timers()
        partial = {}
        for name, budget in budgets.items():
            shapes = self._job.described[name].shapes
            partial[name] = make_calibrator(self._job.codec, shapes, budget_gmac=budget, first=portion.first)
            left = portion.samples
            for sound, held, levels in self._batches(name, shard, timers):
                used = np.flatnonzero(sound)[:left]
                left -= len(used)
                keep = torch.from_numpy(used[held[used]]).to(self._device)
                with timers("calibrate"):
                    partial[name].update([level[keep] for level in levels])
                if not left:
                    break
        return CalibrationPart(
            shard,
            portion.samples,
            quarantined=0,
            wall_s=time.perf_counter() - start,
            seconds=timers.seconds,
            calibrators=partial,
        )

    def use(self, columns: Mapping[str, Column]) -> None:
        """Write to these columns from now on."""
        self._columns = columns

    def run(self, shard: int, entries: Any, missing: Sequence[str]) -> ShardResult:
        """Copy the images of `shard` if the target lacks them, then write the columns of `missing`."""
        start, timers = time.perf_counter(), Timers()
        there = self._target.commit_of(Column.images(), shard)
        images = there or copy_images(self._source, self._target, shard)
        features = [self._features(name, shard, timers) for name in missing]
        return ShardResult.of(images, features, new_images=there is None, start=start, timers=timers)

    def _features(self, name: str, shard: int, timers: Timers) -> Commit:
        here, there = self._job.sources[name], self._columns[name]
        if "recoded_from" not in self._changes(name):
            with timers("copy"):
                return copy_features(self._source, here, self._target, there, shard)
        rows = ColumnRows(self._target.codec(there), self._pool, timers)
        for _, held, levels in self._batches(name, shard, timers):
            rows.add(levels, held)
        reasons = rows.reasons()
        before = self._source.committed(here)[shard]
        for row, reason in zip(before.quarantined, before.reasons, strict=True):
            reasons[row] = reason
        with timers("write"):
            return self._target.put_features(there, shard, rows.records(), rows.quality(), reasons)

    def _changes(self, name: str) -> dict[str, Any]:
        """What of a teacher's identity is new."""
        old = self._source.teacher_doc(self._job.sources[name])["identity"]
        new = self._job.described[name].identity
        return {key: value for key, value in new.items() if old.get(key) != value}

    def _batches(
        self, name: str, shard: int, timers: Timers
    ) -> Iterator[tuple[np.ndarray, np.ndarray, list[torch.Tensor]]]:
        """Rows with an image `[b]`, rows with a record `[b]`, maps; per batch, the next one read ahead.

        A row without a record stays in its place as zeros.
        """
        column = self._job.sources[name]
        codec, total = self._source.codec(column), self._source.shard(shard).rows
        images = self._source.samples(shard)["quarantine"].is_null().to_numpy()
        starts = range(0, total, self._job.batch_size)

        def read(first: int) -> list[Any]:
            rows = range(first, min(first + self._job.batch_size, total))
            with timers("read"):
                records = self._source.read_records(column, shard, rows)
            with timers("unpack"):
                return [None if record is None else codec.unpack(record) for record in records]

        ahead = self._pool.submit(read, 0)
        for start in starts:
            rows = ahead.result()
            if start + self._job.batch_size < total:
                ahead = self._pool.submit(read, start + self._job.batch_size)
            with timers("decode"):
                levels = codec.decode(codec.collate(rows), self._device)
                if self._job.grid is not None:
                    levels = [pool(level, self._job.grid) for level in levels]
            yield images[start : start + len(rows)], np.array([row is not None for row in rows]), levels
