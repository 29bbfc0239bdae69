"""How samples, crops and records are read: by commit, by byte range, and checked on every read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import pyarrow as pa

from storage.commit_log import CommitLog
from storage.commits import Commit
from storage.containers.base import Index, load_index
from storage.errors import CorruptObject, MissingData
from storage.identity import sha256
from storage.layout import Column
from storage.manifest import Shard, keys_digest, read_samples
from storage.store import Store

_Answer = TypeVar("_Answer")
# An index of 256 samples takes 6 KB, a sample table 30. A rank of 128 slots, each with 8 shards open, walks
# 4,096 indexes of four columns at a time: if fewer were kept, one would be read again for every sample.
_INDEXES, _TABLES = 16_384, 64


class Reader:
    """Reads what is committed and nothing else. Threads may share it."""

    def __init__(self, store: Store, log: CommitLog, shard: Callable[[int], Shard]) -> None:
        self._store = store
        self._log = log
        self._shard = shard
        self._index = lru_cache(_INDEXES)(self._load_index)
        self.samples = lru_cache(_TABLES)(self._load_samples)
        """shard -> sample table, verified."""

    def commit(self, column: Column, shard: int) -> Commit:
        """The commit of a shard. Raises MissingData while there is none, CorruptObject if of other rows."""
        rows = self._shard(shard).rows
        commit = self._log.get(column, shard)
        if commit is None:
            raise MissingData(
                f"shard {shard} of {column} in {self._store.url} is not committed; "
                "run extract again, it does what is missing"
            )
        if commit.rows != rows:
            raise CorruptObject(commit.path, f"it has {commit.rows} rows, shard {shard} has {rows}")
        return commit

    def read(self, column: Column, shard: int, rows: Sequence[int]) -> list[bytes | None]:
        """The records of `rows` of a shard, None where there is none.

        Raises MissingData, or CorruptObject naming the object and row.
        """
        index = self._index(column, shard)
        places = {row: place for row in rows if (place := index.range(row)) is not None}
        ranges = list(places.values())
        found = self._committed(index.name, lambda: self._store.read_ranges(index.name, ranges))
        records = dict(zip(places, found, strict=True))
        for row, record in records.items():
            if fault := index.fault(row, record):
                raise CorruptObject(index.name, fault)
        return [records.get(row) for row in rows]

    def forget(self) -> None:
        """Read indexes and sample tables again."""
        self._index.cache_clear()
        self.samples.cache_clear()

    def _load_index(self, column: Column, shard: int) -> Index:
        commit = self.commit(column, shard)
        if fault := commit.mismatch(self.commit(Column.images(), shard)):
            raise CorruptObject(commit.path, fault)
        name = commit.records.name
        return self._committed(
            name, lambda: load_index(lambda at, size: self._store.read_range(name, at, size), commit)
        )

    def _load_samples(self, shard: int) -> pa.Table:
        commit = self.commit(Column.images(), shard)
        ref = commit.objects[1]
        data = self._committed(ref.name, lambda: self._store.read(ref.name))
        if sha256(data) != ref.sha256:
            raise CorruptObject(ref.name, "its bytes do not match the checksum in its commit")
        table = read_samples(data)
        keys: list[str] = table["key"].to_pylist()
        if keys_digest(keys) != commit.keys:
            raise CorruptObject(commit.path, f"it is about other samples than {ref.name}")
        if len(keys) != commit.rows or len(set(keys)) != len(keys):
            what = (
                f"it names {len(set(keys))} different samples in {len(keys)} rows, its commit {commit.rows}"
            )
            raise CorruptObject(ref.name, what)
        return table

    def _committed(self, name: str, read: Callable[[], _Answer]) -> _Answer:
        try:
            return read()
        except FileNotFoundError:
            raise CorruptObject(name, "it is committed but gone") from None
