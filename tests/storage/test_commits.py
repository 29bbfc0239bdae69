"""Commits and their compactions: what readers take from them, and in what bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storage import layout
from storage.cache import Cache
from storage.commit_log import CommitLog, Commits, Document, compact, read_compaction, write_compaction
from storage.commits import read_commit, write_commit
from storage.errors import CorruptObject, FormatError
from storage.identity import seal, unseal
from storage.layout import Column, is_compaction
from storage.mend import discard_damage
from storage.quality import summary
from storage.verify import verify
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
        self.listings: list[str] = []
        self._store = store

    def list(self, prefix: str) -> list[str]:
        self.listings.append(prefix)
        return self._store.list(prefix)

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
    assert log.read(IMAGES, 3) == cache.committed(IMAGES)
    assert store.reads == compactions(cache) and store.listings == ["commits/images/compact/"]
    log.read(IMAGES, 3)
    assert len(store.reads) == 1, "commits never change: nothing is read twice"


def test_commits_newer_than_the_compaction_count(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    cache.compact(IMAGES)
    cache.add_segment("source-fp", 7, 2)
    put_images(cache, cache.shard(3))
    store = Counting(cache.store)
    assert sorted(CommitLog(store).read(IMAGES, 6)) == [0, 1, 2, 3]
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
    assert Commits(IMAGES, read_compaction(data, path, IMAGES)) == cache.committed(IMAGES)
    with pytest.raises(CorruptObject, match="digest"):
        read_compaction(data + b"\0", path, IMAGES)


def test_nothing_committed_needs_no_compaction(cache: Cache) -> None:
    assert compact(cache.store, Column.features("gamma", "00000000"), {}) is None


def test_a_compaction_outliving_a_commit_is_named_and_taken_out(cache: Cache) -> None:
    """Nothing but a hand does that, and readers believe a complete compaction: there is a way back."""
    cache.compact(IMAGES)
    (path,) = compactions(cache)
    cache.store.delete("commits/images/000001.json")
    problems = verify(cache).problems
    assert {problem.path for problem in problems} == {path, "commits/images/000001.json"}
    assert any("shard 1, whose own file is gone" in problem.what for problem in problems)
    discard_damage(cache, problems)
    assert Cache.open(cache.url).missing(IMAGES) == [1]


def test_a_discarded_shard_is_in_no_compaction(cache: Cache) -> None:
    """Whatever the last step before a crash was."""
    for column in cache.columns():
        cache.compact(column)
    for column in (*cache.teacher_columns().values(), IMAGES):
        paths = compactions(cache)
        cache.discard(column, 1)
        assert not set(compactions(cache)) & {path for path in paths if column.path in path}
        assert cache.missing(column) == Cache.open(cache.url).missing(column) == [1]


@pytest.mark.parametrize("take_out", ["discard", "drop"])
def test_a_crash_while_taking_out_leaves_no_commit_that_only_a_compaction_has(
    cache: Cache, take_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = cache.teacher_columns()["alpha"]
    cache.compact(column)
    delete = cache.store.delete

    def checked(path: str) -> None:
        delete(path)
        found = cache.store.list(layout.commit_folder(column) + "/")
        own = sum(layout.committed_shard(name.rpartition("/")[2]) is not None for name in found)
        assert own == 3 or not any(map(is_compaction, found))

    monkeypatch.setattr(cache.store, "delete", checked)
    if take_out == "discard":
        cache.discard(column, 1)
    else:
        cache.drop(column)


def test_a_damaged_commit_in_a_compaction_is_named_before_it_is_used(cache: Cache) -> None:
    """Written damaged, so that the compaction's own digest is right."""
    commits = cache.committed(IMAGES)
    damaged = {shard: Document(write_commit(commits[shard]), "x") for shard in commits}
    damaged[1] = Document(damaged[1].data.replace(b"000001", b"000007"), "a compaction")
    found = Commits(IMAGES, damaged)
    assert sorted(found) == [0, 1, 2] and 1 in found and found[2] == commits[2]
    with pytest.raises(CorruptObject, match="a compaction is damaged"):
        found[1]


def test_fidelity_is_summed_up_per_level() -> None:
    fidelity = np.stack([np.linspace(0.5, 1, 101), np.linspace(1, 0, 101)], 1)
    first, second = summary(fidelity)
    assert (first.min, second.min) == (0.5, 0.0)
    assert first.p1 == pytest.approx(0.505) and second.p1 == pytest.approx(0.01)
    assert first.mean == pytest.approx(0.75) and second.mean == pytest.approx(0.5)
    assert summary(np.empty((0, 4))) is None
