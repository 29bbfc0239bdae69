"""The cache as its users see it: made, opened, filled, read, refused."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest
import torch

from storage.cache import Cache
from storage.codecs import Stats, load_stats
from storage.config import CodecConfig, JpegConfig, ViewConfig
from storage.errors import AmbiguousColumn, CacheError, CorruptObject, FormatError, MissingData, StaleColumn
from storage.layout import Column
from storage.local import LocalStore
from storage.manifest import Invariants, SampleRow
from storage.verify import verify
from tests.storage.sample_cache import (
    BAD_IMAGE,
    IDENTITY,
    SHAPES,
    encode,
    invariants,
    jpeg_of,
    make_cache,
    maps,
    put_features,
    put_images,
    register,
    sample_rows,
)


@pytest.fixture(params=["wds", "zarr"])
def container(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "c") if request.param == "folder" else f"memory://{uuid.uuid4()}/c"


def test_everything_written_is_read(url: str, container: str) -> None:
    make_cache(url, container, lossless="zstd")
    cache = Cache.open(url)
    assert verify(cache).ok
    assert [column.teacher for column in cache.columns()] == [None, "alpha", "beta"]
    for shard in cache.shards():
        rows = sample_rows(cache, shard)
        assert [SampleRow(**row) for row in cache.samples(shard.index).to_pylist()] == rows
        backwards = list(reversed(range(shard.rows)))
        assert cache.read_images(shard.index, backwards) == [jpeg_of(rows[row]) for row in backwards]
        for teacher, column in cache.teacher_columns().items():
            records = cache.read_records(column, shard.index, backwards)
            codec = cache.codec(column)
            decoded = codec.decode([None if r is None else codec.unpack(r) for r in records], "cpu")
            for level, original in zip(decoded, maps(teacher, shard.index, shard.rows), strict=True):
                wanted = original.flip(0).clone()
                wanted[[rows[row].quarantine is not None for row in backwards]] = 0
                torch.testing.assert_close(level, wanted, rtol=1e-3, atol=0.2)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, container: str) -> None:
    first, second = (make_cache(str(tmp_path / name), container, lossless="zstd") for name in "ab")
    assert first.store.list() == second.store.list()
    for path in first.store.list():
        assert first.store.read(path) == second.store.read(path), path


def test_rows_without_record_are_told_apart(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container, views=1)
    bad = [
        (shard.index, row.row)
        for shard in cache.shards()
        for row in sample_rows(cache, shard)
        if row.source == BAD_IMAGE
    ]
    for column in cache.columns():
        found = [
            (shard, row) for shard, commit in cache.committed(column).items() for row in commit.quarantined
        ]
        assert found == bad
        commit = cache.committed(column)[bad[0][0]]
        assert commit.reasons == ("truncated file",)
    assert cache.committed(column)[bad[0][0]].stats["values"] == 72 * (commit.rows - 1)


def test_creating_twice_opens(tmp_path: Path) -> None:
    asked = invariants()
    first = Cache.create(str(tmp_path), asked)
    first.add_segment("source-fp", 5, 1)
    assert Cache.create(str(tmp_path), asked).segments == first.segments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": ViewConfig(size=64)}, r"views\.size = 32, the recipe asks 64"),
        ({"jpeg": JpegConfig(quality=80)}, r"jpeg\.quality = 95, the recipe asks 80"),
        ({"samples_per_shard": 4}, "samples_per_shard = 3, the recipe asks 4"),
        ({"container": "zarr"}, "container = wds, the recipe asks zarr"),
    ],
)
def test_other_invariants_are_refused_with_both_values(tmp_path: Path, change: dict, message: str) -> None:
    Cache.create(str(tmp_path), invariants())
    with pytest.raises(CacheError, match=message):
        Cache.create(str(tmp_path), invariants().model_copy(update=change))


def test_opening_what_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"no cache: it has no cache\.json"):
        Cache.open(str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingData, match="no cache"):
        Cache.open(str(tmp_path / "file"))


def test_segments(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants())
    first = cache.add_segment("source-fp", 7, 1)
    assert cache.add_segment("source-fp", 7, 1) == first == cache.segments[0]
    more = cache.add_segment("source-fp", 7, 3)
    assert (more.first_view, more.views, more.first_shard) == (1, 2, 3)
    assert cache.add_segment("source-fp", 7, 2) == more
    assert [shard.view for shard in cache.shards()] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [shard.index for shard in cache.shards(1)] == [3, 4, 5]
    assert Cache.open(str(tmp_path)).shards() == cache.shards()
    for source, keys in (("other-fp", 7), ("source-fp", 8)):
        with pytest.raises(CacheError, match=rf"source source-fp with 7 keys.*{source} with {keys}"):
            cache.add_segment(source, keys, 1)
    with pytest.raises(MissingData, match="shards 0 to 8, no shard 9"):
        cache.shard(9)


def test_views_added_later_leave_what_is_there_alone(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container, views=1)
    before = {path: cache.store.read(path) for path in cache.store.list() if not path.endswith("zarr.json")}
    cache = make_cache(str(tmp_path), container, views=2)
    assert {path: cache.store.read(path) for path in before} == before
    assert verify(cache).ok and len(cache.committed(Column.images())) == 6


def test_missing_is_what_is_not_committed(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants())
    cache.add_segment("source-fp", 7, 1)
    assert cache.columns() == [] and cache.missing(Column.images()) == [0, 1, 2]
    put_images(cache, cache.shard(1))
    assert cache.missing(Column.images()) == [0, 2] == Cache.open(str(tmp_path)).missing(Column.images())
    column = register(cache, "alpha", CodecConfig())
    assert cache.missing(column) == [0, 1, 2]
    for call in (
        lambda: cache.samples(0),
        lambda: cache.read_images(0, [0]),
        lambda: put_features(cache, column, 0),
    ):
        with pytest.raises(MissingData, match=r"shard 0 of images .* is not committed"):
            call()
    with pytest.raises(MissingData, match=f"shard 1 of {column}"):
        cache.read_records(column, 1, [0])
    put_features(cache, column, 1)
    assert cache.missing(column) == [0, 2]


def test_registering_again_keeps_the_first_calibration(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container, views=1)
    column = cache.teacher_columns()["beta"]
    before = {path: cache.store.read(path) for path in cache.store.list()}
    codec = CodecConfig(name="int8")

    def again() -> Stats:
        raise AssertionError("a column that is there must not be calibrated again")

    assert cache.register("beta", IDENTITY, codec, SHAPES["beta"], again, {"torch": "3"}) == column
    assert {path: cache.store.read(path) for path in cache.store.list()} == before


def test_registering_again_writes_the_arrays_metadata_that_is_gone(tmp_path: Path) -> None:
    """As after `verify --discard`, or a crash between adding views and making the arrays longer."""
    cache = make_cache(str(tmp_path), "zarr", views=1)
    column = cache.teacher_columns()["beta"]
    before = cache.store.read(f"{column.path}/zarr.json")
    cache.store.delete(f"{column.path}/zarr.json")
    assert register(Cache.open(str(tmp_path)), "beta", CodecConfig(name="int8")) == column
    assert cache.store.read(f"{column.path}/zarr.json") == before


class CountingStore(LocalStore):
    """A local store that counts listings and names what was read whole."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listings, self.reads = 0, list[str]()

    def list(self, prefix: str = "") -> list[str]:
        self.listings += 1
        return super().list(prefix)

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return super().read(path)


