"""Every fault that a shard can have, met by a reader: named with its object, never given as data."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage import layout
from storage.cache import Cache
from storage.commits import Commit, IndexRef, ObjectRef, read_commit, write_commit
from storage.containers.base import MISSING, add_crc, load_index
from storage.errors import CorruptObject, MissingData
from storage.identity import sha256
from storage.layout import Column
from storage.manifest import keys_digest, write_samples
from tests.storage.sample_cache import KEYS, make_cache, sample_rows

Reading = Callable[[Cache, int], object]


@pytest.fixture(scope="module", params=["wds", "zarr"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of two views, so that shard v + 3 has the shape of shard v; records of one size."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    make_cache(str(folder), request.param)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture(params=["images", "alpha", "beta"])
def column(request: pytest.FixtureRequest, copy: Path) -> Column:
    """Each of its columns."""
    if request.param == "images":
        return Column.images()
    return Cache.open(str(copy)).teacher_columns()[request.param]


def read(cache: Cache, column: Column, shard: int) -> list[bytes | None]:
    """All of a shard, as a trainer reads it."""
    rows = range(cache.shard(shard).rows)
    return cache.read_images(shard, rows) if column.is_images else cache.read_records(column, shard, rows)


def commit_of(folder: Path, column: Column, shard: int) -> Commit:
    path = layout.commit_path(column, shard)
    return read_commit((folder / path).read_bytes(), path, column, shard)


def swap(folder: Path, one: str, other: str) -> None:
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


def refused(folder: Path, column: Column, shard: int, named: str) -> None:
    """A fresh reader gets nothing but the fault's name."""
    with pytest.raises(CorruptObject, match=re.escape(named)):
        read(Cache.open(str(folder)), column, shard)


