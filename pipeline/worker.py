"""What one extraction worker holds and does with one shard: a plain class; the engine makes it an actor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import torch

from pipeline.calibrate import Portion, Runner, calibrate_shard
from pipeline.config import CommitteeConfig, ExtractConfig, SourceConfig
from pipeline.features import Encoding, encode_sample, write_features
from pipeline.grid import Grid
from pipeline.images import CropMaker, write_images
from pipeline.sources import open_source
from pipeline.teachers.committee import build_committee
from pipeline.timers import Timers
from storage.cache import Cache
from storage.codecs.spec import AnyCalibrator
from storage.commits import Commit
from storage.config import CodecConfig, ViewConfig
from storage.layout import Column

LIBRARIES = ("torch", "timm", "numpy", "numcodecs", "pcodec", "pillow")


@dataclass(frozen=True)
class ExtractionJob:
    """Everything a worker needs to know; travels to its node as one value.

    Attributes:
        cache: URL of the cache.
        threads: decode and compress threads of one worker.
        device: torch device of the teachers.
        grid: the student's, to which larger maps are pooled; None keeps the teachers' own.
    """

    cache: str
    source: SourceConfig
    views: ViewConfig
    committee: CommitteeConfig
    codec: CodecConfig
    extract: ExtractConfig
    device: str
    threads: int
    grid: Grid | None = None


@dataclass(frozen=True)
class Described:
    """What of a teacher makes its column."""

    identity: dict[str, Any]
    shapes: tuple[tuple[int, int, int], ...]
    """(C, h, w) of its levels as they are stored."""


@dataclass
class ShardResult:
    """What a shard cost and gave; for progress and logs, never part of a commit."""

    shard: int
    rows: int
    quarantined: int
    bytes: int = 0
    """Written by this execution; images that were there before do not count."""
    feature_bytes: int = 0
    """Of records, without what a container adds."""
    values: int = 0
    forwards: int = 0
    wall_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, images: Commit, features: Sequence[Commit], *, new_images: bool, start: float, timers: Timers
    ) -> ShardResult:
        """What writing `features`, and the `images` where they are new, came to since `start`."""
        new = [images, *features] if new_images else features
        return cls(
            images.shard,
            images.rows,
            len(images.quarantined),
            bytes=sum(ref.bytes for commit in new for ref in commit.objects),
            feature_bytes=sum(int(commit.stats["bytes"]) for commit in features),
            values=sum(int(commit.stats["values"]) for commit in features),
            wall_s=time.perf_counter() - start,
            seconds=timers.seconds,
        )


@dataclass
class CalibrationPart(ShardResult):
    """What one shard says of each new teacher, beside what that cost."""

    calibrators: dict[str, AnyCalibrator] = field(default_factory=dict)


class ExtractionWorker:
    """Source, committee and codecs of one GPU or CPU slot; executes shards one at a time."""

    def __init__(self, job: ExtractionJob) -> None:
        torch.set_num_threads(job.threads)
        # TF32 would round the patch embedding of what is called fp32 to ten bits.
        torch.backends.cudnn.allow_tf32 = False
        self._job = job
        self._cache = Cache.open(job.cache)
        self._committee = build_committee(job.committee, torch.device(job.device), grid=job.grid)
        self._pool = ThreadPoolExecutor(job.threads, thread_name_prefix="cutler-extract")
        self._columns: Mapping[str, Column] = {}

    def describe(self) -> tuple[dict[str, Described], dict[str, str]]:
        """Each teacher's identity and stored shapes, and the versions of the libraries that run it."""
        size = self._job.views.size
        teachers = {
            name: Described(self._committee.identity(name), self._committee.shapes(name, size, size))
            for name in self._job.committee.teachers
        }
        return teachers, {library: version(library) for library in LIBRARIES}

    def images(self, shard: int, entries: pa.Table) -> ShardResult:
        """Commit the images of `shard`."""
        return self.run(shard, entries, [])

    def calibrate(self, shard: int, portion: Portion, budgets: Mapping[str, float]) -> CalibrationPart:
        """What the samples in `portion` of a shard say of the teachers in `budgets`, as `calibrate_shard`."""
        start, timers, forwards = time.perf_counter(), Timers(), self._committee.forwards
        partial = calibrate_shard(
            self._cache,
            shard,
            portion,
            budgets=budgets,
            codec=self._job.codec,
            runner=self._runner(timers),
        )
        return CalibrationPart(
            shard,
            portion.samples,
            quarantined=0,
            forwards=self._committee.forwards - forwards,
            wall_s=time.perf_counter() - start,
            seconds=timers.seconds,
            calibrators=partial,
        )

    def encode_sample(self, shard: int, columns: Mapping[str, Column]) -> dict[str, Encoding]:
        """What the first batch of a shard becomes in each teacher's column; nothing is written."""
        targets = {name: (column, self._cache.codec(column)) for name, column in columns.items()}
        return encode_sample(self._cache, shard, targets, self._runner(Timers()))

    def use(self, columns: Mapping[str, Column]) -> None:
        """Write to these columns from now on. Nothing is read yet: what is wrong with one fails a shard."""
        self._columns = columns

    def run(self, shard: int, entries: pa.Table, missing: Sequence[str]) -> ShardResult:
        """Commit the images of `shard` if they are missing, then the columns of the teachers `missing`."""
        start, timers, forwards = time.perf_counter(), Timers(), self._committee.forwards
        there = self._cache.commit_of(Column.images(), shard)
        images = there or self._images(shard, entries, timers)
        features: list[Commit] = []
        if missing:
            columns = {name: self._columns[name] for name in missing}
            targets = {name: (column, self._cache.codec(column)) for name, column in columns.items()}
            written = write_features(self._cache, shard, targets, self._runner(timers))
            features += written.values()
        result = ShardResult.of(images, features, new_images=there is None, start=start, timers=timers)
        result.forwards = self._committee.forwards - forwards
        return result

    def _images(self, shard: int, entries: pa.Table, timers: Timers) -> Commit:
        return write_images(self._cache, shard, entries, maker=self._maker, pool=self._pool, timers=timers)

    @cached_property
    def _maker(self) -> CropMaker:
        ask = self._job.source
        return CropMaker(open_source(ask), self._job.views, self._cache.invariants.jpeg, ask.max_pixels)

    def _runner(self, timers: Timers) -> Runner:
        return Runner(self._committee, self._job.extract.batch_size, self._pool, timers)
