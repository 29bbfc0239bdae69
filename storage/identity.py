"""What a thing is called: canonical JSON, digests, fingerprints, sealed documents and sample keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from storage.errors import CorruptObject, FormatError

Data = bytes | Sequence[bytes]
"""Bytes in one piece, or in several to be written one after the other."""

_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/")
_ESCAPED = {byte: chr(byte) if byte in _KEPT else f"%{byte:02X}" for byte in range(256)}


def canonical_json(doc: Any) -> bytes:
    """The one way `doc` is written: sorted keys, indented by one, no NaN, trailing newline.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    text = json.dumps(doc, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256(data: Data) -> str:
    """Hex SHA-256 of `data`, in one piece or several."""
    digest = hashlib.sha256()
    for part in [data] if isinstance(data, bytes) else data:
        digest.update(part)
    return digest.hexdigest()


def digest8(digest: str) -> str:
    """The eight characters of a hex digest that stand in an object's name."""
    return digest[:8]


def fingerprint(doc: Any) -> str:
    """Eight hex characters that differ when `doc` differs."""
    return digest8(sha256(canonical_json(doc)))


def seal(doc: dict[str, Any]) -> bytes:
    """The bytes of `doc` with a `checksum` over everything else in it."""
    return canonical_json({**doc, "checksum": sha256(canonical_json(doc))})


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """The document that `seal` wrote to `path`, without its checksum.

    Raises CorruptObject when any byte differs, white space included.
    """
    try:
        doc = json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptObject(path, "it is not the JSON that was written") from None
    if not isinstance(doc, dict) or "checksum" not in doc or list(doc) != sorted(doc):
        raise CorruptObject(path, "it is not the JSON that was written")
    checksum = doc.pop("checksum")
    if checksum != sha256(_without_checksum(data, checksum)):
        raise CorruptObject(path, f"its content does not match its checksum {checksum}")
    return doc


def _without_checksum(data: bytes, checksum: object) -> bytes:
    """Sealed bytes as they were before the seal: cut, for writing them again takes five times as long."""
    head, _, tail = data.partition(f'\n "checksum": "{checksum}"'.encode())
    if tail.startswith(b","):
        return head + tail[1:]
    # it was the last entry, or the only one
    return b"{}\n" if (head, tail) == (b"{", b"\n}\n") else head.removesuffix(b",") + tail


def escape_key(path: str) -> str:
    """A sample's key from its path in the source: letters, digits, `_`, `-`, `/`; all else is %XX of UTF-8.

    One-to-one (unquoted as a URL it is the path again), holds no dot (webdataset ends a key at its first dot)
    and no leading slash.
    Raises ValueError for an empty path.
    """
    if not path:
        raise ValueError("a sample's path is empty; every image of a source needs a name")
    key = "".join(map(_ESCAPED.__getitem__, path.encode("utf-8", "surrogateescape")))
    return "%2F" + key[1:] if key.startswith("/") else key


def sample_key(key: str, view: int) -> str:
    """The name of view `view` of `key`."""
    return f"{key}~v{view}"


def split_sample_key(name: str) -> tuple[str, int]:
    """Key and view of a sample's name. Raises FormatError when it is none."""
    key, mark, view = name.rpartition("~v")
    if not mark or not view.isascii() or not view.isdigit():
        raise FormatError(
            f"{name!r} is not a sample key; it should end in ~v and the view, as in cat/1%2Ejpg~v0"
        )
    return key, int(view)
