"""Any flipped byte of any file is named; so is all that is missing, swapped or doubled."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import layout
from storage.cache import Cache
from storage.commits import read_commit
from storage.config import CodecConfig
from storage.errors import CorruptObject
from storage.layout import Column
from storage.manifest import read_invariants
from storage.mend import discard_damage
from storage.publish import discard
from storage.verify import VerifyReport, verify
from tests.storage.sample_cache import make_cache, put_features, put_images, register, sample_rows


@pytest.fixture(scope="module", params=["wds", "zarr"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete and compacted cache; tests must leave it as it was."""
    folder = tmp_path_factory.mktemp("cache") / request.param
    cache = make_cache(str(folder), request.param, lossless="zstd")
    for column in cache.columns():
        cache.compact(column)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def named(report: VerifyReport) -> set[str]:
    return {problem.path for problem in report.problems}


def test_a_whole_cache_has_no_problems(whole: Path) -> None:
    for depth in ("commits", "checksums"):
        report = verify(str(whole), depth)
        assert report.ok and not report.notes, report
        assert report.counts["columns"] == 3 and report.counts["shards"] == 18
        assert report.counts["samples"] == 14 and report.counts["objects"] == 24


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_any_flipped_byte_of_any_file_is_named(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path / "c"), container, lossless="zstd", views=1)
    for column in cache.columns():
        cache.compact(column)
    for path in cache.store.list():
        file = tmp_path / "c" / path
        data = file.read_bytes()
        # first, last and inner bytes: white space, digits, headers, padding, indexes, footers
        for position in sorted({0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}):
            flipped = bytearray(data)
            flipped[position] ^= 1 << (position % 7)
            file.write_bytes(flipped)
            assert path in named(verify(cache)), f"{path} byte {position}"
        file.write_bytes(data)
    assert verify(cache).ok


def test_every_bit_of_a_document_counts(whole: Path) -> None:
    def flips(path: str) -> Iterator[bytes]:
        data = (whole / path).read_bytes()
        for position, bit in itertools.product(range(len(data)), range(8)):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]

    for data in flips("cache.json"):
        with pytest.raises(CorruptObject, match=r"cache\.json"):
            read_invariants(data, "cache.json")
    for data in flips("commits/images/000001.json"):
        with pytest.raises(CorruptObject, match=r"000001\.json"):
            read_commit(data, "commits/images/000001.json", Column.images(), 1)


def test_a_shallow_look_finds_lost_and_cut_objects(copy: Path) -> None:
    cache = Cache.open(str(copy))
    lost, cut = (cache.committed(cache.teacher_columns()["alpha"])[shard].records.name for shard in (0, 1))
    (copy / lost).unlink()
    (copy / cut).write_bytes((copy / cut).read_bytes()[:-1])
    report = verify(cache, "commits")
    assert named(report) == {lost, cut}
    assert {(problem.column.teacher, problem.shard) for problem in report.problems} == {
        ("alpha", 0),
        ("alpha", 1),
    }


def test_a_missing_commit_is_a_missing_shard(copy: Path) -> None:
    path = copy / "commits/images/000002.json"
    path.unlink()
    problems = [
        problem for problem in verify(str(copy)).problems if problem.path == "commits/images/000002.json"
    ]
    assert [(problem.shard, problem.what) for problem in problems] == [(2, "the shard is not committed")]


@pytest.mark.parametrize("folder", ["commits/images", "images", "samples"])
def test_swapped_files_are_both_named(copy: Path, folder: str) -> None:
    paths = sorted(str(path.relative_to(copy)) for path in (copy / folder).iterdir())[:2]
    swap(copy, *paths)
    assert set(paths) <= named(verify(str(copy)))


def test_swapped_or_lost_segments_are_named(tmp_path: Path) -> None:
    make_cache(str(tmp_path), views=1)
    make_cache(str(tmp_path), views=2)
    swap(tmp_path, "segments/0001.json", "segments/0002.json")
    assert named(verify(str(tmp_path))) == {"segments/0001.json"}
    (tmp_path / "segments/0002.json").unlink()
    assert named(verify(str(tmp_path))) == {"segments/0001.json"}


def swap(folder: Path, one: str, other: str) -> None:
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)


def test_swapped_feature_objects_are_both_named(copy: Path) -> None:
    cache = Cache.open(str(copy))
    names = [cache.committed(cache.teacher_columns()["beta"])[shard].records.name for shard in (0, 3)]
    swap(copy, *names)
    assert set(names) <= named(verify(cache))