def test_one_shards_commit_costs_one_document(tmp_path: Path) -> None:
    """A worker asks for each of its shards: listing all commits every time would be quadratic."""
    made = make_cache(str(tmp_path), views=1)
    store = CountingStore(tmp_path)
    cache = Cache(store, made.invariants)
    store.listings, store.reads = 0, []
    commit = cache.commit_of(Column.images(), 1)
    assert commit == made.committed(Column.images())[1] == cache.commit_of(Column.images(), 1)
    assert cache.commit_of(Column.images(), 999_999) is None
    assert store.listings == 0 and store.reads == [commit.path, "commits/images/999999.json"]
    assert cache.teacher_columns() == made.teacher_columns() and store.listings == 0


def cache_stats(cache: Cache, column: Column) -> dict[str, torch.Tensor]:
    return load_stats(cache.store.read(f"{column.path}/codec.safetensors"))


def test_two_calibrations_racing_leave_one_that_fits(tmp_path: Path) -> None:
    """The tensors of one writer are there, its teacher.json not yet: another describes what is there."""
    cache = make_cache(str(tmp_path), views=1)
    column = cache.teacher_columns()["beta"]
    cache.store.delete(f"{column.path}/teacher.json")
    other = {name: 2 * tensor for name, tensor in cache_stats(cache, column).items()}
    again = Cache.open(str(tmp_path))
    again.register("beta", IDENTITY, CodecConfig(name="int8"), SHAPES["beta"], lambda: other, {})
    assert again.codec(column).encode(maps("beta", 0, 1)).reasons == [None]
    assert verify(again).ok


