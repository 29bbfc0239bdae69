"""Commits and their compactions: what readers take from them, and in what bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage.cache import Cache
from storage.commits import (
    CommitLog,
    compact,
    read_commit,
    read_compaction,
    write_commit,
    write_compaction,
)
from storage.errors import CorruptObject, FormatError
from storage.identity import seal, unseal
from storage.layout import Column, is_compaction
from storage.quality import summary
from tests.storage.sample_cache import make_cache, put_images

IMAGES = Column.images()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A complete cache."""
    return make_cache(str(tmp_path / "c"), views=1)


def compactions(cache: Cache) -> list[str]:
    return [path for path in cache.store.list() if is_compaction(path)]


class Counting:
    """A store that remembers what was read."""

    def __init__(self, store) -> None:
        self.reads: list[str] = []
        self.list = store.list
        self._store = store

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self._store.read(path)


def test_commits_come_back(cache: Cache) -> None:
    for column in cache.columns():
        for shard, commit in cache.committed(column).items():
            assert read_commit(write_commit(commit), commit.path, column, shard) == commit
            assert cache.store.read(commit.path) == write_commit(commit)


def test_a_commit_in_anothers_place_is_named(cache: Cache) -> None:
    commit = cache.committed(IMAGES)[1]
    with pytest.raises(CorruptObject, match="commit of shard 1 of images"):
        read_commit(write_commit(commit), "commits/images/000000.json", IMAGES, 0)
    doc = unseal(write_commit(commit), "x")
    with pytest.raises(FormatError, match="field colour = 'red' is not of cache format 2"):
        read_commit(seal({**doc, "colour": "red"}), commit.path, IMAGES, 1)


def test_a_compaction_saves_reading_every_commit(cache: Cache) -> None:
    cache.compact(IMAGES)
    store = Counting(cache.store)
    log = CommitLog(store)
    assert log.read(IMAGES) == cache.committed(IMAGES)
    assert store.reads == compactions(cache)
    log.read(IMAGES)
    assert len(store.reads) == 1, "commits never change: nothing is read twice"


def test_commits_newer_than_the_compaction_count(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    cache.compact(IMAGES)
    cache.add_segment("source-fp", 7, 2)
    put_images(cache, cache.shard(3))
    store = Counting(cache.store)
    assert sorted(CommitLog(store).read(IMAGES)) == [0, 1, 2, 3]
    assert store.reads == [*compactions(cache), "commits/images/000003.json"]
    cache.compact(IMAGES)
    assert len(compactions(cache)) == 1, "the one before is gone"


def test_compacting_again_changes_nothing(cache: Cache) -> None:
    cache.compact(IMAGES)
    (path,) = compactions(cache)
    data = cache.store.read(path)
    cache.compact(IMAGES)
    assert compactions(cache) == [path]
    assert write_compaction(cache.committed(IMAGES)) == data
    assert read_compaction(data, path, IMAGES) == cache.committed(IMAGES)
    with pytest.raises(CorruptObject, match="digest"):
        read_compaction(data + b"\0", path, IMAGES)


def test_nothing_committed_needs_no_compaction(cache: Cache) -> None:
    assert compact(cache.store, Column.features("gamma", "00000000"), {}) is None


def test_a_compaction_outliving_a_commit_is_not_believed(cache: Cache) -> None:
    cache.compact(IMAGES)
    cache.store.delete("commits/images/000001.json")
    assert sorted(Cache.open(cache.url).committed(IMAGES)) == [0, 2]


def test_fidelity_is_summed_up_per_level() -> None:
    fidelity = np.stack([np.linspace(0.5, 1, 101), np.linspace(1, 0, 101)], 1)
    first, second = summary(fidelity)
    assert (first.min, second.min) == (0.5, 0.0)
    assert first.p1 == pytest.approx(0.505) and second.p1 == pytest.approx(0.01)
    assert first.mean == pytest.approx(0.75) and second.mean == pytest.approx(0.5)
    assert summary(np.empty((0, 4))) is None
