"""How batches come out of a cache: the order's samples, read and unpacked ahead by threads, in order.

The consumer's thread only plans (which shard, which row); threads read ranges, decode JPEGs and run the
lossless stage, all of which release the GIL. The batches in memory are few and their number is fixed, however
many epochs are walked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from storage.cache import Cache
from storage.errors import MissingData
from storage.gather import Codes, Gatherer, Part, Rows
from storage.layout import Column
from storage.order import Order, rank_slots


@dataclass(frozen=True)
class Batch:
    """One rank's part of one global batch."""

    step: int
    """Step of the order, from 0 over all epochs."""
    images: Tensor
    """Crops, uint8 `[B, H, W, 3]`; zeros where the sample is quarantined or padding."""
    codes: dict[str, Codes]
    """Per teacher one code array per sample, as its codec's `decode` takes them; None where there is none."""
    weight: Tensor
    """1 for a sound sample, 0 for quarantine and padding, float32 `[B]`."""
    keys: list[str]
    """Sample keys; "" for padding."""


def make_order(cache: Cache, *, seed: int, global_batch: int, window: int, views: int | None = None) -> Order:
    """The order over the first `views` views of the cache, all of them unless told.

    Raises ValueError where the cache holds fewer views, or its views do not have the same shards.
    """
    held = 1 + max((shard.view for shard in cache.shards()), default=-1)
    count = held if views is None else views
    if not 1 <= count <= held:
        raise ValueError(f"the cache holds {held} views per image, not {count}; extract that many first")
    order = Order(seed, _sizes(cache, 0), global_batch, count, window)
    _check_views(cache, order)
    return order


@dataclass
class Stream:
    """Iterator over `steps` batches from `first_step`, and a context manager that stops its threads.

    Raises MissingData where a shard of a column is not committed, ValueError where the order was not made
    for this cache. While iterating, a damaged object raises CorruptObject, any other failure CacheError
    naming the shard; after either, and after the last batch, the stream is closed.
    """

    cache: Cache
    order: Order
    teachers: Mapping[str, Column]
    """Columns to read codes from; empty where the teachers run live."""
    first_step: int
    steps: int
    threads: int
    """Threads that read, decode and unpack."""
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1 or self.first_step < 0:
            what = f"a stream from step {self.first_step} with {self.threads} threads"
            raise ValueError(f"{what}; steps count from 0 and at least 1 thread reads")
        self._first, self._count, self._padded = rank_slots(self.order.global_batch, self.world, self.rank)
        _check_views(self.cache, self.order)
        self._shards = [[s.index for s in self.cache.shards(view)] for view in range(self.order.views)]
        self._starts = np.cumsum((0, *self.order.shard_sizes))
        self._require_commits()
        # Each slot has a window of shards open; tables forgotten sooner would be read again for every sample.
        tables = self._count * (self.order.window + 2)
        self._gatherer = Gatherer(self.cache, self.teachers, tables=tables)
        # Rows enough in flight to keep every thread busy while the consumer computes.
        self._ahead = 1 + max(1, -(-2 * self.threads // self._count))
        self._next, self._stop = self.first_step, self.first_step + self.steps
        self._pending: deque[tuple[int, Rows, list[Future[None]]]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(self.threads, "cutler-stream")
        self._batches = self._walk()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Stop the threads and drop what they read ahead; harmless when closed already."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        self._pending.clear()

    def _walk(self) -> Iterator[Batch]:
        try:
            self._plan_ahead()
            while self._pending:
                yield self._collect()
                self._plan_ahead()
        finally:  # Ctrl-C too: no thread outlives the iteration
            self.close()

    def _collect(self) -> Batch:
        """The oldest batch read ahead, once it is whole; the stream itself keeps nothing of it."""
        step, rows, parts = self._pending.popleft()
        for part in parts:
            part.result()
        images, weight = torch.from_numpy(rows.images), torch.from_numpy(rows.weight)
        return Batch(step, images, rows.codes, weight, rows.keys)

    def _plan_ahead(self) -> None:
        side, padding = self.cache.invariants.views.size, self._padded - self._count
        while self._pool is not None and self._next < self._stop and len(self._pending) <= self._ahead:
            rows = Rows.empty(self._padded, padding=padding, side=side, teachers=self.teachers)
            parts = [self._pool.submit(self._gatherer.fill, rows, part) for part in self._parts(self._next)]
            self._pending.append((self._next, rows, parts))
            self._next += 1

    def _parts(self, step: int) -> Iterator[Part]:
        """The batch cut by shard, and where its shards are few into parts enough for every thread."""
        position, view = self.order.batch(step, self._first, self._count).T
        block = np.searchsorted(self._starts, position, "right") - 1
        by_shard = np.lexsort((position, block, view))
        cuts = np.flatnonzero(np.diff(block[by_shard]) | np.diff(view[by_shard])) + 1
        most = -(-self._count // self.threads)
        for whole in np.split(by_shard, cuts):
            for places in np.split(whole, range(most, len(whole), most)):
                shard = self._shards[view[places[0]]][block[places[0]]]
                rows = position[places] - self._starts[block[places]]
                yield Part(shard, rows.tolist(), places.tolist())

    def _require_commits(self) -> None:
        wanted = {shard for view in self._shards for shard in view}
        for column in (Column.images(), *self.teachers.values()):
            missing = sorted(wanted - self.cache.committed(column).keys())
            if missing:
                what = f"{column} lacks {len(missing)} of {len(wanted)} shards, the first is {missing[0]}"
                raise MissingData(f"{what}; finish the extraction, or train on fewer views")


def _sizes(cache: Cache, view: int) -> tuple[int, ...]:
    return tuple(shard.rows for shard in cache.shards(view))


def _check_views(cache: Cache, order: Order) -> None:
    for view in range(order.views):
        sizes = _sizes(cache, view)
        if sizes != order.shard_sizes:
            what = f"view {view} has {sum(sizes)} samples in {len(sizes)} shards"
            wanted = f"the order {order.samples} in {len(order.shard_sizes)}"
            raise ValueError(f"{what}, {wanted}; make the order from this cache, with fewer views")
