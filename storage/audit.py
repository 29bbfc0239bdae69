"""What is wrong with one column's documents, one commit's objects, one cache's samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from storage import columns, layout
from storage.cache import Cache
from storage.commit_log import Commits, read_compaction
from storage.commits import Commit, ObjectRef, read_commit
from storage.containers.base import load_index
from storage.errors import CacheError, CorruptObject, FormatError, MissingData
from storage.layout import Column
from storage.store import Store, measure

# documents are small: it is the store's answer that takes time
_THREADS = 16

Kind = Literal["damaged", "gone", "missing", "unreadable", "unplaced", "differs"]
"""missing: never committed, the extraction is not finished; unreadable: looking failed (no descriptors, a
timeout, no permission, another version's document), which says nothing about the bytes; unplaced: committed,
but no segment says what it is; differs: whole, and not what its teacher makes now. Only what is damaged or
gone may be discarded."""


@dataclass(frozen=True)
class Problem:
    """One thing that is damaged, missing or could not be looked at."""

    path: str
    """The object or document, relative to the cache."""
    column: Column | None
    """The column it belongs to, None for the cache's own documents."""
    shard: int | None
    """The shard it belongs to, None for documents of a whole column."""
    what: str
    kind: Kind = "damaged"

    @staticmethod
    def unreadable(path: str, column: Column | None, shard: int | None, error: Exception) -> Problem:
        """What `error` kept from being looked at."""
        what = f"could not be read: {error}; nothing was concluded"
        return Problem(path, column, shard, what, "unreadable")

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@contextmanager
def caught(
    problems: list[Problem], path: str, column: Column | None = None, shard: int | None = None
) -> Iterator[None]:
    """Turn what a check raises into a problem."""
    try:
        yield
    except CorruptObject as error:
        problems.append(Problem(error.path, column, shard, error.why))
    except FileNotFoundError:
        problems.append(Problem(path, column, shard, "it is gone", "gone"))
    except MissingData as error:
        problems.append(Problem(path, column, shard, str(error), "gone"))
    except (FormatError, OSError) as error:
        problems.append(Problem.unreadable(path, column, shard, error))
    except CacheError as error:
        problems.append(Problem(path, column, shard, str(error)))


@dataclass
class ColumnAudit:
    """The commits of a column, each read anew from its own file, and its compactions against them."""

    store: Store
    column: Column
    paths: Sequence[str]
    """Every path of the cache."""
    problems: list[Problem] = field(default_factory=list)
    commits: dict[int, Commit] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """Documents looked at."""

    def __post_init__(self) -> None:
        folder = layout.commit_folder(self.column) + "/"
        names = [path for path in self.paths if path.startswith(folder)]
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(self._document, [(path, path.removeprefix(folder)) for path in names]))
        self.commits = dict(sorted(self.commits.items()))
        for path in filter(layout.is_compaction, names):
            self._compaction(path)

    def _document(self, place: tuple[str, str]) -> None:
        path, name = place
        if (shard := layout.committed_shard(name)) is not None:
            self.named.add(path)
            with caught(self.problems, path, self.column, shard):
                self.commits[shard] = read_commit(self.store.read(path), path, self.column, shard)
        elif (shard := layout.claimed_shard(name)) is not None:
            # an intact one is a note: its writer died, or is at work
            with caught(self.problems, path, self.column, shard):
                read_commit(self.store.read(path), path, self.column, shard)

    def _compaction(self, path: str) -> None:
        """What it says must be what the shards' own documents say: readers believe it alone."""
        self.named.add(path)
        with caught(self.problems, path, self.column):
            documents = read_compaction(self.store.read(path), path, self.column)
            for shard, commit in Commits(self.column, documents).items():
                own = layout.commit_path(self.column, shard)
                if own not in self.named:
                    raise CorruptObject(path, f"it has a commit of shard {shard}, whose own file is gone")
                if self.commits.get(shard, commit) != commit:
                    why = f"it has another commit of shard {shard} than the shard's own file"
                    raise CorruptObject(path, why)


