"""How a shard becomes a tar that anyone can open: one member per sample, an index last."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

import numpy as np

from storage.containers.base import MISSING, Packed, encode_index, own_crc
from storage.crc import crc32c

INDEX_MEMBER = "__index__"
"""Last member; webdataset skips names of this form."""
_BLOCK = 512
_END = bytes(2 * _BLOCK)


class TarContainer:
    """Deterministic tar: no times, no owners, members `<sample key>.<ext>` in row order."""

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        """Records are ordinary files (JPEG) that do not end with their CRCs."""

    def pack(self, keys: Sequence[str], records: Sequence[bytes | None], ext: str) -> Packed:
        """The tar of these records; rows without one are absent."""
        parts: list[bytes] = []
        ranges = np.full((len(keys), 2), MISSING, np.uint64)
        checksums = np.zeros(len(keys), np.uint32)
        at = 0
        for row, (key, record) in enumerate(zip(keys, records, strict=True)):
            if record is None:
                continue
            offset = at + _append(parts, f"{key}.{ext}", record)
            ranges[row] = offset, len(record)
            checksums[row] = crc32c(record) if self.plain else own_crc(record)
            at = offset + len(record) + len(_padding(record))
        index = encode_index(ranges, checksums)
        index_offset = at + _append(parts, INDEX_MEMBER, index)
        parts.append(_END)
        return Packed(parts, index, index_offset)


def _append(parts: list[bytes], name: str, content: bytes) -> int:
    """Add a member to `parts`; the size of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    parts += [header, content, _padding(content)]
    return len(header)


def _padding(content: bytes) -> bytes:
    return bytes(-len(content) % _BLOCK)
