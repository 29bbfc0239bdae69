"""Where are the files inside a tar: their names, offsets and sizes, from the headers alone.

Nothing is unpacked and no payload is read, so that 1.28 million photos are indexed by 1.28 million small
reads, and a tar within a tar is only a range of the outer one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> bytes of the file that holds the tar; fewer at its end."""

_FILE = frozenset({b"\0", b"0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class Member(NamedTuple):
    """One regular file in a tar; bytes that are not UTF-8 are surrogates in its name, as in file names."""

    name: str
    offset: int
    size: int


class TarError(ValueError):
    """A tar that cannot be read to its end; the message names the tar and the offset."""

    def __init__(self, tar: str, offset: int, what: str) -> None:
        super().__init__(f"{tar}, offset {offset}: {what}")


def tar_members(read_at: ReadAt, tar: str, start: int, end: int) -> Iterator[Member]:
    """Regular files of the tar in bytes `[start, end)`, in the tar's order.

    ustar, GNU (long names, large sizes) and PAX. Links, devices and folders are passed over.

    Raises:
        TarError: no tar, compressed, damaged, sparse, or cut short, be it between two members.
    """
    position = start
    shared: dict[str, bytes] = {}
    own: dict[str, bytes] = {}
    while (header := _header(read_at, tar, position, start, end)) is not None:
        kind, size = header[156:157], _size(header, shared | own, tar, position)
        data = position + BLOCK
        if kind in _WITHOUT_DATA:
            size = 0
        if data + size > end:
            raise TarError(
                tar,
                position,
                f"cut short: {max(end - data, 0)} of a member's {size} bytes are there; fetch it again",
            )
        if kind == b"g":
            shared |= _pax(read_at(data, size), tar, position)
        elif kind == b"x":
            own |= _pax(read_at(data, size), tar, position)
        elif kind == b"L":
            own["path"] = read_at(data, size).rstrip(b"\0")
        elif kind != b"K":
            known = shared | own
            if kind == b"S" or any(key.startswith("GNU.sparse") for key in known):
                raise TarError(tar, position, "sparse member, which is no one range of bytes; repack it")
            name = known.get("path") or _name(header)
            if kind in _FILE and not name.endswith(b"/"):
                yield Member(_clean(name), data, size)
            own = {}
        position = data + -(-size // BLOCK) * BLOCK


def _header(read_at: ReadAt, tar: str, position: int, start: int, end: int) -> bytes | None:
    """The checked header block at `position`; None at the end-of-archive mark."""
    header = read_at(position, min(BLOCK, max(end - position, 0)))
    if position == start:
        _refuse_compressed(header, tar, position)
    if len(header) < BLOCK:
        what = (
            "this is no tar"
            if position == start
            else "cut short: neither a header nor the end-of-archive mark; fetch it again"
        )
        raise TarError(tar, position, what)
    if not any(header):
        return None
    try:
        stored = int(header[148:156].strip(b"\0 "), 8)
    except ValueError:
        stored = -1
    # the sum is taken with the checksum field itself as eight spaces
    if stored != sum(header) - sum(header[148:156]) + 8 * 32:
        what = "this is no tar" if position == start else "damaged: no valid header; fetch it again"
        raise TarError(tar, position, what)
    return header


def _refuse_compressed(header: bytes, tar: str, position: int) -> None:
    for magic, name in _COMPRESSED.items():
        if header.startswith(magic):
            raise TarError(
                tar, position, f"compressed with {name}, so its members have no offsets; decompress it"
            )


def _size(header: bytes, pax: dict[str, bytes], tar: str, position: int) -> int:
    """Bytes of the member's data: PAX, GNU base-256 or octal."""
    field = header[124:136]
    try:
        if "size" in pax and header[156:157] not in b"xgLK":
            size = int(pax["size"])
        elif field[0] == 0x80:
            size = int.from_bytes(field[1:], "big")
        else:
            size = int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        size = -1
    if size < 0:
        raise TarError(tar, position, "damaged: no size in the header; fetch it again")
    return size


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    # GNU's magic is "ustar  ": it keeps other things where ustar has the prefix
    return prefix + b"/" + name if header[257:263] == b"ustar\0" and prefix else name


def _clean(name: bytes) -> str:
    """A relative path as a folder walk would give it: `./a/b` is `a/b`."""
    text = name.decode("utf-8", "surrogateescape")
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def _pax(data: bytes, tar: str, position: int) -> dict[str, bytes]:
    """Records `<length> <key>=<value>\\n` of an extended header."""
    records: dict[str, bytes] = {}
    while data:
        digits, _, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, found, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not found or data[length - 1 : length] != b"\n":
            raise TarError(tar, position, "damaged: an extended header that cannot be read; fetch it again")
        records[key.decode("utf-8", "replace")] = value
        data = data[length:]
    return records
