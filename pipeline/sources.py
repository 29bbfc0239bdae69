"""Which photos are there, what are they called, and how is one read: folders, WebDataset and ImageNet tars.

A photo's key comes from its path relative to the source, so it is the same wherever the source lies; the
official ImageNet tar gives the same keys as the folder it unpacks to.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from pipeline.config import SourceConfig
from pipeline.source_files import EXTENSIONS, SourceError, files_below, is_photo, tar_root, tars_at
from pipeline.source_index import Entry, index_fingerprint, to_chunks, to_index
from pipeline.tar_index import Member, ReadAt, tar_members
from storage.store import Store, open_store

log = logging.getLogger(__name__)

INDEX_THREADS = 8
"""Tars indexed at the same time; hides the latency of a remote store."""
REMOTE_BLOCK = 4 << 20
LOCAL_BLOCK = 4 << 10
"""Bytes fetched at once while headers are read."""
WDS_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""WebDataset's split of a member's name: what follows the first dot is the extension."""


class Source:
    """The photos at one place; safe for threads, and light to send to another process.

    Raises:
        SourceError: (from `index`, which looks first) nothing is there, or no photo is in it.
    """

    def __init__(self, config: SourceConfig) -> None:
        if not config.path:
            raise SourceError("source.path is empty; name a folder, a tar or a URL that holds the images")
        self.config = config

    def index(self) -> pa.Table:
        """Every photo, sorted by key.

        Columns: key (escaped, unique, without dots), path (the file that holds it, relative), offset (bytes;
        -1: the whole file), size (bytes).
        """
        return self._table

    def fingerprint(self) -> str:
        """Hex SHA-256 over all keys and sizes: the same photos under the same names."""
        return self._fingerprint

    def read(self, path: str, offset: int, size: int) -> bytes:
        """The bytes of one photo, by its row of the index.

        Raises:
            SourceError: the file is not as long as it was when it was indexed.
        """
        data = self._store.read(path) if offset < 0 else self._store.read_range(path, offset, size)
        if len(data) != size:
            raise SourceError(
                f"{self.config.path}: {path} gave {len(data)} bytes where {size} were indexed; "
                "the source has changed: restore it, or extract into a new cache"
            )
        return data

    def __getstate__(self) -> dict[str, SourceConfig]:
        return {"config": self.config}

    @cached_property
    def _fingerprint(self) -> str:
        return index_fingerprint(self._table)

    @cached_property
    def _table(self) -> pa.Table:
        table = to_index(KINDS[self.config.kind](self.config.path), self.config.path)
        if not len(table):
            wanted = ", ".join(sorted(EXTENSIONS))
            raise SourceError(f"source.path {self.config.path} holds no image ({wanted}); check source.kind")
        return table

    @cached_property
    def _store(self) -> Store:
        return _store_of(self.config.path if self.config.kind == "folder" else tar_root(self.config.path))


def open_source(config: SourceConfig) -> Source:
    """The source that the recipe names; nothing is looked at yet."""
    return Source(config)


def _folder(path: str) -> Iterator[pa.Table]:
    """Any tree of images."""
    return to_chunks(Entry(name, name, -1, size) for name, size in files_below(path))


def _tars(path: str, entries: Callable[[ReadAt, str, int], Iterable[Entry]]) -> Iterator[pa.Table]:
    """Every tar at `path`, several at a time, each giving `entries(read_at, tar, size)`."""
    store, tars = _store_of(tar_root(path)), tars_at(path)

    def chunks(tar: str) -> list[pa.Table]:
        with _reading(store, tar) as read_at:
            return list(to_chunks(entries(read_at, tar, tars[tar])))

    with ThreadPoolExecutor(INDEX_THREADS) as pool:
        for found in pool.map(chunks, tars):
            yield from found


def _wds_entries(read_at: ReadAt, tar: str, size: int) -> Iterator[Entry]:
    """Members that WebDataset would decode as photos; two tars may use the same names."""
    dotted = []
    for member in tar_members(read_at, tar, 0, size):
        match = WDS_NAME.match(member.name)
        if match and match[2].lower() in EXTENSIONS and is_photo(member.name):
            yield Entry(f"{tar}/{member.name}", tar, member.offset, member.size)
        elif is_photo(member.name):
            dotted.append(member.name)
    if dotted:
        why = "WebDataset takes all that follows the first dot as the extension"
        log.warning("%s: %d members left out, the first: %s; %s", tar, len(dotted), dotted[0], why)


def _imagenet_entries(read_at: ReadAt, tar: str, size: int) -> Iterator[Entry]:
    """Photos of a tar and of the tars in it: `n01440764.tar` holds the folder n01440764."""
    for outer in tar_members(read_at, tar, 0, size):
        folder, _, extension = outer.name.rpartition(".")
        if extension.lower() == "tar":
            inner = tar_members(read_at, f"{tar}/{outer.name}", outer.offset, outer.offset + outer.size)
            members: Iterable[Member] = (m._replace(name=f"{folder}/{m.name}") for m in inner)
        else:
            members = [outer]
        yield from (Entry(m.name, tar, m.offset, m.size) for m in members if is_photo(m.name))


def _imagenet(path: str) -> Iterator[pa.Table]:
    """The one tar of ILSVRC2012: its keys have no tar's name in them, so a second tar could repeat them."""
    if (count := len(tars_at(path))) != 1:
        raise SourceError(
            f"source.path {path} names {count} tars, imagenet_tar reads one; use source.kind = wds"
        )
    return _tars(path, _imagenet_entries)


KINDS: dict[str, Callable[[str], Iterator[pa.Table]]] = {
    "folder": _folder,
    "wds": lambda path: _tars(path, _wds_entries),
    "imagenet_tar": _imagenet,
}
"""source.kind -> what indexes it."""


def _store_of(folder: str) -> Store:
    return open_store(folder if "://" in folder else str(Path(folder).expanduser()))


@contextmanager
def _reading(store: Store, path: str) -> Iterator[ReadAt]:
    """Small reads of one file, through a block that is kept: neighbouring headers are one fetch."""
    local = store.local_path(path)
    if local is None:
        yield _blockwise(lambda offset, size: store.read_range(path, offset, size), REMOTE_BLOCK)
        return
    with local.open("rb", buffering=0) as file:
        yield _blockwise(lambda offset, size: os.pread(file.fileno(), size, offset), LOCAL_BLOCK)


def _blockwise(fetch: ReadAt, block: int) -> ReadAt:
    start, kept = 0, b""

    def read_at(offset: int, size: int) -> bytes:
        nonlocal start, kept
        if offset < start or offset + size > start + len(kept):
            start, kept = offset, fetch(offset, max(size, block))
        return kept[offset - start : offset - start + size]

    return read_at
