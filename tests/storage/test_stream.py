"""Batches are the order's samples, bit for bit and in order; faults surface, threads end, memory is flat."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cache import Cache
from storage.codecs import Calibrator, LevelShape
from storage.config import CodecConfig, JpegConfig, ViewConfig
from storage.errors import CacheError, CorruptObject, MissingData
from storage.jpeg import decode_jpeg, encode_jpeg
from storage.layout import Column
from storage.manifest import Invariants, SampleRow
from storage.order import Order
from storage.stream import Stream, make_order

SIDE = 16
SHAPES = (LevelShape(4, 3, 3), LevelShape(6, 2, 2))
CODECS = {"a": CodecConfig(name="f16"), "b": CodecConfig(name="int8", lossless="zstd")}
BAD_IMAGE, BAD_FEATURE = "k05~v1", "k11~v0"


class World:
    """A small real cache, and what every sample of it must read as."""

    def __init__(self, folder: Path | str, *, keys: int = 23, container: str = "wds", views: int = 2) -> None:
        self.rng = np.random.default_rng(5)
        invariants = Invariants(
            views=ViewConfig(size=SIDE), jpeg=JpegConfig(), samples_per_shard=5, container=container
        )
        self.cache = Cache.create(str(folder), invariants)
        names = [f"k{i:02d}" for i in range(keys)]
        self.cache.add_segment("source", keys, views)
        segment = self.cache.segments[0]
        self.shuffled = [names[i] for i in segment.permutation()]
        self.pixels: dict[str, np.ndarray] = {}
        self.codes: dict[str, dict[str, np.ndarray]] = {t: {} for t in CODECS}
        self.teachers = {teacher: self._register(teacher) for teacher in CODECS}
        for shard in self.cache.shards():
            self._fill(shard)

    def _maps(self, count: int) -> list[torch.Tensor]:
        shapes = [(count, *shape) for shape in SHAPES]
        return [torch.from_numpy(self.rng.standard_normal(s).astype(np.float32)) for s in shapes]

    def _register(self, teacher: str) -> Column:
        calibrator = Calibrator(SHAPES)
        calibrator.update(self._maps(8))
        codec, stats = CODECS[teacher], calibrator.finish
        return self.cache.register(teacher, {"weights": teacher}, codec, SHAPES, stats, {})

    def _fill(self, shard) -> None:
        keys = [f"{k}~v{shard.view}" for k in self.shuffled[shard.first : shard.first + shard.rows]]
        rows, jpegs = [], []
        for row, key in enumerate(keys):
            why = "truncated" if key == BAD_IMAGE else None
            jpeg = encode_jpeg(self.rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), JpegConfig())
            rows.append(SampleRow(row, key, key, 0, 0, 9, 9, False, 20, 30, why))
            jpegs.append(None if why else jpeg)
            self.pixels[key] = np.zeros((SIDE, SIDE, 3), np.uint8) if why else decode_jpeg(jpeg)
        self.cache.put_images(shard.index, rows, jpegs)
        for teacher, column in self.teachers.items():
            self._fill_features(shard.index, keys, teacher, column)

    def _fill_features(self, shard: int, keys: list[str], teacher: str, column: Column) -> None:
        codec = self.cache.codec(column)
        levels = self._maps(len(keys))
        if BAD_FEATURE in keys and teacher == "a":
            levels[0][keys.index(BAD_FEATURE)] = torch.nan
        codes, quality, reasons = codec.encode(levels)
        reasons = [
            "no image" if key == BAD_IMAGE else reason for key, reason in zip(keys, reasons, strict=True)
        ]
        records = [codec.pack(c) if r is None else None for c, r in zip(codes, reasons, strict=True)]
        self.cache.put_features(column, shard, records, quality, reasons)
        self.codes[teacher] |= {k: c for k, c, r in zip(keys, codes, reasons, strict=True) if r is None}

    def order(self, batch: int = 6, seed: int = 1) -> Order:
        return make_order(self.cache, seed=seed, global_batch=batch, window=2)

    def stream(self, first: int = 0, steps: int = 10, threads: int = 3, **options) -> Stream:
        order = options.pop("order", None) or self.order()
        return Stream(self.cache, order, self.teachers, first, steps, threads, **options)

    def key_at(self, position: int, view: int) -> str:
        return f"{self.shuffled[position]}~v{view}"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not stream_threads()


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cutler-stream")]


def rows_of(batch, teacher: str) -> list[np.ndarray | None]:
    """The codes of each sample of a batch, None where there are none."""
    codes = batch.codes[teacher]
    return [None if row in codes.missing else code for row, code in enumerate(codes.codes.numpy())]


def same(a, b) -> bool:
    codes = all(
        (x is None and y is None) or np.array_equal(x, y)
        for teacher in a.codes
        for x, y in zip(rows_of(a, teacher), rows_of(b, teacher), strict=True)
    )
    tensors = torch.equal(a.images, b.images) and torch.equal(a.weight, b.weight)
    return a.step == b.step and a.keys == b.keys and tensors and codes


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_three_epochs_are_the_orders_samples_bit_for_bit(tmp_path, container):
    world = World(tmp_path, container=container)
    order = world.order()
    with world.stream(steps=3 * order.steps_per_epoch) as stream:
        batches = list(stream)
    assert [b.step for b in batches] == list(range(3 * order.steps_per_epoch))
    for batch in batches:
        assert batch.keys == [world.key_at(p, v) for p, v in order.batch(batch.step)]
        assert batch.images.dtype == torch.uint8 and batch.weight.dtype == torch.float32
        for i, key in enumerate(batch.keys):
            assert np.array_equal(batch.images[i], world.pixels[key])
            for teacher, expected in world.codes.items():
                found = rows_of(batch, teacher)[i]
                assert (found is None) if key not in expected else np.array_equal(found, expected[key])


def test_quarantined_samples_keep_their_position_with_weight_0(world):
    order = world.order()
    with world.stream(steps=4 * order.steps_per_epoch) as stream:
        weights = {key: float(w) for batch in stream for key, w in zip(batch.keys, batch.weight, strict=True)}
    assert {key for key, weight in weights.items() if weight == 0} == {BAD_IMAGE, BAD_FEATURE}
    assert set(weights) == set(world.pixels)


def test_resuming_at_any_step_gives_the_remaining_batches(world):
    with world.stream(steps=12) as stream:
        whole = list(stream)
    for first in range(12):
        with world.stream(first, 12 - first, threads=1 + first % 4) as stream:
            assert all(same(a, b) for a, b in zip(whole[first:], stream, strict=True))


@given(
    first=st.integers(0, 40),
    steps=st.integers(1, 5),
    ranks=st.integers(1, 6),
    threads=st.integers(1, 5),
    batch=st.integers(6, 23),
    window=st.integers(1, 4),
)
@settings(max_examples=25)
def test_any_ranks_and_threads_resume_anywhere_with_exactly_the_rest(world, **case):
    order = make_order(world.cache, seed=3, global_batch=case["batch"], window=case["window"])
    keys: list[list[str]] = [[] for _ in range(case["steps"])]
    for rank in range(case["ranks"]):
        how = {"rank": rank, "world": case["ranks"], "order": order, "threads": case["threads"]}
        with world.stream(case["first"], case["steps"], **how) as stream:
            batches = list(stream)
        assert [b.step - case["first"] for b in batches] == list(range(case["steps"])), "equal on every rank"
        for batch in batches:
            keys[batch.step - case["first"]] += [key for key in batch.keys if key]
    for offset, found in enumerate(keys):
        assert found == [world.key_at(*place) for place in order.batch(case["first"] + offset)]


@pytest.mark.parametrize("ranks", [2, 4, 6])
def test_ranks_cut_the_global_batch_and_pad_with_weight_0(world, ranks):
    with world.stream(steps=8) as stream:
        whole = list(stream)
    parts = []
    for rank in range(ranks):
        with world.stream(steps=8, rank=rank, world=ranks) as stream:
            parts.append(list(stream))
    for step, batch in enumerate(whole):
        rows = [part[step] for part in parts]
        assert {len(r.keys) for r in rows} == {-(-6 // ranks)}
        real = [(r, i) for r in rows for i, key in enumerate(r.keys) if key]
        assert [r.keys[i] for r, i in real] == batch.keys
        assert torch.equal(torch.stack([r.images[i] for r, i in real]), batch.images)
        padding = [(r, i) for r in rows for i, key in enumerate(r.keys) if not key]
        assert all(
            r.weight[i] == 0 and not r.images[i].any() and i in r.codes["a"].missing for r, i in padding
        )


def test_an_object_store_streams_as_a_folder_does(world):
    remote = World("memory://stream-of-batches")
    with world.stream(steps=9) as here, remote.stream(steps=9) as there:
        assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_without_teachers_only_pixels_are_read(world):
    with Stream(world.cache, world.order(), {}, 0, 2, 2) as stream:
        for batch in stream:
            assert batch.codes == {}
            assert [bool(w) for w in batch.weight] == [key != BAD_IMAGE for key in batch.keys]


class SlowCache(Cache):
    """The real cache on a slow disk: every read waits, unevenly, and is noted."""

    def __init__(self, store, invariants) -> None:
        super().__init__(store, invariants)
        self.reads: list[tuple[int, tuple[int, ...]]] = []

    def read_images(self, shard_index, rows):
        self.reads.append((shard_index, tuple(rows)))
        time.sleep(0.002 * (shard_index * 7 % 5))
        return super().read_images(shard_index, rows)


@pytest.fixture
def slow(world) -> SlowCache:
    return SlowCache(world.cache.store, world.cache.invariants)


def test_batches_come_in_order_however_slow_a_shard_is(world, slow):
    with Stream(slow, world.order(), world.teachers, 0, 12, 4) as stream, world.stream(steps=12) as quick:
        assert all(same(a, b) for a, b in zip(stream, quick, strict=True))


def test_reads_are_grouped_by_shard(world, slow):
    with Stream(slow, world.order(), {}, 0, 4, 1) as stream:
        batches = list(stream)
    wanted = [
        {(k.split("~v")[1], world.shuffled.index(k.split("~v")[0]) // 5) for k in b.keys} for b in batches
    ]
    assert len(slow.reads) == sum(map(len, wanted))
    assert all(list(rows) == sorted(rows) for _, rows in slow.reads)


def test_prefetch_is_bounded_while_the_consumer_is_busy(world, slow):
    with Stream(slow, world.order(), {}, 0, 1000, 4) as stream:
        next(stream)
        time.sleep(0.3)
        ahead = sum(len(rows) for _, rows in slow.reads)
        time.sleep(0.1)
        assert ahead == sum(len(rows) for _, rows in slow.reads)
        assert 6 < ahead <= 6 * 4


def held_now() -> tuple[int, int, int, int]:
    """Python objects, traced bytes, threads and open files of this process."""
    gc.collect()
    files = len(list(Path("/proc/self/fd").iterdir()))
    return len(gc.get_objects()), tracemalloc.get_traced_memory()[0], threading.active_count(), files


def test_memory_threads_and_files_are_flat_over_epochs(world):
    epoch, seen = world.order().steps_per_epoch, []
    tracemalloc.start()
    with world.stream(steps=81 * epoch, threads=2) as stream:
        for batch in stream:
            if batch.step in (10 * epoch, 80 * epoch):
                seen.append(held_now())
    tracemalloc.stop()
    # two batches more or less may be read ahead, and Python keeps some thousand freed tuples for later
    for early, late, slack in zip(*seen, (300, 150_000, 0, 0), strict=True):
        assert late <= early + slack


@pytest.mark.slow
def test_resident_memory_is_flat_over_a_thousand_epochs(world):
    epoch, seen = world.order().steps_per_epoch, []
    with world.stream(steps=1000 * epoch, threads=3) as stream:
        for batch in stream:
            if batch.step % (50 * epoch) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                seen.append(pages * os.sysconf("SC_PAGE_SIZE"))
    assert max(seen[10:]) < max(seen[2:10]) + 4_000_000


@pytest.mark.parametrize("teacher", ["a", "b"])
def test_a_flipped_byte_stops_the_stream_and_names_the_object(tmp_path, teacher):
    world = World(tmp_path)
    commit = world.cache.committed(world.teachers[teacher])[2]
    path = tmp_path / commit.objects[0].name
    data = bytearray(path.read_bytes())
    data[600] ^= 1  # in the first record
    path.write_bytes(data)
    with pytest.raises(CorruptObject, match="000002") as caught, world.stream(steps=100) as stream:
        for _ in stream:
            pass
    assert any("shard 2" in note for note in caught.value.__notes__)
    with pytest.raises(StopIteration):
        next(stream)


def test_a_lost_object_stops_the_stream_and_names_the_shard(tmp_path):
    world = World(tmp_path)
    commit = world.cache.committed(Column.images())[1]
    (tmp_path / commit.objects[0].name).unlink()
    with pytest.raises(CacheError, match=r"shard 1\b|000001"), world.stream(steps=100) as stream:
        list(stream)


def test_a_missing_shard_is_refused_before_training(tmp_path):
    world = World(tmp_path)
    next((tmp_path / "commits" / world.teachers["b"].path).glob("000003.json")).unlink()
    world.cache = Cache.open(str(tmp_path))
    with pytest.raises(MissingData, match=r"features/b/.* lacks 1 of 10 shards, the first is 3"):
        world.stream()
    with Stream(world.cache, world.order(), {}, 0, 1, 1) as stream:
        assert len(list(stream)) == 1


@pytest.mark.parametrize("when", ["break", "error", "interrupt", "drop", "exhausted", "closed twice"])
def test_no_thread_outlives_the_stream(world, when):
    stream = world.stream(steps=50)
    next(stream)
    assert stream_threads()
    if when == "break":
        with stream:
            pass
    elif when == "error":
        with pytest.raises(RuntimeError, match="loss"), stream:
            raise RuntimeError("loss is NaN")
    elif when == "interrupt":
        with pytest.raises(KeyboardInterrupt), stream:
            for _ in stream:
                signal.raise_signal(signal.SIGINT)
    elif when == "exhausted":
        assert len(list(stream)) == 49
    elif when == "closed twice":
        stream.close()
        stream.close()
    del stream
    deadline = time.monotonic() + 5
    while stream_threads() and time.monotonic() < deadline:
        gc.collect()  # once its last reads have ended nobody holds a stream that was dropped
        time.sleep(0.01)


def test_ctrl_c_while_waiting_for_a_read_ends_cleanly(world, slow):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), Stream(slow, world.order(), {}, 0, 100_000, 2) as stream:
        timer.start()
        for _ in stream:
            pass
    timer.join()
    assert not stream_threads()


def test_orders_of_another_cache_are_refused(world, tmp_path):
    other = World(tmp_path, keys=12, views=1)
    with pytest.raises(ValueError, match="view 0 has 23 samples in 5 shards, the order 12 in 3"):
        world.stream(order=other.order())
    with pytest.raises(ValueError, match="holds 1 views per image, not 2"):
        make_order(other.cache, seed=0, global_batch=2, window=1, views=2)
    with pytest.raises(ValueError, match="12 samples per view, the global batch asks 13"):
        make_order(other.cache, seed=0, global_batch=13, window=1)
    with pytest.raises(ValueError, match="at least 1 thread"):
        world.stream(threads=0)
    assert make_order(world.cache, seed=0, global_batch=2, window=1, views=1).views == 1
