"""Where bytes are kept: a local folder or any fsspec URL, behind the same few calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import fsspec

from storage.identity import Data
from storage.local import LocalStore

Range = tuple[int, int]
"""Offset and size, bytes."""


_BLOCK_BYTES = 16 << 20
# botocore tries a request four times, waiting this many seconds each time; s3fs tries again what it gave up,
# in two loops, one within the other: after 36 tries, nine minutes, a server that is silent is given up
_S3_PATIENCE = {
    "connect_timeout": 5,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}
_S3FS_TRIES = 3


class Store(Protocol):
    """Objects by relative path. Reading what is not there raises FileNotFoundError."""

    url: str

    def read(self, path: str) -> bytes:
        """The whole object."""

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer when the object ends before."""

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of one object, in the order asked."""

    def exists(self, path: str) -> bool:
        """Whether the object is there."""

    def size(self, path: str) -> int:
        """Size of the object, bytes."""

    def list(self, prefix: str = "") -> list[str]:
        """Every object below the folder `prefix`, recursively, sorted."""

    def folders(self, prefix: str) -> Sequence[str]:
        """Names of the folders directly in the folder `prefix`, sorted."""

    def put_new(self, path: str, data: Data) -> bool:
        """Write the object whole, or not at all if it is there already (False)."""

    def replace(self, path: str, data: Data) -> None:
        """Write the object whole, over what was there."""

    def delete(self, path: str) -> None:
        """Remove the object; nothing happens when it is not there."""

    def local_path(self, path: str) -> Path | None:
        """Where the object is as a file, or None when it is not in a local folder."""


def open_store(url: str) -> Store:
    """The store at a local folder (made when first written to) or an fsspec URL such as s3://bucket/cache."""
    if "://" not in url:
        return LocalStore(Path(url))
    if url.startswith("file://"):
        return LocalStore(Path(url.removeprefix("file://")))
    return RemoteStore(url)


def measure(store: Store, path: str) -> tuple[int, str]:
    """Size and hex SHA-256 of an object, read in blocks. Raises FileNotFoundError."""
    # size first: a service refuses a range that begins at the end
    size, digest, done = store.size(path), hashlib.sha256(), 0
    while done < size and (block := store.read_range(path, done, min(_BLOCK_BYTES, size - done))):
        digest.update(block)
        done += len(block)
    return done, digest.hexdigest()


class RemoteStore:
    """Objects behind an fsspec URL.

    `put_new` is as atomic as the service's conditional put: S3 and GCS have one. A service without it is
    single-writer: run one extraction at a time there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # a listing cache would hide what other hosts commit
        self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **_patience(url))
        self._root = root.rstrip("/")
        if _is_s3(url):
            self._fs.retries = _S3FS_TRIES

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Name the object whose reading failed at last, and make of every library's errors an OSError."""
        try:
            yield
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise OSError(f"{self.url}/{path} cannot be read after several tries ({what})") from error

    def read(self, path: str) -> bytes:
        with self._named(path):
            return bytes(self._fs.cat_file(self._path(path)))

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        with self._named(path):
            try:
                # by keyword: what stands second differs between file systems, on S3 it is a version
                return bytes(self._fs.cat_file(self._path(path), start=offset, end=offset + size))
            except (TimeoutError, ConnectionError):
                raise
            except OSError:
                # services refuse a range that begins at the end of the object
                if offset >= self.size(path):
                    return b""
                raise

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        starts = [offset for offset, _ in ranges]
        ends = [offset + size for offset, size in ranges]
        with self._named(path):
            found = self._fs.cat_ranges([self._path(path)] * len(ranges), starts, ends, on_error="raise")
        return [bytes(part) for part in found]

    def exists(self, path: str) -> bool:
        return bool(self._fs.isfile(self._path(path)))

    def size(self, path: str) -> int:
        return int(self._fs.size(self._path(path)))

    def list(self, prefix: str = "") -> list[str]:
        found = self._fs.find(self._path(prefix.rstrip("/")))
        return sorted(name.removeprefix(self._root + "/") for name in found)

    def folders(self, prefix: str) -> Sequence[str]:
        try:
            entries = self._fs.ls(self._path(prefix.rstrip("/")), detail=True)
        except FileNotFoundError:
            return []
        return sorted(e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == "directory")

    def put_new(self, path: str, data: Data) -> bool:
        if self.exists(path):
            return False
        try:
            self._fs.pipe_file(self._path(path), _whole(data), mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, path: str, data: Data) -> None:
        self._fs.pipe_file(self._path(path), _whole(data))

    def delete(self, path: str) -> None:
        if self.exists(path):
            self._fs.rm_file(self._path(path))

    def local_path(self, path: str) -> Path | None:
        return None


def _patience(url: str) -> dict[str, Any]:
    """Options that bound how long S3 is waited for, unless the user's fsspec settings say otherwise."""
    if not _is_s3(url):
        return {}
    asked = fsspec.config.conf.get(url.partition("://")[0], {}).get("config_kwargs", {})
    return {"config_kwargs": _S3_PATIENCE | asked}


def _is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


def _whole(data: Data) -> bytes:
    return data if isinstance(data, bytes) else b"".join(data)