def test_a_cut_object(copy: Path, column: Column) -> None:
    commit = commit_of(copy, column, 1)
    data = (copy / commit.records.name).read_bytes()
    for cut in {0, 1, len(data) // 2, commit.index.offset, commit.index.offset + commit.index.size - 1}:
        (copy / commit.records.name).write_bytes(data[:cut])
        refused(copy, column, 1, commit.records.name)


def test_a_flip_in_any_byte_that_is_read(copy: Path, column: Column) -> None:
    """Of records and of the index; what else a tar has, headers and padding, no reader looks at."""
    commit = commit_of(copy, column, 4)
    path = copy / commit.records.name
    data = path.read_bytes()
    index = load_index(lambda at, size: data[at : at + size], commit)
    spans = [place for row in range(commit.rows) if (place := index.range(row))]
    for offset, size in [*spans, (commit.index.offset, commit.index.size)]:
        for at in {offset, offset + size // 3, offset + size // 2, offset + size - 1}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            refused(copy, column, 4, commit.records.name)
    path.write_bytes(data)
    read(Cache.open(str(copy)), column, 4)


def test_a_lost_object(copy: Path, column: Column) -> None:
    commit = commit_of(copy, column, 2)
    (copy / commit.records.name).unlink()
    refused(copy, column, 2, commit.records.name)


def test_objects_exchanged(copy: Path, column: Column) -> None:
    """Both are sound, and of the same shape to the byte."""
    one, other = (commit_of(copy, column, shard) for shard in (0, 3))
    assert (one.records.bytes, one.index.offset) == (other.records.bytes, other.index.offset)
    swap(copy, one.records.name, other.records.name)
    for shard, commit in ((0, one), (3, other)):
        refused(copy, column, shard, commit.records.name)


def test_objects_exchanged_under_a_reader(copy: Path, column: Column) -> None:
    """It has the index already: the rows themselves tell, however the exchange was made."""
    cache = Cache.open(str(copy))
    row = next(row for row in range(3) if row not in commit_of(copy, column, 0).quarantined)
    get = cache.read_images if column.is_images else lambda *a: cache.read_records(column, *a)
    before = [get(shard, [row]) for shard in (0, 3)]
    one, other = (copy / commit_of(copy, column, shard).records.name for shard in (0, 3))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    for shard, path in ((0, one), (3, other)):
        with pytest.raises(CorruptObject, match=str(path.relative_to(copy))):
            get(shard, [row])
    one.write_bytes(first)
    other.write_bytes(second)
    assert [get(shard, [row]) for shard in (0, 3)] == before


def test_commits_exchanged(copy: Path, column: Column) -> None:
    paths = [layout.commit_path(column, shard) for shard in (0, 3)]
    swap(copy, *paths)
    for shard, path in zip((0, 3), paths, strict=True):
        refused(copy, column, shard, path)
    with pytest.raises(CorruptObject, match=paths[0]):
        dict(Cache.open(str(copy)).committed(column))


def test_columns_exchanged(copy: Path) -> None:
    """The folders, the commits, or both, of two teachers."""
    alpha, beta = Cache.open(str(copy)).teacher_columns().values()
    folders = (alpha.path, beta.path), (layout.commit_folder(alpha), layout.commit_folder(beta))
    for exchanged in (folders[:1], folders[1:], folders):
        for pair in exchanged:
            swap(copy, *pair)
        for column in (alpha, beta):
            refused(copy, column, 1, "000001" if exchanged[-1] in folders[1:] else column.path)
            if folders[0] in exchanged:
                with pytest.raises(CorruptObject, match=layout.teacher_path(column)):
                    Cache.open(str(copy)).codec(column)
        for pair in exchanged:
            swap(copy, *pair)
    for column in (alpha, beta):
        read(Cache.open(str(copy)), column, 1)


@pytest.mark.parametrize("shard", [6, 999_999])
def test_a_shard_that_no_segment_has(copy: Path, column: Column, shard: int) -> None:
    extra = commit_of(copy, column, 0).model_copy(update={"shard": shard})
    (copy / extra.path).write_bytes(write_commit(extra))
    cache = Cache.open(str(copy))
    with pytest.raises(CorruptObject, match=f"{extra.path} is damaged: no segment has this shard"):
        cache.committed(column)
    with pytest.raises(MissingData, match=f"no shard {shard}"):
        cache.read_records(column, shard, [0])
    cache.discard(column, shard)
    assert sorted(cache.committed(column)) == list(range(6))


def test_a_lost_segment_leaves_shards_that_no_segment_has(tmp_path: Path) -> None:
    make_cache(str(tmp_path), views=1)
    make_cache(str(tmp_path), views=2)
    (tmp_path / "segments/0002.json").unlink()
    with pytest.raises(CorruptObject, match=r"000003\.json is damaged: no segment has this shard"):
        Cache.open(str(tmp_path)).missing(Column.images())


def test_a_segment_added_meanwhile_is_no_damage(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    make_cache(str(tmp_path), views=2)
    assert sorted(cache.committed(Column.images())) == list(range(6)) and len(cache.shards()) == 6


def test_a_segment_of_other_rows(copy: Path, column: Column) -> None:
    """Another cache's document in its place: rows would be counted wrongly."""
    other = Cache.create(str(copy.parent / "other"), Cache.open(str(copy)).invariants)
    other.add_segment("source-fp", KEYS + 1, 2)
    (copy / "segments/0001.json").write_bytes(other.store.read("segments/0001.json"))
    refused(copy, column, 2, f"{layout.commit_path(column, 2)} is damaged: it has 1 rows, shard 2 has 2")


def rewrite_images(folder: Path, shard: int, change: Callable[[list], list]) -> Commit:
    """Give a shard another sample table, and a commit that vouches for it."""
    cache = Cache.open(str(folder))
    table = write_samples(change(sample_rows(cache, cache.shard(shard))))
    commit = commit_of(folder, Column.images(), shard)
    digest = sha256(table)
    ref = ObjectRef(name=layout.samples_path(shard, digest), bytes=len(table), sha256=digest)
    (folder / ref.name).write_bytes(table)
    keys = [row.key for row in change(sample_rows(cache, cache.shard(shard)))]
    changed = {"objects": (commit.objects[0], ref), "keys": keys_digest(keys)}
    commit = commit.model_copy(update=changed)
    (folder / commit.path).write_bytes(write_commit(commit))
    return commit


@pytest.mark.parametrize(
    "change",
    [lambda rows: [rows[0], rows[1], rows[1]], lambda rows: rows[:2], lambda rows: [*rows, rows[0]]],
    ids=["twice", "too few", "too many"],
)
def test_a_sample_table_with_a_sample_twice_or_too_few(copy: Path, change: Callable) -> None:
    commit = rewrite_images(copy, 1, change)
    with pytest.raises(CorruptObject, match=f"{commit.objects[1].name} is damaged: it names"):
        Cache.open(str(copy)).samples(1)


def test_sample_tables_exchanged(copy: Path) -> None:
    one, other = (commit_of(copy, Column.images(), shard).objects[1].name for shard in (0, 3))
    swap(copy, one, other)
    for shard, path in ((0, one), (3, other)):
        with pytest.raises(CorruptObject, match=path):
            Cache.open(str(copy)).samples(shard)


def slots(data: bytes, place: IndexRef) -> tuple[np.ndarray, np.ndarray]:
    """Checksums and ranges of an index, to be changed: [rows], [rows, 2]."""
    index = data[place.offset : place.offset + place.size]
    count = (place.size - 4) // 20
    return (
        np.frombuffer(index, "<u4", count).copy(),
        np.frombuffer(index, "<u8", 2 * count, offset=4 * count).reshape(-1, 2).copy(),
    )


def with_index(data: bytes, place: IndexRef, checksums: np.ndarray, ranges: np.ndarray) -> bytes:
    """The object with another index, its CRC in order."""
    index = checksums.tobytes() + add_crc(ranges.tobytes())
    return data[: place.offset] + index + data[place.offset + place.size :]


def test_a_record_in_anothers_row(copy: Path, column: Column) -> None:
    """The index says so, with or without the checksums, or the bytes of two records are exchanged."""
    commit = commit_of(copy, column, 1)
    path = copy / commit.records.name
    data = path.read_bytes()
    checksums, ranges = slots(data, commit.index)
    one, other = two_rows(commit)
    order = np.arange(len(ranges))
    order[[one, other]] = other, one
    for changed in (
        with_index(data, commit.index, checksums, ranges[order]),
        with_index(data, commit.index, checksums[order], ranges[order]),
        with_records_exchanged(data, ranges, one, other),
    ):
        path.write_bytes(changed)
        refused(copy, column, 1, commit.records.name)


def two_rows(commit: Commit) -> tuple[int, int]:
    """Two rows that have a record."""
    first, second = [row for row in range(commit.rows) if row not in commit.quarantined][:2]
    return first, second


def with_records_exchanged(data: bytes, ranges: np.ndarray, one: int, other: int) -> bytes:
    """The object with two records of one size in each other's place."""
    (at, size), (there, same) = (tuple(map(int, ranges[row])) for row in (one, other))
    assert size == same and data[at : at + size] != data[there : there + size]
    changed = bytearray(data)
    changed[at : at + size], changed[there : there + size] = data[there : there + size], data[at : at + size]
    return bytes(changed)


def test_an_unwritten_chunk(copy: Path, column: Column) -> None:
    commit = commit_of(copy, column, 1)
    path = copy / commit.records.name
    data = path.read_bytes()
    checksums, ranges = slots(data, commit.index)
    ranges[two_rows(commit)[0]] = MISSING
    path.write_bytes(with_index(data, commit.index, checksums, ranges))
    refused(copy, column, 1, commit.records.name)