def test_strays_and_leftovers_are_notes_not_problems(copy: Path) -> None:
    (copy / "images/000000-00000000.tar").write_bytes(b"an object whose writer died")
    (copy / "logs").mkdir()
    (copy / "logs/run.jsonl").write_text("{}")
    (copy / "images/.tmp-1234").write_bytes(b"half an object")
    strays = ["commits/images/mine.claim.json", "images/000000-00000000.tar"]
    (copy / strays[0]).write_text("{}")
    report = verify(str(copy))
    assert report.ok
    assert [note.split(":")[0] for note in report.notes] == strays


def test_a_sample_in_two_shards_is_named(tmp_path: Path) -> None:
    cache = Cache.create(str(tmp_path / "c"), make_cache(str(tmp_path / "pattern")).invariants)
    cache.add_segment("source-fp", 7, 1)
    put_images(cache, cache.shards()[0])
    doubled = [row._replace(row=at) for at, row in enumerate(sample_rows(cache, cache.shards()[0]))]
    cache.put_images(1, doubled, [None if row.quarantine else b"pixels" for row in doubled])
    problems = verify(cache).problems
    assert any(problem.shard == 1 and "earlier shard" in problem.what for problem in problems)


def test_columns_about_other_samples_are_named(copy: Path) -> None:
    """The images of a shard made again from other samples: every column over it is out of line."""
    cache = Cache.open(str(copy))
    shard = cache.shard(1)
    discard(cache.store, Column.images(), 1)
    cache = Cache.open(str(copy))
    rows = [row._replace(key="other" + row.key) for row in sample_rows(cache, shard)]
    cache.put_images(1, rows, [None if row.quarantine else b"pixels" for row in rows])
    wanted = {layout.commit_path(column, 1) for column in cache.teacher_columns().values()}
    assert wanted <= named(verify(cache))
    with pytest.raises(CorruptObject, match="other samples"):
        Cache.open(str(copy)).read_records(cache.teacher_columns()["alpha"], 1, [0])


def test_columns_made_from_other_pixels_are_named_and_refused(copy: Path) -> None:
    """The images of a shard written again, by hand, with other pixels under the same keys."""
    cache = Cache.open(str(copy))
    columns = cache.teacher_columns().values()
    discard(cache.store, Column.images(), 1)
    cache = Cache.open(str(copy))
    rows = sample_rows(cache, cache.shard(1))
    cache.put_images(1, rows, [None if row.quarantine else b"other pixels" for row in rows])
    for depth in ("commits", "checksums"):
        problems = verify(cache, depth).problems
        assert {p.path for p in problems} == {layout.commit_path(column, 1) for column in columns}
        assert all(p.kind == "damaged" and "other pixels" in p.what for p in problems)
    for column in columns:
        with pytest.raises(CorruptObject, match=r"000001\.json.*other pixels than the images of shard 1"):
            cache.read_records(column, 1, [0])
        cache.read_records(column, 0, [0])
    discard_damage(cache, problems)
    assert cache.missing(Column.images()) == [] and all(cache.missing(column) == [1] for column in columns)
    for column in columns:
        put_features(cache, column, 1)
    assert verify(cache).ok


def test_images_take_the_features_made_from_them_along(copy: Path) -> None:
    cache = Cache.open(str(copy))
    columns = [Column.images(), *cache.teacher_columns().values()]
    (copy / layout.teacher_path(columns[1])).unlink()
    cache.discard(Column.images(), 1)
    assert all(cache.missing(column) == [1] for column in columns)
    assert not any("000001" in path or "/c/1/" in path for path in cache.store.list())


def test_discard_and_extract_again_mends(copy: Path) -> None:
    cache = Cache.open(str(copy))
    column = cache.teacher_columns()["alpha"]
    name = cache.committed(column)[4].records.name
    (copy / name).write_bytes(b"damage")
    assert named(verify(cache)) == {name}
    cache.discard(column, 4)
    assert cache.missing(column) == [4]
    put_features(cache, column, 4)
    assert verify(cache).ok
    assert (copy / name).read_bytes() != b"damage"


def test_progress_counts_commits(whole: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(str(whole), "commits", lambda done, total: seen.append((done, total)))
    assert seen == [(done, 18) for done in range(1, 19)]


def test_what_is_no_cache_is_one_problem(tmp_path: Path) -> None:
    report = verify(str(tmp_path / "nothing"))
    assert [problem.path for problem in report.problems] == ["cache.json"]
    assert "no cache" in report.problems[0].what


def test_a_column_half_done_lists_its_missing_shards(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path / "c"), views=1)
    column = register(cache, "alpha", CodecConfig(name="int8"))
    put_features(cache, column, 1)
    missing = {problem.shard for problem in verify(cache).problems if problem.column == column}
    assert missing == {0, 2} == set(cache.missing(column))


def test_reading_a_cache_never_imports_torch() -> None:
    code = "import sys, storage.cache, storage.verify, storage.inspect; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