def test_fingerprints_tell_columns_apart(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path / "a"), invariants())
    other = Cache.create(str(tmp_path / "b"), Invariants(views=ViewConfig(size=48)))
    fp = cache.column_fingerprint(IDENTITY, CodecConfig(), SHAPES["alpha"])
    assert register(cache, "alpha", CodecConfig()).fingerprint == fp
    different = {
        cache.column_fingerprint({**IDENTITY, "weights": "random:1"}, CodecConfig(), SHAPES["alpha"]),
        cache.column_fingerprint(IDENTITY, CodecConfig(name="int8"), SHAPES["alpha"]),
        cache.column_fingerprint(IDENTITY, CodecConfig(), SHAPES["beta"]),
        other.column_fingerprint(IDENTITY, CodecConfig(), SHAPES["alpha"]),
    }
    assert len(different) == 4 and fp not in different


def test_two_columns_of_a_teacher_are_ambiguous(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    second = register(cache, "alpha", CodecConfig(name="int8"))
    with pytest.raises(AmbiguousColumn, match="alpha twice") as caught:
        cache.teacher_columns()
    for column in cache.columns():
        if column.teacher == "alpha":
            assert column.fingerprint in str(caught.value)
    assert second in cache.columns()


def test_a_column_of_another_cache_is_stale_with_both_fingerprints(tmp_path: Path) -> None:
    theirs = make_cache(str(tmp_path / "a"), views=1)
    ours = Cache.create(str(tmp_path / "b"), Invariants(views=ViewConfig(size=48)))
    column = theirs.teacher_columns()["alpha"]
    shutil.copytree(tmp_path / "a" / column.path, tmp_path / "b" / column.path)
    with pytest.raises(StaleColumn) as caught:
        ours.codec(column)
    wanted = ours.column_fingerprint(IDENTITY, CodecConfig(), SHAPES["alpha"])
    assert (caught.value.found, caught.value.wanted) == (column.fingerprint, wanted)
    assert column.fingerprint in str(caught.value) and wanted in str(caught.value)


def test_impossible_columns() -> None:
    for teacher, fp in (("../x", "00000000"), ("Alpha", "00000000"), ("alpha", "xyz"), ("a/b", "00000000")):
        with pytest.raises(FormatError, match="is no column"):
            Column.features(teacher, fp)


def test_contradicting_rows_are_refused(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants())
    cache.add_segment("source-fp", 7, 2)
    rows = sample_rows(cache, cache.shard(0))
    jpegs = [jpeg_of(row) for row in rows]
    wrong_view = [row._replace(key=row.key[:-1] + "1") for row in rows]
    twice = [rows[0], rows[0]._replace(row=1), rows[2]]
    for bad_rows, bad_jpegs, message in (
        (rows[:2], jpegs[:2], "rows 0 to 2 in order, got 2"),
        (rows[::-1], jpegs[::-1], "in order"),
        (twice, jpegs, "twice"),
        (wrong_view, jpegs, "is no view 0"),
        (rows, [None, *jpegs[1:]], "a reason or an image"),
    ):
        with pytest.raises(CacheError, match=message):
            cache.put_images(0, bad_rows, bad_jpegs)
    assert cache.store.list("images/") == []


def test_contradicting_records_are_refused(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path), invariants())
    cache.add_segment("source-fp", 7, 1)
    (shard,) = [s for s in cache.shards() if any(row.quarantine for row in sample_rows(cache, s))]
    put_images(cache, shard)
    column = register(cache, "alpha", CodecConfig())
    records, quality, reasons = encode(cache, column, shard.index)
    row = records.index(None)
    good = next(record for record in records if record is not None)
    for bad_records, message in (
        (records[:-1], "rows, got"),
        ([good] * len(records), f"row {row} has quarantine reason 'truncated file'"),
        ([None] * len(records), "has quarantine reason None"),
        ([record and record[:-1] for record in records], "does not end with its CRC"),
    ):
        with pytest.raises(CacheError, match=message):
            cache.put_features(column, shard.index, bad_records, quality, reasons)
    assert cache.missing(column) == [0, 1, 2]


