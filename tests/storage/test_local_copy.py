"""A local copy gives the store's bytes whatever befalls it, within its bound, to one process at a time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cache import Cache
from storage.errors import CacheError, CorruptObject
from storage.local import LocalStore
from storage.local_copy import LocalCopy
from tests.storage.test_stream import World, same

OBJECT = "images/000000-aa.tar"
BYTES = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()
RANGES = [(0, 1000), (1000, 30_000), (50_000, 1), (90_000, 10_000)]


class Counted(LocalStore):
    """A store that notes what it is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[tuple[str, tuple[int, int]]] = []

    def read(self, path):
        self.asked.append((path, (0, -1)))
        return super().read(path)

    def read_ranges(self, path, ranges):
        self.asked += [(path, wanted) for wanted in ranges]
        return super().read_ranges(path, ranges)


@pytest.fixture
def store(tmp_path: Path) -> Counted:
    store = Counted(tmp_path / "far")
    for name in (OBJECT, "samples/000000-bb.parquet", "features/a/01234567/zarr.json", "cache.json"):
        store.put_new(name, BYTES)
    return store


def near(store, tmp_path: Path, room: int = 10**9, **how) -> LocalCopy:
    return LocalCopy(store, tmp_path / "near", room=room, **how)


def wanted(ranges) -> list[bytes]:
    return [BYTES[at : at + size] for at, size in ranges]


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_read_is_not_asked_for_again_by_a_later_process_either(store, tmp_path) -> None:
    copy = near(store, tmp_path)
    assert copy.read_ranges(OBJECT, RANGES[:2]) == wanted(RANGES[:2])
    assert copy.read_ranges(OBJECT, RANGES[::-1]) == wanted(RANGES[::-1])
    assert store.asked == [(OBJECT, r) for r in (*RANGES[:2], RANGES[3], RANGES[2])]
    assert copy.read("samples/000000-bb.parquet") == BYTES
    copy.close()
    store.asked.clear()
    again = near(store, tmp_path)
    assert again.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    assert again.read("samples/000000-bb.parquet") == BYTES and not store.asked
    assert again.read_range(OBJECT, 0, 999) == BYTES[:999] and store.asked == [(OBJECT, (0, 999))]
    again.close()


def test_documents_that_may_change_are_never_kept(store, tmp_path) -> None:
    copy = near(store, tmp_path)
    for name in ("features/a/01234567/zarr.json", "cache.json"):
        assert copy.read(name) == BYTES
        store.replace(name, b"new")
        assert copy.read(name) == b"new"
    copy.close()


def test_a_range_past_the_end_is_as_short_as_the_stores(store, tmp_path) -> None:
    copy = near(store, tmp_path)
    assert [copy.read_range(OBJECT, 99_990, 50) for _ in range(2)] == [BYTES[-10:]] * 2
    copy.close()


@given(
    room=st.integers(0, 200_000),
    asked=st.lists(
        st.lists(st.tuples(st.integers(0, 99_000), st.integers(0, 40_000)), max_size=4), max_size=12
    ),
    restart=st.sets(st.integers(0, 11)),
)
@settings(max_examples=40)
def test_any_reads_within_any_bound(tmp_path_factory, room, asked, restart) -> None:
    folder = tmp_path_factory.mktemp("any")
    store = LocalStore(folder / "far")
    store.put_new(OBJECT, BYTES)
    copy = near(store, folder, room)
    for number, ranges in enumerate(asked):
        if number in restart:
            copy.close()
            copy = near(store, folder, room)
        assert copy.read_ranges(OBJECT, ranges) == wanted(ranges)
        assert size_of(folder / "near") <= room
    copy.close()


def test_what_came_first_stays_and_serves_every_pass(store, tmp_path) -> None:
    copy = near(store, tmp_path, room=31_000 + 2 * 32)
    for _ in range(3):
        store.asked.clear()
        for wanted_range in RANGES:
            copy.read_ranges(OBJECT, [wanted_range])
    assert store.asked == [(OBJECT, r) for r in RANGES[2:]]
    copy.close()


@pytest.mark.parametrize("suffix", [".data", ".index"])
def test_a_damaged_copy_is_dropped_and_read_anew(store, tmp_path, suffix, caplog) -> None:
    copy = near(store, tmp_path)
    copy.read_ranges(OBJECT, RANGES)
    (file,) = (tmp_path / "near").rglob(f"*{suffix}")
    sound = file.read_bytes()
    for cut in (0, 1, 20, 40, len(sound) - 1):
        file.write_bytes(sound[:cut])
        assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
        file.write_bytes(sound[:cut] + bytes([sound[cut] ^ 1]) + sound[cut + 1 :])
        assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    file.unlink()
    assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    copy.close()
    copy = near(store, tmp_path)
    copy.drop(OBJECT)
    store.asked.clear()
    for _ in range(2):
        assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    assert len(store.asked) == len(RANGES) and not copy.drop("images/nothing.tar")
    copy.close()


