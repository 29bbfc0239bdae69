"""A column takes the place of others only when it is whole; a kill in between leaves both, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import layout
from storage.cache import Cache
from storage.config import CodecConfig
from storage.errors import AmbiguousColumn, CacheError, CorruptObject
from storage.layout import Column
from storage.replacing import begin_replacing, drop_column, finish_replacing, refuse_half_replaced
from storage.verify import verify
from tests.storage.sample_cache import make_cache, put_features, register


@pytest.fixture(params=["wds", "zarr"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return make_cache(str(tmp_path / "c"), request.param)


def add_column(cache: Cache, shards: int | None = None) -> tuple[Column, Column]:
    """alpha's column, and another of it with so many shards."""
    old = cache.teacher_columns()["alpha"]
    new = register(cache, "alpha", CodecConfig(name="int8"))
    for shard in cache.shards()[:shards]:
        put_features(cache, new, shard.index)
    return old, new


def test_old_columns_go_when_the_new_one_is_whole(cache: Cache) -> None:
    old, new = add_column(cache)
    assert begin_replacing(cache, new).old == (old,)
    assert finish_replacing(cache, new) == [old]
    assert cache.teacher_columns()["alpha"] == new
    assert not any("replacing" in path or str(old) in path for path in cache.store.list())
    assert verify(cache).ok and not verify(cache).notes
    assert begin_replacing(cache, new) is None and finish_replacing(cache, new) == []


def test_a_kill_in_between_leaves_both_and_says_so(cache: Cache) -> None:
    old, new = add_column(cache, 2)
    refuse_half_replaced(cache, "alpha")
    begin_replacing(cache, new)
    with pytest.raises(CacheError, match=rf"{new} lacks 4 shards and cannot replace {old} yet"):
        finish_replacing(cache, new)
    again = Cache.open(cache.url)
    with pytest.raises(AmbiguousColumn, match=rf"{new} is about to replace {old} and has 2 of 6.*--replace"):
        refuse_half_replaced(again, "alpha")
    refuse_half_replaced(again, "beta")
    for shard in again.missing(new):
        put_features(again, new, shard)
    with pytest.raises(AmbiguousColumn, match="has 6 of 6"):
        refuse_half_replaced(again, "alpha")
    # killed while the old column was being deleted: its commits are gone, its description is not
    for path in again.store.list(layout.commit_folder(old) + "/"):
        again.store.delete(path)
    again = Cache.open(cache.url)
    with pytest.raises(AmbiguousColumn):
        refuse_half_replaced(again, "alpha")
    assert begin_replacing(again, new) and finish_replacing(again, new) == [old]
    refuse_half_replaced(again, "alpha")
    assert verify(again).ok


@pytest.mark.parametrize("which", ["old", "new"])
def test_dropping_either_ends_a_replacement(cache: Cache, which: str) -> None:
    old, new = add_column(cache)
    begin_replacing(cache, new)
    drop_column(cache, old if which == "old" else new)
    refuse_half_replaced(cache, "alpha")
    assert not cache.store.exists(layout.replacing_path("alpha"))
    assert verify(cache).ok and not verify(cache).notes


def test_a_damaged_word_of_a_replacement_is_no_permission(cache: Cache) -> None:
    _, new = add_column(cache)
    begin_replacing(cache, new)
    path = Path(cache.url) / layout.replacing_path("alpha")
    path.write_bytes(path.read_bytes().replace(b"new", b"now"))
    with pytest.raises(CorruptObject, match=r"replacing\.json"):
        refuse_half_replaced(cache, "alpha")
    with pytest.raises(CorruptObject, match=r"replacing\.json"):
        finish_replacing(cache, new)
    assert begin_replacing(cache, new) and finish_replacing(cache, new), "said again"
