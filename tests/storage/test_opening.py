"""Opening a large finished cache: what it asks of the store, and what it takes at ImageNet's size."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.benches.synthetic_index import GRIDS, Opening, Size, measure_opening, open_all, write_index
from storage import layout
from storage.cache import Cache
from storage.commit_log import Commits, compact
from storage.layout import Column
from storage.local import LocalStore
from tests.storage.s3_server import s3_bucket

SMALL = Size(samples=300, samples_per_shard=24)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen shards of three teachers, compacted; to be left as they are."""
    folder = tmp_path_factory.mktemp("index") / "c"
    write_index(str(folder), SMALL)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is read or listed from now on."""
    counted: Counter[str] = Counter()
    for name in ("read", "list"):
        plain = getattr(LocalStore, name)

        def noted(store: LocalStore, path: str = "", plain=plain) -> object:
            counted[path] += 1
            return plain(store, path)

        monkeypatch.setattr(LocalStore, name, noted)
    return counted


def test_a_compacted_cache_is_opened_without_its_documents(written: Path, calls: Counter[str]) -> None:
    open_all(str(written))
    below = [path for path in calls if path.startswith("commits/")]
    assert all("/compact/" in path for path in below), "no shard's own document, no listing of them"
    compactions = [path for path in calls if layout.is_compaction(path)]
    assert len(compactions) == 1 + len(GRIDS) and all(calls[path] == 1 for path in compactions)
    assert sum(calls.values()) < 40


def test_no_commit_is_parsed_before_it_is_asked_for(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    plain = Commits.__getitem__
    monkeypatch.setattr(
        Commits, "__getitem__", lambda self, shard: parsed.append(shard) or plain(self, shard)
    )
    open_all(str(written))
    assert Cache.open(str(written)).missing(Column.images()) == [] and parsed == []
    cache = Cache.open(str(written))
    assert [cache.commit_of(Column.images(), 3).shard for _ in range(2)] == [3, 3] and parsed == [3]


def test_what_a_compaction_lacks_is_read_from_documents(
    written: Path, tmp_path: Path, calls: Counter
) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "c"))
    cache = Cache.open(str(folder))
    whole = cache.committed(Column.images())
    partial = {shard: whole[shard] for shard in whole if shard != 5}
    for path in (folder / layout.compaction_folder(Column.images())).iterdir():
        path.unlink()
    compact(LocalStore(folder), Column.images(), partial)
    calls.clear()
    again = Cache.open(str(folder)).committed(Column.images())
    assert again == whole
    assert [path for path in calls if path.endswith(".json") and "commits/" in path] == [
        layout.commit_path(Column.images(), 5)
    ]


def test_a_cache_without_compactions_opens_to_the_same(written: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written, tmp_path / "c"))
    whole = Cache.open(str(written))
    columns = [Column.images(), *whole.teacher_columns().values()]
    for column in columns:
        shutil.rmtree(folder / layout.compaction_folder(column))
    bare = Cache.open(str(folder))
    for column in columns:
        assert bare.committed(column) == whole.committed(column)
        assert bare.missing(column) == []


def test_opening_is_measured_in_a_fresh_process(written: Path) -> None:
    opening = measure_opening(str(written))
    assert 0 < opening.seconds < 60 and 0 < opening.bytes < 300e6


@pytest.fixture
def bucket() -> Iterator[str]:
    """URL of an empty bucket behind S3's protocol."""
    with s3_bucket("bucket"):
        yield "s3://bucket"


def best_of(url: str, runs: int) -> Opening:
    """The least disturbed run: the machine has other work."""
    return min(measure_opening(url) for _ in range(runs))


@pytest.mark.slow
def test_imagenets_index_opens_in_a_second(tmp_path: Path) -> None:
    write_index(str(tmp_path / "c"), Size())
    opening = best_of(str(tmp_path / "c"), 3)
    assert len(Cache.open(str(tmp_path / "c")).shards()) == 5005
    assert opening.seconds <= 1 and opening.bytes <= 300e6, opening


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_imagenets_index_opens_in_three_seconds_over_s3(bucket: str) -> None:
    write_index(f"{bucket}/c", Size())
    opening = best_of(f"{bucket}/c", 3)
    assert opening.seconds <= 3 and opening.bytes <= 300e6, opening
