"""Which sample stands at which position of which global batch: a pure function, on any number of ranks.

The samples of a view are cut evenly into as many slots as the global batch has positions. Slot p walks
endless passes over its own range, and its n-th sample stands at position p of batch n. So every sample
is seen exactly once per pass of its slot although N is no multiple of the batch; a rank that takes a
block of slots reads only its own shards; and nothing but the step number is needed to resume.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from storage.identity import sha256

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The sequence of global batches over the shards of one view (every view has the same shards).

    Each pass of a slot shuffles the shard blocks of its range, deals them into windows of at most `window`
    blocks, and shuffles the samples within each window: well mixed, with few shards in use at a time. Raises
    ValueError where the numbers cannot make a batch.
    """

    seed: int
    """Seed of every shuffle, >= 0."""
    shard_sizes: tuple[int, ...]
    """Samples in each shard of one view, in the order of their positions."""
    global_batch: int
    """Samples per step over all ranks (G), which is the number of slots."""
    views: int
    """Cached views per image (K); a slot's pass p reads view p mod K."""
    window: int
    """Shard blocks mixed together by the shuffle."""

    def __post_init__(self) -> None:
        for name in ("global_batch", "views", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"order.{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0 or min(self.shard_sizes, default=0) < 1:
            what = f"order has seed {self.seed} and {len(self.shard_sizes)} shards"
            raise ValueError(f"{what}; the seed must be >= 0 and shards hold at least one sample each")
        if self.samples < self.global_batch:
            what = (
                f"the cache holds {self.samples} samples per view, the global batch asks {self.global_batch}"
            )
            raise ValueError(f"{what}; extract more images or set a smaller batch_size")

    @cached_property
    def samples(self) -> int:
        """Samples of one view (N)."""
        return sum(self.shard_sizes)

    @property
    def steps_per_epoch(self) -> int:
        """ceil(N / G): every sample was seen; the few that were seen twice belong to the next pass."""
        return -(-self.samples // self.global_batch)

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that the sequence depends on; a checkpoint pins it."""
        numbers = (self.seed, self.global_batch, self.views, self.window, *self.shard_sizes)
        return sha256(" ".join(map(str, ("order 1", *numbers))).encode())[:16]

    def slot_range(self, slot: int) -> tuple[int, int]:
        """First position of the slot's range and the one after its last."""
        if not 0 <= slot < self.global_batch:
            raise ValueError(f"slot {slot} is not in 0..{self.global_batch - 1}; a slot is a batch position")
        return slot * self.samples // self.global_batch, (slot + 1) * self.samples // self.global_batch

    def slot_sample(self, slot: int, n: int) -> tuple[int, int]:
        """(position in the view's sample list, view) of the slot's n-th sample."""
        first, stop = self.slot_range(slot)
        turn, offset = divmod(n, stop - first)
        start, positions = self.window_of(slot, turn, offset)
        return int(positions[offset - start]), turn % self.views

    def batch(self, step: int, first_slot: int = 0, slots: int | None = None) -> Ints:
        """Rows (position, view) of global batch `step` at its slots from `first_slot`, int64 `[slots, 2]`.

        Remembers each slot's current window, so that walking the steps in turn costs microseconds; any
        step may be asked at any time. Raises ValueError outside the batch or before step 0.
        """
        count = self.global_batch - first_slot if slots is None else slots
        if step < 0 or first_slot < 0 or count < 0 or first_slot + count > self.global_batch:
            what = f"step {step}, slots {first_slot}..{first_slot + count - 1}"
            raise ValueError(f"{what} asked of a global batch of {self.global_batch}; ask within it")
        return self._windows.rows(step, slice(first_slot, first_slot + count))

    def window_of(self, slot: int, turn: int, offset: int) -> tuple[int, Ints]:
        """The window of pass `turn` that holds `offset` of the slot: its first offset, its positions."""
        edges = self._block_edges(slot)
        blocks = _shuffled(len(edges) - 1, (self.seed, slot, turn, 0))
        # Even windows: a short last one would hardly be mixed.
        count = -(-len(blocks) // self.window)
        cuts = np.arange(count + 1) * len(blocks) // count
        starts = np.concatenate([[0], np.cumsum(np.diff(edges)[blocks])])[cuts]
        index = int(np.searchsorted(starts, offset, "right")) - 1
        chosen = blocks[cuts[index] : cuts[index + 1]]
        positions = np.concatenate([np.arange(edges[b], edges[b + 1]) for b in chosen])
        return int(starts[index]), positions[_shuffled(len(positions), (self.seed, slot, turn, index + 1))]

    def _block_edges(self, slot: int) -> Ints:
        """Positions where the slot's range is cut by its ends and by shard boundaries, ascending."""
        first, stop = self.slot_range(slot)
        starts = self._shard_starts
        inside = starts[np.searchsorted(starts, first, "right") : np.searchsorted(starts, stop, "left")]
        return np.concatenate([[first], inside, [stop]])

    @cached_property
    def _shard_starts(self) -> Ints:
        return np.cumsum(np.array((0, *self.shard_sizes), np.int64))

    @cached_property
    def _windows(self) -> _Windows:
        return _Windows(self)


class _Windows:
    """The current window of every slot, as arrays, so that a batch is three vector operations."""

    def __init__(self, order: Order) -> None:
        self._order, self._lock = order, threading.Lock()
        ranges = np.array([order.slot_range(slot) for slot in range(order.global_batch)])
        self._sizes = ranges[:, 1] - ranges[:, 0]
        widest = min(int(self._sizes.max()), order.window * max(order.shard_sizes))
        self._low = np.zeros(order.global_batch, np.int64)
        self._high = np.zeros(order.global_batch, np.int64)
        self._positions = np.empty((order.global_batch, widest), np.int64)  # untouched slots take no memory

    def rows(self, step: int, block: slice) -> Ints:
        """Rows (position, view) of one step for a block of slots."""
        with self._lock:
            stale = (step < self._low[block]) | (step >= self._high[block])
            for slot in np.flatnonzero(stale) + block.start:
                self._load(int(slot), step)
            columns = step - self._low[block]
            positions = self._positions[np.arange(block.start, block.stop), columns]
        return np.stack([positions, step // self._sizes[block] % self._order.views], axis=1)

    def _load(self, slot: int, step: int) -> None:
        size = int(self._sizes[slot])
        turn, offset = divmod(step, size)
        start, positions = self._order.window_of(slot, turn, offset)
        self._low[slot] = turn * size + start
        self._high[slot] = self._low[slot] + len(positions)
        self._positions[slot, : len(positions)] = positions


def rank_slots(global_batch: int, world: int, rank: int) -> tuple[int, int, int]:
    """(first slot, slots, rows of the padded batch) of one rank.

    Every rank's batch has the same number of rows; where the world does not divide the global batch,
    some ranks have one row of weight 0. Raises ValueError for a rank outside the world, or more ranks
    than rows.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not in a world of {world}; ranks count from 0")
    if world > global_batch:
        what = f"{world} ranks share a global batch of {global_batch}"
        raise ValueError(f"{what}; start at most {global_batch} ranks or set a larger batch_size")
    first, stop = rank * global_batch // world, (rank + 1) * global_batch // world
    return first, stop - first, -(-global_batch // world)


def _shuffled(count: int, words: tuple[int, ...]) -> Ints:
    """A permutation of `count` drawn from the words.

    Sorts raw Philox output, which NumPy keeps stable across releases, as it does not Generator.permutation: a
    run must resume under another NumPy.
    """
    raw = np.random.Philox(np.random.SeedSequence(words)).random_raw(count)
    return np.argsort(raw, kind="stable")