def test_a_full_disk_is_said_once_and_only_costs_speed(store, tmp_path, caplog) -> None:
    copy = near(store, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # no file may grow beyond: writes fall short
    try:
        for _ in range(3):
            assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len([r for r in caplog.records if "takes no more" in r.getMessage()]) == 1
    copy.close()
    copy = near(store, tmp_path)
    for _ in range(2):
        assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    copy.close()


def test_a_folder_that_cannot_be_read_only_costs_speed(store, tmp_path, caplog) -> None:
    copy = near(store, tmp_path)
    copy.read_ranges(OBJECT, RANGES)
    (file,) = (tmp_path / "near").rglob("*.data")
    file.unlink()
    file.mkdir()  # neither readable nor writable, for root too
    for _ in range(2):
        assert copy.read_ranges(OBJECT, RANGES) == wanted(RANGES)
    assert "takes no more" in caplog.text
    copy.close()


def test_one_process_at_a_time_ranks_apart_and_other_caches_make_room(store, tmp_path) -> None:
    copy, beside = near(store, tmp_path), near(store, tmp_path, rank=1)
    copy.read_range(OBJECT, *RANGES[0])
    with pytest.raises(CacheError, match=r"another process keeps rank 0's copy .* set stage1\.local_cache"):
        near(store, tmp_path)
    other = LocalStore(tmp_path / "other")
    other.put_new(OBJECT, BYTES)
    near(other, tmp_path).close()
    assert copy.drop(OBJECT), "in use: it stays"
    copy.read_range(OBJECT, *RANGES[0])
    copy.close()
    beside.close()
    beside.close()
    theirs = near(other, tmp_path)
    theirs.read_range(OBJECT, *RANGES[0])
    assert len(list((tmp_path / "near").rglob("*.data"))) == 1, "left by nobody: removed"
    theirs.close()


def test_threads_share_a_copy(store, tmp_path) -> None:
    copy, wrong = near(store, tmp_path, room=150_000), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            ranges = [RANGES[i] for i in rng.permutation(4)[: rng.integers(1, 5)]]
            if copy.read_ranges(OBJECT, ranges) != wanted(ranges):
                wrong.append(ranges)
            if rng.random() < 0.1:
                copy.drop(OBJECT)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and size_of(tmp_path / "near") <= 150_000
    copy.close()


WRITER = """
import sys
from pathlib import Path
from storage.local import LocalStore
from storage.local_copy import LocalCopy
copy = LocalCopy(LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), room=10**9)
print("ready", flush=True)
while True:
    for at in range(0, 100_000, 977):
        copy.read_range(sys.argv[3], at, 977)
    copy.drop(sys.argv[3])
"""


def test_a_killed_process_leaves_a_copy_that_serves(store, tmp_path) -> None:
    for wait_s in (0.0, 0.013, 0.031):
        command = [sys.executable, "-c", WRITER, str(store.root), str(tmp_path / "near"), OBJECT]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            threading.Event().wait(wait_s)
            writer.send_signal(signal.SIGKILL)
        copy = near(store, tmp_path)
        ranges = [(at, min(977, 100_000 - at)) for at in range(0, 100_000, 977)]
        assert copy.read_ranges(OBJECT, ranges) == wanted(ranges)
        copy.close()


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_a_stream_reads_its_second_pass_from_the_copy(tmp_path, container) -> None:
    world = World(tmp_path / "far", container=container, views=1)
    steps = world.order().steps_per_epoch
    with world.stream(steps=3 * steps) as stream:
        sound = list(stream)
    store = Counted(tmp_path / "far")
    copy = near(store, tmp_path)
    world.cache = Cache(copy, world.cache.invariants)
    with world.stream(steps=2 * steps) as stream:
        assert all(same(a, b) for a, b in zip(stream, sound, strict=False))
    copy.close()
    store.asked.clear()
    copy = near(store, tmp_path)
    world.cache = Cache(copy, world.cache.invariants)
    with world.stream(steps=3 * steps) as stream:
        assert all(same(a, b) for a, b in zip(stream, sound, strict=True))
    assert not [
        path for path, _ in store.asked if path.endswith((".tar", ".parquet")) and "commits" not in path
    ]
    copy.close()


def test_a_record_that_came_damaged_and_was_kept_is_fetched_again(tmp_path) -> None:
    """What the copy holds is what came, and that was not what is stored: only the record's CRC can tell."""
    world = World(tmp_path / "far", views=1)
    with world.stream(steps=8) as stream:
        sound = list(stream)
    path = tmp_path / "far" / world.cache.committed(world.teachers["b"])[1].records.name
    whole = path.read_bytes()
    path.write_bytes(bytes(byte ^ 1 for byte in whole[:2000]) + whole[2000:])
    copy = near(LocalStore(tmp_path / "far"), tmp_path)
    world.cache = Cache(copy, world.cache.invariants)
    with pytest.raises(CorruptObject, match="000001"), world.stream(steps=8) as stream:
        list(stream)
    path.write_bytes(whole)
    with world.stream(steps=8) as stream:
        assert all(same(a, b) for a, b in zip(stream, sound, strict=True))
    copy.close()
