"""Files kept open between reads: few, never the wrong one, closed when nobody reads them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.cache import Cache
from storage.config import CodecConfig
from storage.crc import crc32c
from storage.local import LocalStore
from storage.open_files import OpenFiles
from tests.storage.sample_cache import encode, invariants, put_features, put_images, register


def open_below(folder: Path) -> int:
    """How many files of a folder this process has open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    targets = []
    for link in links:
        try:
            targets.append(str(link.readlink()))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(target.startswith(str(folder)) for target in targets)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten files of their own number."""
    for number in range(10):
        (tmp_path / str(number)).write_bytes(b"%d" % number * 100)
    return tmp_path


@given(st.binary())
def test_crc_is_castagnolis(data: bytes) -> None:
    """By another implementation, and for every kind of buffer."""
    wanted = google_crc32c.value(data)
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data)) == wanted


def test_only_the_last_files_stay_open(folder: Path) -> None:
    files = OpenFiles(folder.joinpath, most=3)
    for number in (*range(10), 9, 8):
        assert os.pread(files.get(str(number)).descriptor, 3, 0) == b"%d" % number * 3
        assert open_below(folder) <= 3
    assert files.get("8") is files.get("8")
    del files
    assert open_below(folder) == 0


def test_a_file_in_use_is_not_closed(folder: Path) -> None:
    files = OpenFiles(folder.joinpath, most=1)
    held = files.get("0")
    files.get("1")
    files.forget("0")
    assert os.pread(held.descriptor, 2, 0) == b"00"
    del held
    assert open_below(folder) == 1


def test_many_threads_read_right_bytes(folder: Path) -> None:
    store = LocalStore(folder)
    store._open_files = OpenFiles(folder.joinpath, most=2)
    barrier = threading.Barrier(8)

    def read(worker: int) -> bool:
        barrier.wait()
        asked = [(worker + turn) % 10 for turn in range(300)]
        return all(store.read_range(str(n), 97, 9) == b"%d" % n * 3 for n in asked)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert open_below(folder) <= 2


@pytest.mark.parametrize("change", ["replace", "delete and put_new"])
def test_what_took_a_files_place_is_read(tmp_path: Path, change: str) -> None:
    store = LocalStore(tmp_path)
    store.put_new("x", b"first")
    assert store.read_range("x", 0, 9) == b"first"
    if change == "replace":
        store.replace("x", b"second")
    else:
        store.delete("x")
        with pytest.raises(FileNotFoundError):
            store.read_range("x", 0, 9)
        store.put_new("x", b"second")
    assert store.read_range("x", 0, 9) == b"second" and open_below(tmp_path) == 1


def test_a_shard_made_again_is_read_anew(tmp_path: Path) -> None:
    """A zarr shard's name stays when its bytes change."""
    cache = Cache.create(str(tmp_path), invariants("zarr"))
    cache.add_segment("source-fp", 3, 1)
    put_images(cache, cache.shard(0))
    column = register(cache, "alpha", CodecConfig())
    for seed in (1, 2):
        wanted = encode(cache, column, 0, seed)[0]
        put_features(cache, column, 0, seed)
        assert cache.read_records(column, 0, range(3)) == wanted
        cache.discard(column, 0)
