"""What every container has: records found by an index that the commit vouches for, a CRC on each of them.

A commit holds the SHA-256 of its object's index, the index a CRC-32C of every row. So bytes that are sound
but in the wrong place (objects exchanged, a record in another's row) are told from those that belong there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from storage.commits import Commit
from storage.crc import crc32c
from storage.errors import CorruptObject
from storage.identity import sha256

MISSING = np.uint64(2**64 - 1)
"""Offset and size of a row without a record, as zarr's sharding marks an empty chunk."""
CRC_BYTES = 4
_RANGE_BYTES = 16
# the CRC-32C of any message followed by its own CRC-32C, little-endian
_RESIDUE = 0x48674BC7

ReadRange = Callable[[int, int], bytes]
"""(offset, size) -> bytes of the object."""


@dataclass(frozen=True)
class Packed:
    """A shard object, not yet written."""

    parts: Sequence[bytes]
    """The object's bytes in order, in pieces: a shard may be gigabytes, which nobody wants to copy."""
    index: bytes
    """Where the records are; see encode_index."""
    index_offset: int
    """Where the index is in the object."""

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
    """Where the records of a shard are, and what their bytes must be."""

    name: str
    """The object."""
    ranges: np.ndarray
    """Offset and size per row, uint64 [rows, 2]; MISSING where there is no record."""
    checksums: np.ndarray
    """CRC-32C per row, uint32 [rows]: of the file (images), or of the payload, with which a record ends."""
    plain: bool
    """Whether records are files that carry no CRC of their own."""

    def range(self, row: int) -> tuple[int, int] | None:
        """Offset and size of a row's record, None where it has none."""
        offset, size = self.ranges[row]
        return None if offset == MISSING else (int(offset), int(size))

    def fault(self, row: int, record: bytes) -> str | None:
        """What is wrong with the bytes read for `row`, None when they are those that were written."""
        if len(record) != int(self.ranges[row, 1]):
            return f"row {row} ends after {len(record)} of {int(self.ranges[row, 1])} bytes"
        crc, wanted = crc32c(record), int(self.checksums[row])
        if crc != (wanted if self.plain else _RESIDUE):
            return f"row {row} fails its CRC-32C"
        if not self.plain and record[-CRC_BYTES:] != wanted.to_bytes(CRC_BYTES, "little"):
            return f"row {row} holds another record than was committed there, a whole one"
        return None


class Container(Protocol):
    """One way to lay records out in an object."""

    def pack(self, keys: Sequence[str], records: Sequence[bytes | None], ext: str) -> Packed:
        """The object of these records; `keys` are sample keys, None a row without a record."""


def add_crc(payload: bytes) -> bytes:
    """A record: the payload and its CRC-32C, 4 bytes little-endian."""
    return b"".join((payload, crc32c(payload).to_bytes(CRC_BYTES, "little")))


def has_crc(record: bytes) -> bool:
    """Whether a record ends with the CRC-32C of what precedes it."""
    return len(record) >= CRC_BYTES and crc32c(record) == _RESIDUE


def own_crc(record: bytes) -> int:
    """The CRC-32C that a record ends with."""
    return int.from_bytes(record[-CRC_BYTES:], "little")


def encode_index(ranges: np.ndarray, checksums: np.ndarray) -> bytes:
    """The index as written, little-endian: CRC-32C per row, then what zarr calls a shard index.

    That is offset and size per row and the CRC-32C of these. Stock zarr looks at its own part alone.
    """
    return checksums.astype("<u4").tobytes() + add_crc(ranges.astype("<u8").tobytes())


def load_index(read_range: ReadRange, commit: Commit) -> Index:
    """The index of a committed shard object, by reading only its range.

    Raises CorruptObject when it is not the one that was committed, or does not fit the object.
    """
    path, place = commit.records.name, commit.index
    data = read_range(place.offset, place.size)
    if sha256(data) != place.sha256:
        raise CorruptObject(path, "its index is not the one in its commit: cut, changed, or another object's")
    slots, rest = divmod(place.size - CRC_BYTES, CRC_BYTES + _RANGE_BYTES)
    if rest or slots < commit.rows:
        raise CorruptObject(path, f"its index has {slots} entries for {commit.rows} rows")
    checksums = np.frombuffer(data, "<u4", commit.rows)
    ranges = np.frombuffer(data, "<u8", 2 * commit.rows, offset=CRC_BYTES * slots).reshape(-1, 2)
    absent = ranges[:, 0] == MISSING
    if (rows := np.flatnonzero(absent).tolist()) != list(commit.quarantined):
        why = f"rows {rows} have no record, its commit quarantines {list(commit.quarantined)}"
        raise CorruptObject(path, why)
    present = ranges[~absent]
    # compared without adding: a forged sum could wrap around
    size = np.uint64(commit.records.bytes)
    if (present > size).any() or (present[:, 1] > size - present[:, 0]).any():
        raise CorruptObject(path, "its index points outside the object")
    return Index(path, ranges, checksums, plain=commit.column == "images")
