"""A stream over S3's protocol gives the same batches whatever the network does, or ends and says why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from storage import store as store_module
from storage.cache import Cache
from storage.errors import CacheError
from storage.local_copy import LocalCopy
from tests.storage.flaky_proxy import FlakyProxy
from tests.storage.s3_server import s3_bucket
from tests.storage.test_stream import World, same

URL = "s3://faulty/cache"
STEPS = 8


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[World, FlakyProxy]]:
    """A cache in a bucket that is reached through the proxy, and the same cache in a folder."""
    with s3_bucket("faulty") as address, pytest.MonkeyPatch.context() as patch:
        s3fs.S3FileSystem.clear_instance_cache()
        World(URL, views=1)
        s3fs.S3FileSystem.clear_instance_cache()
        proxy = FlakyProxy(address)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield World(tmp_path_factory.mktemp("cache"), views=1), proxy
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.close()


@pytest.fixture
def world(served) -> Iterator[World]:
    """The cache in the folder; the proxy fails no more afterwards."""
    yield served[0]
    served[1].fault = lambda number, path: None


@pytest.fixture
def proxy(served) -> FlakyProxy:
    return served[1]


def columns(cache: Cache):
    return {c.teacher: c for c in cache.columns() if c.teacher}


def stream_of(cache: Cache, world: World, **how):
    from storage.stream import Stream

    return Stream(cache, world.order(), columns(cache), 0, STEPS, 3, **how)


@pytest.mark.parametrize("fault", ["error", "reset", "cut", "delay"])
def test_batches_are_the_same_through_a_bad_network(world: World, proxy: FlakyProxy, fault: str) -> None:
    cache = Cache.open(URL)
    failed: list[str] = []

    def every_ninth(number: int, path: str) -> str | None:
        if number % 9 or "/cache/" not in path or failed.count(path) == 2:
            return None
        failed.append(path)
        return fault

    with stream_of(cache, world) as stream, world.stream(steps=STEPS) as sound:
        proxy.fault = every_ninth
        assert all(same(a, b) for a, b in zip(stream, sound, strict=True))
    assert len(failed) >= 3


@pytest.mark.parametrize("fault", ["error", "reset", "hang"])
def test_what_never_answers_ends_the_run_and_is_named(
    world: World, proxy: FlakyProxy, fault: str, monkeypatch
) -> None:
    quick = {
        "connect_timeout": 1,
        "read_timeout": 0.3,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }
    monkeypatch.setattr(store_module, "_S3_PATIENCE", quick)
    cache = Cache.open(URL)
    name = cache.committed(columns(cache)["b"])[2].records.name
    begun, asked = time.monotonic(), len(proxy.paths)
    named = pytest.raises(CacheError, match=rf"shard 2, rows .*{name} cannot be read after several tries")
    with named, stream_of(cache, world) as stream:
        proxy.fault = lambda number, path: fault if path.endswith(name) else None
        list(stream)
    assert time.monotonic() - begun < 20 and sum(path.endswith(name) for path in proxy.paths[asked:]) <= 40


def test_what_never_answers_is_skipped_if_it_may_be(
    world: World, proxy: FlakyProxy, monkeypatch, caplog
) -> None:
    once = {"retries": {"mode": "standard", "total_max_attempts": 1}}
    monkeypatch.setattr(store_module, "_S3_PATIENCE", once)
    cache = Cache.open(URL)
    name = cache.committed(columns(cache)["b"])[2].records.name
    with stream_of(cache, world, on_bad_shard="skip") as stream, world.stream(steps=STEPS) as sound:
        proxy.fault = lambda number, path: "error" if path.endswith(name) else None
        for batch, whole in zip(stream, sound, strict=True):
            rows = [world.shuffled.index(key.split("~")[0]) // 5 == 2 for key in whole.keys]
            assert batch.skipped == sum(rows) and not batch.weight[rows].any()
            assert (batch.weight == whole.weight)[[not lost for lost in rows]].all()
    assert len([r for r in caplog.records if "shard 2 has samples that are skipped" in r.getMessage()]) == 1


def test_a_local_copy_needs_the_network_once(world: World, proxy: FlakyProxy, tmp_path: Path) -> None:
    far = Cache.open(URL)
    for number, expected in enumerate((True, False)):
        copy = LocalCopy(far.store, tmp_path, room=10**9)
        cache = Cache(copy, far.invariants)
        with stream_of(cache, world) as stream, world.stream(steps=STEPS) as sound:
            asked = len(proxy.paths)
            proxy.fault = lambda n, path: "reset" if n % 7 == 0 and path.endswith(".tar") else None
            assert all(same(a, b) for a, b in zip(stream, sound, strict=True))
        tars = [path for path in proxy.paths[asked:] if path.endswith((".tar", ".parquet"))]
        assert bool(tars) == expected, (number, tars)
        copy.close()


def test_a_closed_stream_leaves_slow_reads_behind_quickly(world: World, proxy: FlakyProxy) -> None:
    proxy.delay_s = 0.1
    with stream_of(Cache.open(URL), world) as stream:
        proxy.fault = lambda number, path: "delay"
        next(stream)
        closing = time.monotonic()
    assert time.monotonic() - closing < 5
