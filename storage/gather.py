"""How some rows of one shard get into their places in a batch: pixels, codes, keys and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Rows:
    """The places of one batch, filled by several threads."""

    crops: Tensor
    """The batch's crops, uint8 `[B, H, W, 3]`, in pinned memory if asked."""
    images: NDArray[np.uint8]
    """The same memory; zeros where the sample is quarantined or padding."""
    codes: dict[str, list[Row | None]]
    """Per teacher the unpacked record of each sample; None where there is none."""
    weight: NDArray[np.float32]
    """1 for a sound sample, 0 for quarantine and padding, `[B]`."""
    keys: list[str]
    """Sample keys; "" for padding."""

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

    `teachers` maps names to the columns whose codes are read; `tables` sample tables are remembered.
    """

    def __init__(self, cache: Cache, teachers: Mapping[str, Column], *, tables: int) -> None:
        self._cache = cache
        self._columns = {teacher: (column, cache.codec(column)) for teacher, column in teachers.items()}
        self._table = lru_cache(maxsize=tables)(self._read_table)

    def fill(self, batch: Rows, part: Part) -> None:
        """Read `part` into its places of `batch`; no other place is touched.

        Raises CorruptObject where an object is damaged, CacheError naming the shard for any other failure.
        """
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