def test_a_refused_record_keeps_its_reason(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    column = register(cache, "beta", CodecConfig(name="f16"))
    records, quality, reasons = encode(cache, column, 2)
    records, quality, reasons = (
        [None] * len(records),
        quality,
        ["level 0 holds NaN"] * len(reasons),
    )
    commit = cache.put_features(column, 2, records, quality, reasons)
    assert commit.quarantined == tuple(range(len(records))) and commit.fidelity is None
    assert commit.reasons[0] == "level 0 holds NaN"
    assert cache.read_records(column, 2, range(len(records))) == records
    assert [problem for problem in verify(cache).problems if problem.shard == 2] == []


def test_lost_and_damaged_objects_are_named_when_read(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    column = cache.teacher_columns()["alpha"]
    for path, call in (
        (cache.committed(column)[0].records.name, lambda c: c.read_records(column, 0, [0, 1])),
        (cache.committed(Column.images())[0].records.name, lambda c: c.read_images(0, [0])),
        (cache.committed(Column.images())[0].objects[1].name, lambda c: c.samples(0)),
        (f"{column.path}/codec.safetensors", lambda c: c.codec(column)),
        (f"{column.path}/teacher.json", lambda c: c.codec(column)),
        ("commits/images/000000.json", lambda c: c.samples(0)),
    ):
        data = cache.store.read(path)
        cache.store.replace(path, bytes(byte ^ 1 for byte in data))
        with pytest.raises(CorruptObject, match=path):
            call(Cache.open(str(tmp_path)))
        cache.store.delete(path)
        with pytest.raises((CorruptObject, MissingData)):
            call(Cache.open(str(tmp_path)))
        cache.store.replace(path, data)
        call(Cache.open(str(tmp_path)))


def test_dropping_a_column_leaves_the_others_alone(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container, views=1)
    alpha, beta = cache.teacher_columns().values()
    cache.compact(alpha)
    rest = [path for path in cache.store.list() if "/alpha/" not in path]
    cache.drop(alpha)
    assert cache.store.list() == rest and cache.teacher_columns() == {"beta": beta}
    assert verify(cache).ok and cache.missing(alpha) == [0, 1, 2]
    with pytest.raises(MissingData, match="no column"):
        cache.codec(alpha)
    with pytest.raises(CacheError, match="about its images"):
        cache.drop(Column.images())
    assert register(cache, "alpha", CodecConfig()) == alpha
    put_features(cache, alpha, 0)
    assert cache.missing(alpha) == [1, 2]
