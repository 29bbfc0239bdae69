"""What is committed: one sealed document per (column, shard), and their compaction into one file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage import layout
from storage.config import Frozen
from storage.errors import CorruptObject
from storage.identity import digest8, seal, sha256, unseal
from storage.layout import Column
from storage.manifest import validated
from storage.quality import LevelFidelity
from storage.store import Store


class ObjectRef(Frozen):
    """An object of a commit."""

    name: str
    """Path in the cache."""
    bytes: int = Field(ge=0)
    """Size."""
    sha256: str
    """Hex digest of the whole object."""


class IndexRef(Frozen):
    """Where the index of records is in the object, and its digest: so a commit vouches for each row."""

    offset: int = Field(ge=0)
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str
    """Hex digest of the index."""


class Commit(Frozen):
    """That a shard of a column is complete, and what it consists of."""

    column: str
    """Path of the column."""
    shard: int = Field(ge=0)
    rows: int = Field(ge=1)
    keys: str
    """Digest of the shard's sample keys; the same in every column."""
    source: str | None = None
    """Features: hex digest of the object of images that they were made from; None for images."""
    objects: tuple[ObjectRef, ...] = Field(min_length=1)
    """The object of records first; for images the sample table second."""
    index: IndexRef
    """Of the first object."""
    fidelity: tuple[LevelFidelity, ...] | None = None
    """Flattened cosines, one per level; None for images, and where no sample could be used."""
    per_token: tuple[LevelFidelity, ...] | None = None
    """Mean cosines of tokens, likewise."""
    rungs: dict[str, int] = Field(default_factory=dict)
    """klt: rung j of the step 2^(j/4) -> samples (of each group of levels) that took it."""
    quarantined: tuple[int, ...] = ()
    """Rows without a record."""
    reasons: tuple[str, ...] = ()
    """Why, one per quarantined row."""
    stats: dict[str, int | float] = Field(default_factory=dict)
    """values: numbers that the records stand for; bytes: size of the records."""

    @property
    def records(self) -> ObjectRef:
        """The object that holds the records."""
        return self.objects[0]

    @property
    def path(self) -> str:
        """Where the commit is."""
        return layout.commit_path(Column(self.column), self.shard)

    def mismatch(self, images: Commit) -> str | None:
        """Why this commit does not go with that of the shard's images; None when it does."""
        if self.keys != images.keys:
            return f"it is about other samples than the images of shard {self.shard}"
        if self.column != images.column and self.source != images.records.sha256:
            return (
                f"it was made from other pixels than the images of shard {self.shard}, {images.records.name}"
            )
        return None


def write_commit(commit: Commit) -> bytes:
    """The bytes of a commit."""
    return seal(commit.model_dump(mode="json"))


def read_commit(data: bytes, path: str, column: Column, shard: int) -> Commit:
    """The commit of `shard` of `column` in `data`. Raises CorruptObject or FormatError."""
    commit = validated(Commit, unseal(data, path), path)
    if (commit.column, commit.shard) != (column.path, shard):
        raise CorruptObject(path, f"it is the commit of shard {commit.shard} of {commit.column}")
    return commit


class CommitLog:
    """The commits of a store, each read once: commits never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Column, dict[int, Commit]] = {}

    def read(self, column: Column) -> dict[int, Commit]:
        """Shard -> commit, of all that are committed now, by shard."""
        names = self._store.list(layout.commit_folder(column) + "/")
        known = self._known.setdefault(column, {})
        shards = {
            shard for name in names if (shard := layout.committed_shard(name.rpartition("/")[2])) is not None
        }
        if shards - known.keys():
            for name in filter(layout.is_compaction, names):
                # a newer compaction may have taken its place since the listing
                with contextlib.suppress(FileNotFoundError):
                    known.update(read_compaction(self._store.read(name), name, column))
        for shard in shards - known.keys():
            path = layout.commit_path(column, shard)
            known[shard] = read_commit(self._store.read(path), path, column, shard)
        return {shard: known[shard] for shard in sorted(shards)}

    def get(self, column: Column, shard: int) -> Commit | None:
        """The commit of one shard, None while there is none."""
        known = self._known.setdefault(column, {})
        if shard not in known:
            path = layout.commit_path(column, shard)
            try:
                known[shard] = read_commit(self._store.read(path), path, column, shard)
            except FileNotFoundError:
                return None
        return known[shard]

    def forget(self, column: Column) -> None:
        """Read the column's commits again next time."""
        self._known.pop(column, None)


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


def read_compaction(data: bytes, path: str, column: Column) -> dict[int, Commit]:
    """Shard -> commit of a compaction. Raises CorruptObject unless its bytes have the digest in its name."""
    digest = sha256(data)
    if layout.compaction_path(column, digest) != path:
        raise CorruptObject(path, f"its content has digest {digest8(digest)}, not the one in its name")
    table = pq.read_table(pa.BufferReader(data))
    rows: list[dict[str, Any]] = table.to_pylist()
    return {row["shard"]: read_commit(row["commit"], path, column, row["shard"]) for row in rows}


def compact(store: Store, column: Column, commits: Mapping[int, Commit]) -> str | None:
    """Write the compaction of `commits`, then drop those before it; its path, None without commits.

    The commits' own files stay: creating them is what makes a commit exclusive. A reader that meets two
    compactions takes both.
    """
    before = [name for name in store.list(layout.commit_folder(column) + "/") if layout.is_compaction(name)]
    path = None
    if commits:
        data = write_compaction(commits)
        path = layout.compaction_path(column, sha256(data))
        store.put_new(path, data)
    for name in before:
        if name != path:
            store.delete(name)
    return path