def audit_registration(cache: Cache, column: Column) -> tuple[list[Problem], set[str]]:
    """Problems of teacher.json, codec.safetensors and zarr.json, and the paths of these."""
    store, problems = cache.store, list[Problem]()
    teacher, codec, array = layout.teacher_path(column), layout.codec_path(column), layout.zarr_path(column)
    named = {teacher, codec, *([array] if cache.invariants.container == "zarr" else [])}
    with caught(problems, teacher, column):
        doc = columns.read_teacher(store, column, cache.invariants)
        with caught(problems, codec, column):
            _check_bytes(codec, measure(store, codec)[1], doc["codec_sha256"], "teacher.json")
        if cache.invariants.container == "zarr":
            with caught(problems, array, column):
                if store.read(array) != columns.zarr_json(doc, cache.invariants, len(cache.shards())):
                    raise CorruptObject(
                        array, "it is not the array's metadata; running extract again rewrites it"
                    )
    return problems, named


def audit_commit(store: Store, commit: Commit, container: str, *, deep: bool) -> list[Problem]:
    """Problems of the objects of a commit; all their bytes are read when `deep`."""
    problems: list[Problem] = []
    column, shard = Column(commit.column), commit.shard
    for ref, name in zip(commit.objects, _names(commit, container), strict=False):
        with caught(problems, ref.name, column, shard):
            if ref.name != name:
                raise CorruptObject(commit.path, f"it names the object {ref.name}, the shard's is {name}")
            _check_object(store, ref, deep=deep)
    if deep and not problems:
        name = commit.records.name
        with caught(problems, name, column, shard):
            load_index(lambda at, size: store.read_range(name, at, size), commit)
    return problems


def audit_samples(cache: Cache, commits: Mapping[int, Commit], damaged: Set[str]) -> list[Problem]:
    """Problems of the sample tables not `damaged`: other keys than committed, wrong view, a sample twice."""
    problems: list[Problem] = []
    seen: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for shard in cache.shards():
        commit = commits.get(shard.index)
        if commit is None or not damaged.isdisjoint((commit.path, commit.objects[-1].name)):
            continue
        with caught(problems, commit.path, Column.images(), shard.index):
            table = cache.samples(shard.index)
            keys: list[str] = table["key"].to_pylist()
            bad = [row for row, why in enumerate(table["quarantine"].to_pylist()) if why is not None]
            if tuple(bad) != commit.quarantined:
                what = f"it quarantines rows {list(commit.quarantined)}, its sample table {bad}"
                problems.append(Problem(commit.path, Column.images(), shard.index, what))
            if any(not key.endswith(f"~v{shard.view}") for key in keys):
                what = f"it holds samples of another view than the shard's, {shard.view}"
                problems.append(Problem(commit.objects[1].name, Column.images(), shard.index, what))
            seen.append(np.array([_hash(key) for key in keys], np.uint64))
            owners.append(np.full(len(keys), shard.index))
    return problems + _twice(commits, seen, owners)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _twice(commits: Mapping[int, Commit], seen: list[np.ndarray], owners: list[np.ndarray]) -> list[Problem]:
    if not seen:
        return []
    hashes, shards = np.concatenate(seen), np.concatenate(owners)
    order = np.argsort(hashes, kind="stable")
    repeated = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    return [
        Problem(
            commits[shard].objects[1].name,
            Column.images(),
            shard,
            "it holds a sample that an earlier shard holds",
        )
        for shard in sorted({int(shards[at]) for at in repeated})
    ]


def _names(commit: Commit, container: str) -> list[str]:
    column, records = Column(commit.column), commit.records
    if column.is_images:
        table = commit.objects[-1]
        return [
            layout.tar_path(column, commit.shard, records.sha256),
            layout.samples_path(commit.shard, table.sha256),
        ]
    if container == "zarr":
        return [layout.zarr_shard_path(column, commit.shard)]
    return [layout.tar_path(column, commit.shard, records.sha256)]


def _check_object(store: Store, ref: ObjectRef, *, deep: bool) -> None:
    size, digest = measure(store, ref.name) if deep else (store.size(ref.name), None)
    if size != ref.bytes:
        raise CorruptObject(ref.name, f"it has {size} bytes, its commit says {ref.bytes}")
    if digest is not None:
        _check_bytes(ref.name, digest, ref.sha256, "its commit")


def _check_bytes(path: str, digest: str, wanted: str, whose: str) -> None:
    if digest != wanted:
        raise CorruptObject(path, f"its bytes do not match the checksum in {whose}")
