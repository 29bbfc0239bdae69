"""Commits under crashes and races: writers stopped before each step, others in between, one commit."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from storage import layout
from storage.cache import Cache
from storage.config import CodecConfig
from storage.errors import CorruptObject
from storage.identity import sha256
from storage.layout import Column
from storage.verify import verify
from tests.storage.sample_cache import encode, invariants, put_features, put_images, register, sample_rows

STEPS = 9
"""More than any writer takes."""


class Died(Exception):
    """The writer is gone: nothing of it runs any more."""


class Interrupted:
    """A store that calls `then` before the call number `step`."""

    def __init__(self, store: Any, step: int, then: Callable[[], None]) -> None:
        self._store, self._left, self._then = store, step, then

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._counted(found) if callable(found) else found

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                self._then()
            return call(*args)

        return counted


def die() -> None:
    """Stop a writer for ever."""
    raise Died("killed")


def stopped(url: str, step: int, then: Callable[[], None]) -> Cache:
    """The cache of a writer that is stopped before its step."""
    cache = Cache.open(url)
    cache.store = Interrupted(cache.store, step, then)
    return cache


@pytest.fixture(scope="module", params=["wds", "zarr"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of images committed, a column registered, no features yet."""
    folder = tmp_path_factory.mktemp("base") / request.param
    cache = Cache.create(str(folder), invariants(request.param))
    cache.add_segment("source-fp", 3, 1)
    put_images(cache, cache.shard(0))
    register(cache, "alpha", CodecConfig())
    return folder


@pytest.fixture
def fresh(base: Path, tmp_path: Path) -> Callable[[], str]:
    """Makes copies of it."""
    numbers = iter(range(1000))
    return lambda: str(shutil.copytree(base, tmp_path / str(next(numbers))))


def column_of(cache: Cache) -> Column:
    return cache.teacher_columns()["alpha"]


def write(cache: Cache, seed: int) -> Any:
    """Write the only shard with maps of a seed; the commit that holds."""
    column = column_of(cache)
    return cache.put_features(column, 0, *encode(Cache.open(cache.url), column, 0, seed))


def overtake(url: str, seed: int, commits: list[Any]) -> None:
    """Another writer's whole run."""
    commits.append(write(Cache.open(url), seed))


def check(url: str, commit: Any) -> None:
    """The commit holds, its records are those of one writer, nothing is damaged."""
    cache = Cache.open(url)
    column = column_of(cache)
    assert cache.committed(column) == {0: commit}
    records = cache.read_records(column, 0, range(3))
    assert records in [encode(cache, column, 0, seed)[0] for seed in (1, 2)]
    report = verify(cache)
    assert report.ok, report.problems


@pytest.mark.parametrize("second", [1, 2], ids=["same bytes", "other bytes"])
def test_a_writer_killed_before_any_step_blocks_nobody(fresh: Callable[[], str], second: int) -> None:
    died = 0
    for step in range(STEPS):
        url = fresh()
        try:
            write(stopped(url, step, die), 1)
        except Died:
            died += 1
        check(url, write(Cache.open(url), second))
    assert 2 <= died < STEPS


@pytest.mark.parametrize("second", [1, 2], ids=["same bytes", "other bytes"])
def test_a_writer_overtaken_at_any_step_yields(fresh: Callable[[], str], second: int) -> None:
    """The slow writer sleeps while another does the whole shard: no committed byte may change."""
    for step in range(STEPS):
        url, others = fresh(), []
        slow = stopped(url, step, partial(overtake, url, second, others))
        commit = write(slow, 1)
        assert others in ([], [commit])
        check(url, commit)
        assert not verify(url).notes, "losers clean up after themselves"


def test_two_writers_killed_anywhere_block_nobody(fresh: Callable[[], str]) -> None:
    for first in range(STEPS - 3):
        for second in range(STEPS - 3):
            url = fresh()
            for seed, step in ((1, first), (2, second)):
                try:
                    write(stopped(url, step, die), seed)
                except Died:
                    continue
            check(url, write(Cache.open(url), 1))


def test_a_real_race_has_one_winner(fresh: Callable[[], str]) -> None:
    for _ in range(4):
        url = fresh()
        barrier = threading.Barrier(6)

        def race(seed: int, url: str = url, barrier: threading.Barrier = barrier) -> Any:
            cache = Cache.open(url)
            column = column_of(cache)
            ready = encode(cache, column, 0, seed)
            barrier.wait()
            return cache.put_features(column, 0, *ready)

        with ThreadPoolExecutor(6) as pool:
            commits = list(pool.map(race, [1, 2, 1, 2, 1, 2]))
        assert all(commit == commits[0] for commit in commits)
        check(url, commits[0])
        assert not verify(url).notes


def test_images_overtaken_at_any_step_yield(tmp_path: Path) -> None:
    for step in range(STEPS):
        url = str(tmp_path / str(step))
        Cache.create(url, invariants()).add_segment("source-fp", 3, 1)

        def other(url: str = url) -> None:
            put_images(Cache.open(url), Cache.open(url).shard(0))

        slow = stopped(url, step, other)
        rows = sample_rows(slow, slow.shard(0))
        commit = slow.put_images(0, rows, [None if row.quarantine else b"other pixels" for row in rows])
        report = verify(url)
        assert report.ok and not report.notes
        assert Cache.open(url).committed(Column.images()) == {0: commit}


def test_writing_again_changes_no_byte(fresh: Callable[[], str]) -> None:
    url = fresh()
    put_features(Cache.open(url), column_of(Cache.open(url)), 0, seed=1)
    before = {path: Cache.open(url).store.read(path) for path in Cache.open(url).store.list()}
    for seed in (1, 2):
        write(Cache.open(url), seed)
    put_images(Cache.open(url), Cache.open(url).shard(0))
    assert {path: Cache.open(url).store.read(path) for path in Cache.open(url).store.list()} == before


def test_damage_under_a_digests_name_is_mended_before_the_commit(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants())
    cache.add_segment("source-fp", 3, 1)
    put_images(cache, cache.shard(0))
    name = cache.committed(Column.images())[0].records.name
    (tmp_path / name).write_bytes(b"damage")
    (tmp_path / layout.commit_path(Column.images(), 0)).unlink()
    put_images(Cache.open(str(tmp_path)), cache.shard(0))
    assert verify(cache).ok


def test_an_object_that_nobody_claims_is_named(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants("zarr"))
    cache.add_segment("source-fp", 3, 1)
    put_images(cache, cache.shard(0))
    column = register(cache, "alpha", CodecConfig())
    path = layout.zarr_shard_path(column, 0)
    cache.store.put_new(path, b"from nowhere")
    with pytest.raises(
        CorruptObject, match=f"{path} is damaged: no commit and no claim .*{sha256(b'from nowhere')}"
    ):
        put_features(cache, column, 0)
    cache.discard(column, 0)
    put_features(cache, column, 0)
    assert verify(cache).ok
