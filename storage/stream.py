"""How batches come out of a cache: the order's samples, read and unpacked ahead by threads, in order.

The consumer's thread only waits: threads plan (which shard, which row), read ranges, decode JPEGs, run the
lossless stage and collate the codes. Nearly all of that releases the GIL. The batches in memory are few and
their number is fixed, however many epochs are walked.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from storage.cache import Cache
from storage.errors import CacheError, MissingData
from storage.gather import Gatherer, Part, Rows
from storage.layout import Column
from storage.order import Order, rank_slots

log = logging.getLogger(__name__)

_THREADS = "cutler-stream"


@dataclass(frozen=True)
class Batch:
    """One rank's part of one global batch."""

    step: int
    """Step of the order, from 0 over all epochs."""
    images: Tensor
    """Crops, uint8 `[B, H, W, 3]`; zeros where there is no sample."""
    codes: dict[str, Any]
    """Per teacher the collated codes, as its codec's `decode` takes them; zero maps where there are none."""
    weight: Tensor
    """1 for a sound sample, 0 for quarantine, padding and what was skipped, float32 `[B]`."""
    keys: list[str]
    """Sample keys; "" for padding."""
    skipped: int = 0
    """Samples whose shard is damaged, unreadable or missing; 0 unless they may be skipped."""


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
    naming the shard; after either, and after the last batch, the stream is closed. With `on_bad_shard` skip
    neither is raised, their samples keep their positions with weight 0; CacheError where this rank's batch
    would have no sound sample.
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
    pinned: bool = False
    """Pixels and codes in page-locked memory, for copies to a GPU that do not wait."""
    on_bad_shard: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if self.threads < 1 or self.first_step < 0:
            what = f"a stream from step {self.first_step} with {self.threads} threads"
            raise ValueError(f"{what}; steps count from 0 and at least 1 thread reads")
        self._first, self._count, self._padded = rank_slots(self.order.global_batch, self.world, self.rank)
        _check_views(self.cache, self.order)
        self._shards = [[s.index for s in self.cache.shards(view)] for view in range(self.order.views)]
        self._starts = np.cumsum((0, *self.order.shard_sizes))
        absent = self._absent_shards()
        # Each slot has a window of shards open; tables forgotten sooner would be read again for every sample.
        tables = self._count * (self.order.window + 2)
        skip = self.on_bad_shard == "skip"
        self._gatherer = Gatherer(self.cache, self.teachers, tables=tables, skip=skip, absent=absent)
        # Rows enough in flight to keep every thread busy while the consumer computes.
        self._ahead = 1 + max(1, -(-2 * self.threads // self._count))
        self._next, self._stop = self.first_step, self.first_step + self.steps
        self._pending: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(self.threads, _THREADS)
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
        while self._pending:
            self._pending.popleft().cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            # the collector may find a forgotten stream in one of its threads, which cannot wait for itself
            forgotten = threading.current_thread().name.startswith(_THREADS)
            pool.shutdown(wait=not forgotten, cancel_futures=True)

    def _walk(self) -> Iterator[Batch]:
        try:
            self._read_ahead()
            while self._pending:
                # nothing of the batch is kept here while the consumer has it
                yield self._pending.popleft().result()
                self._read_ahead()
        finally:  # Ctrl-C too: no thread outlives the iteration
            self.close()

    def _read_ahead(self) -> None:
        while self._pool is not None and self._next < self._stop and len(self._pending) <= self._ahead:
            whole: Future[Batch] = Future()
            self._pending.append(whole)
            self._pool.submit(self._begin, self._next, whole)
            self._next += 1

    def _begin(self, step: int, whole: Future[Batch]) -> None:
        """Deal a batch to the threads; the last to finish makes it whole."""
        with _failing(whole):
            side, padding = self.cache.invariants.views.size, self._padded - self._count
            rows = Rows.empty(
                self._padded, padding=padding, side=side, teachers=self.teachers, pinned=self.pinned
            )
            shares = _deal(list(self._parts(step)), self.threads)
            left = _Countdown(len(shares))
            for share in shares:
                if (pool := self._pool) is None:
                    return
                pool.submit(self._fill, step, rows, share, left, whole)

    def _fill(
        self, step: int, rows: Rows, share: Sequence[Part], left: _Countdown, whole: Future[Batch]
    ) -> None:
        with _failing(whole):
            for part in share:
                if whole.done():  # failed elsewhere, or nobody waits any more
                    return
                self._gatherer.fill(rows, part)
            if left.was_last():
                self._require_samples(step, rows)
                codes = self._gatherer.collate(rows, pinned=self.pinned)
                weight = torch.from_numpy(rows.weight)
                whole.set_result(Batch(step, rows.crops, codes, weight, rows.keys, len(rows.lost)))

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

    def _require_samples(self, step: int, rows: Rows) -> None:
        if rows.lost and not rows.weight.any():
            what = f"no sample of step {step} can be read: {len(rows.lost)} are in damaged or missing shards"
            raise CacheError(f"{what}; mend the cache with `cutler repair`, then run the same command again")

    def _absent_shards(self) -> set[int]:
        """Shards that some column lacks. Raises MissingData unless they may be skipped."""
        wanted, absent = {shard for view in self._shards for shard in view}, set()
        for column in (Column.images(), *self.teachers.values()):
            missing = sorted(wanted - self.cache.committed(column).keys())
            if not missing:
                continue
            what = f"{column} lacks {len(missing)} of {len(wanted)} shards, the first is {missing[0]}"
            if self.on_bad_shard == "stop":
                remedy = "finish the extraction, train on fewer views, or set stage1.on_bad_shard to skip"
                raise MissingData(f"{what}; {remedy}")
            log.warning("%s; their samples are skipped", what)
            absent.update(missing)
        return absent


class _Countdown:
    """Counts the shares of a batch that are still being read."""

    def __init__(self, count: int) -> None:
        self._left, self._lock = count, threading.Lock()

    def was_last(self) -> bool:
        """Count one share as done; True for the last one."""
        with self._lock:
            self._left -= 1
            return self._left == 0


@contextmanager
def _failing(whole: Future[Batch]) -> Iterator[None]:
    """Hand what is raised to whoever waits for the batch, if anybody still does."""
    try:
        yield
    except BaseException as error:
        if not whole.done():
            whole.set_exception(error)


def _deal(parts: Sequence[Part], shares: int) -> list[list[Part]]:
    """The parts in at most `shares` runs of about as many rows each: a task for each part costs too much."""
    before = np.cumsum([0, *(len(part.rows) for part in parts)])
    owner = before[:-1] * shares // before[-1]
    cuts = (np.flatnonzero(np.diff(owner)) + 1).tolist()
    return [list(parts[a:b]) for a, b in pairwise([0, *cuts, len(parts)])]


def _sizes(cache: Cache, view: int) -> tuple[int, ...]:
    return tuple(shard.rows for shard in cache.shards(view))


def _check_views(cache: Cache, order: Order) -> None:
    for view in range(order.views):
        sizes = _sizes(cache, view)
        if sizes != order.shard_sizes:
            what = f"view {view} has {sum(sizes)} samples in {len(sizes)} shards"
            wanted = f"the order {order.samples} in {len(order.shard_sizes)}"
            raise ValueError(f"{what}, {wanted}; make the order from this cache, with fewer views")
