"""A cache behind S3's protocol, spoken over a socket by a server on this host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from storage.cache import Cache
from storage.identity import sha256
from storage.store import Store, measure, open_store
from storage.verify import verify
from tests.storage.s3_server import s3_bucket
from tests.storage.sample_cache import encode, jpeg_of, make_cache, sample_rows


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """URL of an empty bucket."""
    with s3_bucket("bucket"):
        yield "s3://bucket"


@pytest.fixture
def store(bucket: str, request: pytest.FixtureRequest) -> Store:
    """An empty store."""
    return open_store(f"{bucket}/{request.node.name}")


def test_objects_and_ranges(store: Store) -> None:
    assert store.put_new("a/b", b"0123456789") and not store.put_new("a/b", b"other")
    assert store.read("a/b") == b"0123456789" and store.size("a/b") == 10
    assert store.read_range("a/b", 3, 4) == b"3456"
    assert store.read_range("a/b", 8, 4) == b"89" and store.read_range("a/b", 10, 4) == b""
    assert store.read_ranges("a/b", [(8, 5), (0, 2), (4, 1)]) == [b"89", b"01", b"4"]
    assert store.list() == ["a/b"] and list(store.folders("")) == ["a"]
    store.replace("a/b", b"new")
    assert store.read("a/b") == b"new"
    store.delete("a/b")
    assert not store.exists("a/b")


def test_what_is_not_there(store: Store) -> None:
    for call in (store.read, store.size, lambda path: store.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            call("nothing")


def test_the_service_decides_a_race(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both writers look before either writes: only the conditional put can tell them apart."""
    monkeypatch.setattr(store, "exists", lambda path: False)
    assert store.put_new("x", b"first")
    assert not store.put_new("x", b"second")
    assert store.read("x") == b"first"


@pytest.mark.parametrize("size", [0, 1 << 24])
def test_objects_of_whole_blocks_are_measured(store: Store, size: int) -> None:
    store.put_new("x", bytes(size))
    assert measure(store, "x") == (size, sha256(bytes(size)))


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_a_cache_is_written_read_and_verified(bucket: str, container: str) -> None:
    url = f"{bucket}/{container}"
    make_cache(url, container, views=1)
    cache = Cache.open(url)
    for shard, column in itertools.product(cache.shards(), cache.teacher_columns().values()):
        wanted, _, _ = encode(cache, column, shard.index)
        rows = np.arange(shard.rows)[::-1].tolist()
        assert cache.read_records(column, shard.index, rows) == wanted[::-1]
        assert cache.read_images(shard.index, [0]) == [jpeg_of(sample_rows(cache, shard)[0])]
    report = verify(url)
    assert report.ok and not report.notes, report
