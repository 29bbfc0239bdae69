"""How some rows of one shard get into their places in a batch: pixels, codes, keys and weights.

What cannot be read, or is not what was committed, is an error, or if it may be skipped an empty place. Rows
are given up one at a time, for each is checked by itself against its commit: which samples a damaged shard
loses depends neither on the threads nor on the ranks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.cache import Cache
from storage.codecs.base import Row
from storage.errors import CacheError, CorruptObject
from storage.jpeg import decode_jpeg
from storage.layout import Column
from storage.local_copy import LocalCopy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """The places of one batch, filled by several threads."""

    crops: Tensor
    """The batch's crops, uint8 `[B, H, W, 3]`, in pinned memory if asked."""
    images: NDArray[np.uint8]
    """The same memory; zeros where there is no sample."""
    codes: dict[str, list[Row | None]]
    """Per teacher the unpacked record of each sample; None where there is none."""
    weight: NDArray[np.float32]
    """1 for a sound sample, else 0, `[B]`."""
    keys: list[str]
    """Sample keys; "" for padding, and where the table of samples is lost."""
    lost: set[int] = field(default_factory=set)
    """Places of samples that could not be read."""

    def lose(self, places: list[int]) -> None:
        """Empty `places`, whatever was put there before the damage was met."""
        self.images[places], self.weight[places] = 0, 0
        for codes in self.codes.values():
            for place in places:
                codes[place] = None
        self.lost.update(places)

    @classmethod
    def empty(
        cls, rows: int, *, padding: int, side: int, teachers: Mapping[str, Column], pinned: bool
    ) -> Rows:
        """`rows` places of `side` x `side` pixels, the last `padding` of which stay empty.

        torch's allocator keeps pinned blocks for the next batch, and not before a copy from them has ended.
        """
        crops = torch.empty((rows, side, side, 3), dtype=torch.uint8, pin_memory=pinned)
        images = crops.numpy()
        images[rows - padding :] = 0
        codes: dict[str, list[Row | None]] = {teacher: [None] * rows for teacher in teachers}
        return cls(crops, images, codes, np.zeros(rows, np.float32), [""] * rows)


class Part(NamedTuple):
    """Rows of one shard and where they stand in a batch: what one task reads."""

    shard: int
    rows: list[int]
    places: list[int]


class _Table(NamedTuple):
    """What the reader needs of a shard's sample table."""

    keys: list[str]
    quarantined: NDArray[np.bool_]


class Gatherer:
    """Gathers parts of batches; any number of threads may call it at once.

    `teachers` maps names to the columns whose codes are read; `tables` sample tables are remembered. With
    `skip`, rows that cannot be read are lost, and so are all rows of the `absent` shards.
    """

    def __init__(
        self,
        cache: Cache,
        teachers: Mapping[str, Column],
        *,
        tables: int,
        skip: bool = False,
        absent: Container[int] = (),
    ) -> None:
        self._cache, self._skip, self._absent = cache, skip, absent
        self._columns = {teacher: (column, cache.codec(column)) for teacher, column in teachers.items()}
        self._table = lru_cache(maxsize=tables)(self._read_table)
        self._named: set[int] = set()
        self._lock = threading.Lock()

    def fill(self, batch: Rows, part: Part) -> None:
        """Read `part` into its places of `batch`; no other place is touched.

        Raises CorruptObject where an object is damaged, CacheError naming the shard for any other failure;
        if such rows are skipped, both are logged once per shard.
        """
        if part.shard in self._absent:
            batch.lose(part.places)
            return
        try:
            self._read_twice(batch, part)
        except CacheError as error:
            # a fault of the program is no damage
            if not self._skip or not isinstance(error.__cause__ or error, OSError | ValueError):
                raise
            self._give_up(batch, part, error)

    def _give_up(self, batch: Rows, part: Part, error: CacheError) -> None:
        batch.lose(part.places)
        with self._lock:
            known = part.shard in self._named
            self._named.add(part.shard)
        if not known:
            log.warning("shard %d has samples that are skipped: %s", part.shard, error)
        # a store that does not answer would be asked in vain for each row
        if len(part.rows) > 1 and not isinstance(error.__cause__, OSError):
            batch.lost.difference_update(part.places)
            for row, place in zip(part.rows, part.places, strict=True):
                self.fill(batch, Part(part.shard, [row], [place]))

    def _read_twice(self, batch: Rows, part: Part) -> None:
        """The second time from the cache itself, where the first met a damaged local copy of it."""
        try:
            self._read(batch, part)
        except CorruptObject as error:
            store = self._cache.store
            if not (isinstance(store, LocalCopy) and store.drop(error.path)):
                raise
            self._read(batch, part)

    def _read(self, batch: Rows, part: Part) -> None:
        try:
            self._fill_images(batch, part)
            for teacher in self._columns:
                self._fill_codes(batch, part, teacher)
        except CorruptObject as error:
            error.add_note(f"while reading rows {part.rows} of shard {part.shard}")
            raise
        except Exception as error:
            what = f"shard {part.shard}, rows {part.rows}, cannot be read: {error}"
            raise CacheError(f"{what}; check the cache with `cutler verify`") from error

    def collate(self, rows: Rows, *, pinned: bool) -> dict[str, Any]:
        """teacher -> the codes of a filled batch, as its codec's `decode` takes them."""
        return {
            teacher: codec.collate(rows.codes[teacher], pinned=pinned)
            for teacher, (_, codec) in self._columns.items()
        }

    def _fill_images(self, batch: Rows, part: Part) -> None:
        table = self._table(part.shard)
        jpegs = self._cache.read_images(part.shard, part.rows)
        for row, place, jpeg in zip(part.rows, part.places, jpegs, strict=True):
            batch.keys[place] = table.keys[row]
            if jpeg is None or table.quarantined[row]:
                batch.images[place] = 0
                continue
            pixels = decode_jpeg(jpeg)
            if pixels.shape != batch.images.shape[1:]:
                what = f"the crop of {table.keys[row]} is {pixels.shape}"
                raise ValueError(f"{what}, the cache's are {batch.images.shape[1:]}")
            batch.images[place] = pixels
            batch.weight[place] = 1

    def _fill_codes(self, batch: Rows, part: Part, teacher: str) -> None:
        column, codec = self._columns[teacher]
        records = self._cache.read_records(column, part.shard, part.rows)
        for place, record in zip(part.places, records, strict=True):
            if record is None:
                batch.weight[place] = 0
            else:
                batch.codes[teacher][place] = codec.unpack(record)

    def _read_table(self, shard: int) -> _Table:
        table = self._cache.samples(shard)
        return _Table(table["key"].to_pylist(), table["quarantine"].is_valid().to_numpy())
