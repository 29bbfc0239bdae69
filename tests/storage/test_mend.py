"""What verification names can be taken out, and no more than that is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import layout
from storage.cache import Cache
from storage.layout import Column
from storage.mend import discard_damage
from storage.verify import verify
from tests.storage.sample_cache import make_cache


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_a_damaged_shard_is_the_only_thing_discarded(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container)
    columns = [Column.images(), *cache.teacher_columns().values()]
    victim = columns[1]
    before = {column: set(cache.committed(column)) for column in columns}
    flip(tmp_path / cache.committed(victim)[2].records.name)
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    after = Cache.open(str(tmp_path))
    assert after.missing(victim) == [2]
    assert all(set(after.committed(c)) == before[c] for c in columns if c != victim)
    assert {(p.column, p.shard) for p in verify(str(tmp_path)).problems} == {(victim, 2)}, "only missing now"


def test_a_damaged_compaction_costs_nothing(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path))
    column = Column.images()
    cache.compact(column)
    (path,) = (tmp_path / layout.commit_folder(column)).glob("compact-*.parquet")
    flip(path)
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    assert not path.exists()
    assert verify(str(tmp_path)).ok


def test_a_codec_without_its_tensors_costs_its_column(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path))
    columns = cache.teacher_columns()
    flip(tmp_path / layout.codec_path(columns["beta"]))
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    assert set(Cache.open(str(tmp_path)).teacher_columns()) == {"alpha"}
    assert verify(str(tmp_path)).ok
