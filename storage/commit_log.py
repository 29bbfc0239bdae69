"""Which shards of a column are committed: from one compaction where that has all, else document by document.

A compaction is believed alone: whoever takes a commit out deletes the compactions first (publish.py). So
opening a finished cache costs one listing of one name and one object per column, not 5,000 documents, and no
document is parsed before its commit is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.commits import Commit, read_commit, write_commit
from storage.errors import CorruptObject
from storage.identity import digest8, sha256
from storage.layout import Column
from storage.store import Store

# requests in flight where documents are read one by one; more does not pay in one process
_THREADS = 16
# commits kept as objects, some 5 KB each; what is forgotten is parsed again in 50 us
_PARSED = 4096


class Document(NamedTuple):
    """A commit as it was found, its seal not yet checked."""

    data: bytes
    path: str
    """The file it was in: its own, or a compaction."""


class Commits(Mapping[int, Commit]):
    """Shard -> commit of one column, by shard.

    A commit is parsed and its seal checked when it is asked for, which raises CorruptObject or FormatError.
    """

    def __init__(self, column: Column, documents: Mapping[int, Document]) -> None:
        self._column = column
        self._documents = documents

    def __getitem__(self, shard: int) -> Commit:
        found = self._documents[shard]
        return read_commit(found.data, found.path, self._column, shard)

    def __iter__(self) -> Iterator[int]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __contains__(self, shard: object) -> bool:
        return shard in self._documents


class CommitLog:
    """The commits of a store, each read once: commits never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._documents: dict[Column, dict[int, Document]] = {}
        self._compacted: dict[str, frozenset[int]] = {}
        """Compaction that was read -> its shards."""
        self._parsed = lru_cache(_PARSED)(self._parse)

    def read(self, column: Column, shards: int) -> Commits:
        """All that are committed now, in a cache of so many shards."""
        held = self._read_compactions(column)
        if not held or not held.issuperset(range(shards)):
            held = self._read_documents(column)
        documents = self._documents.get(column, {})
        return Commits(column, {shard: documents[shard] for shard in sorted(held)})

    def get(self, column: Column, shard: int) -> Commit | None:
        """The commit of one shard, None while there is none."""
        documents = self._documents.setdefault(column, {})
        if shard not in documents:
            try:
                documents[shard] = _read_document(self._store, column, shard)
            except FileNotFoundError:
                return None
        return self._parsed(column, shard)

    def forget(self, column: Column) -> None:
        """Read the column's commits again next time."""
        self._documents.pop(column, None)
        self._compacted.clear()
        self._parsed.cache_clear()

    def _parse(self, column: Column, shard: int) -> Commit:
        return Commits(column, self._documents[column])[shard]

    def _read_compactions(self, column: Column) -> frozenset[int]:
        """Shards that the compactions there are hold."""
        held: frozenset[int] = frozenset()
        for path in self._store.list(layout.compaction_folder(column) + "/"):
            if path not in self._compacted:
                # a newer one may have taken its place since the listing
                with suppress(FileNotFoundError):
                    found = read_compaction(self._store.read(path), path, column)
                    self._documents.setdefault(column, {}).update(found)
                    self._compacted[path] = frozenset(found)
            held |= self._compacted.get(path, frozenset())
        return held

    def _read_documents(self, column: Column) -> frozenset[int]:
        """Shards that have a document of their own; those not known yet are read."""
        folder = layout.commit_folder(column) + "/"
        names = [path.removeprefix(folder) for path in self._store.list(folder)]
        shards = frozenset(s for name in names if (s := layout.committed_shard(name)) is not None)
        documents = self._documents.setdefault(column, {})
        if unknown := sorted(shards - documents.keys()):
            documents.update(_read_each(self._store, column, unknown))
        return shards


def _read_each(store: Store, column: Column, shards: Iterable[int]) -> Iterator[tuple[int, Document]]:
    with ThreadPoolExecutor(_THREADS, "cutler-commits") as threads:
        found = threads.map(lambda shard: (shard, _read_document(store, column, shard)), shards)
        yield from found


def _read_document(store: Store, column: Column, shard: int) -> Document:
    path = layout.commit_path(column, shard)
    return Document(store.read(path), path)


def write_compaction(commits: Mapping[int, Commit]) -> bytes:
    """All commits of a column in one Parquet file; the same commits give the same bytes."""
    shards = sorted(commits)
    table = pa.table(
        {
            "shard": pa.array(shards, pa.int32()),
            "commit": pa.array([write_commit(commits[shard]) for shard in shards], pa.binary()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def read_compaction(data: bytes, path: str, column: Column) -> dict[int, Document]:
    """Shard -> commit of a compaction. Raises CorruptObject unless its bytes have the digest in its name."""
    digest = sha256(data)
    if layout.compaction_path(column, digest) != path:
        raise CorruptObject(path, f"its content has digest {digest8(digest)}, not the one in its name")
    # read_table would import all of pyarrow.dataset
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    shards: list[int] = table["shard"].to_pylist()
    if len(set(shards)) != len(shards):
        raise CorruptObject(path, "it names a shard twice")
    return {
        shard: Document(commit, path)
        for shard, commit in zip(shards, table["commit"].to_pylist(), strict=True)
    }


def compact(store: Store, column: Column, commits: Mapping[int, Commit]) -> str | None:
    """Write the compaction of `commits`, then drop those before it; its path, None without commits.

    The commits' own files stay: creating them is what makes a commit exclusive. A reader that meets two
    compactions takes both.
    """
    before = store.list(layout.compaction_folder(column) + "/")
    path = None
    if commits:
        data = write_compaction(commits)
        path = layout.compaction_path(column, sha256(data))
        store.put_new(path, data)
    for name in before:
        if name != path:
            store.delete(name)
    return path
