"""What every container has: records found by an index of byte ranges, and a CRC on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import google_crc32c
import numpy as np

from storage.commits import Commit
from storage.errors import CorruptObject

MISSING = np.uint64(2**64 - 1)
"""Offset and size of a row without a record, as zarr's sharding marks an empty chunk."""
CRC_BYTES = 4
_ENTRY_BYTES = 16
# the CRC-32C of any message followed by its own CRC-32C, little-endian
_RESIDUE = 0x48674BC7

ReadRange = Callable[[int, int], bytes]
"""(offset, size) -> bytes of the object."""


@dataclass(frozen=True)
class Packed:
    """A shard object, not yet written."""

    parts: Sequence[bytes]
    """The object's bytes in order, in pieces: a shard may be gigabytes, which nobody wants to copy."""
    index: np.ndarray
    """Offset and size per row, uint64 [slots, 2]; MISSING where there is no record."""
    index_offset: int
    index_size: int

    @property
    def data(self) -> bytes:
        """The object in one piece."""
        return b"".join(self.parts)

    @property
    def size(self) -> int:
        """Size of the object, bytes."""
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Index:
    """Where the records of a shard are."""

    ranges: np.ndarray
    """Offset and size per row, uint64 [rows, 2]; MISSING where there is no record."""
    checksums: np.ndarray | None
    """CRC-32C per row, uint32 [rows], of records that do not carry their own (images)."""

    def range(self, row: int) -> tuple[int, int] | None:
        """Offset and size of a row's record, None where it has none."""
        offset, size = self.ranges[row]
        return None if offset == MISSING else (int(offset), int(size))

    def fault(self, row: int, record: bytes) -> str | None:
        """What is wrong with the bytes read for `row`, None when they are those that were written."""
        if len(record) != int(self.ranges[row, 1]):
            return f"row {row} ends after {len(record)} of {int(self.ranges[row, 1])} bytes"
        crc = google_crc32c.value(record)
        if crc != (_RESIDUE if self.checksums is None else int(self.checksums[row])):
            return f"row {row} fails its CRC-32C"
        return None


class Container(Protocol):
    """One way to lay records out in an object."""

    def pack(self, keys: Sequence[str], records: Sequence[bytes | None], ext: str) -> Packed:
        """The object of these records; `keys` are sample keys, None a row without a record."""


def add_crc(payload: bytes) -> bytes:
    """A record: the payload and its CRC-32C, 4 bytes little-endian."""
    return b"".join((payload, google_crc32c.value(payload).to_bytes(CRC_BYTES, "little")))


def has_crc(record: bytes) -> bool:
    """Whether a record ends with the CRC-32C of what precedes it."""
    return len(record) >= CRC_BYTES and google_crc32c.value(record) == _RESIDUE


def encode_index(ranges: np.ndarray, checksums: np.ndarray | None = None) -> bytes:
    """The index as written: ranges, checksums if any, CRC-32C; little-endian."""
    tail = b"" if checksums is None else checksums.astype("<u4").tobytes()
    return add_crc(ranges.astype("<u8").tobytes() + tail)


def load_index(read_range: ReadRange, commit: Commit) -> Index:
    """The index of a committed shard object, by reading only its range.

    Raises CorruptObject when it is damaged or does not fit the object.
    """
    path, place = commit.records.name, commit.index
    if place is None:
        raise CorruptObject(commit.path, "it names no index")
    data = read_range(place.offset, place.size)
    if len(data) != place.size or not has_crc(data):
        raise CorruptObject(path, "its index fails its CRC-32C")
    plain = commit.column == "images"
    slots, rest = divmod(place.size - CRC_BYTES, _ENTRY_BYTES + (4 if plain else 0))
    if rest or slots < commit.rows:
        raise CorruptObject(path, f"its index has {slots} entries for {commit.rows} rows")
    ranges = np.frombuffer(data, "<u8", 2 * slots).reshape(slots, 2)[: commit.rows]
    checksums = np.frombuffer(data, "<u4", slots, offset=_ENTRY_BYTES * slots) if plain else None
    present = ranges[ranges[:, 0] != MISSING]
    # compared without adding: a forged sum could wrap around
    size = np.uint64(commit.records.bytes)
    if (present > size).any() or (present[:, 1] > size - present[:, 0]).any():
        raise CorruptObject(path, "its index points outside the object")
    return Index(ranges, checksums)
