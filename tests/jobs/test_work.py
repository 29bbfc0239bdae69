"""Which photos an extraction finds for which shards: sources, appended ones, grown folders, views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.config import Recipe
from jobs.extract import ExtractOptions, dry_run
from jobs.work import Work, open_work, planned
from storage.cache import Cache
from storage.errors import CacheError
from storage.identity import sample_key
from storage.layout import Column
from storage.manifest import SampleRow
from storage.stream import make_order


def add_photos(folder: Path, names: str) -> Path:
    """One small photo for each letter, other pixels (and so another size) for each."""
    folder.mkdir(exist_ok=True)
    for name in names:
        rgb = np.random.default_rng(ord(name)).integers(0, 255, (8 + ord(name) % 5, 9, 3), np.uint8)
        Image.fromarray(rgb).save(folder / f"{name}.png")
    return folder


def recipe(source: Path | str, views: int = 2, per_shard: int = 2) -> Recipe:
    """A recipe over one folder."""
    return Recipe.model_validate(
        {
            "source": {"path": str(source)},
            "views": {"count": views, "size": 32},
            "cache": {"samples_per_shard": per_shard},
        }
    )


def fill(work: Work, shards: set[int] | None = None) -> None:
    """Commit images of every shard whose photos are named; their pixels do not matter here."""
    cache = work.cache
    for index in work.possible(cache.missing(Column.images())):
        if shards is not None and index not in shards:
            continue
        keys = work.entries(index)["key"].to_pylist()
        view = cache.shard(index).view
        rows = [
            SampleRow(row, sample_key(key, view), key, 0, 0, 8, 8, False, 9, 9)
            for row, key in enumerate(keys)
        ]
        cache.put_images(index, rows, [key.encode() for key in keys])


def extract(source: Path | str, cache: Path, *, views: int = 2, append: bool = False) -> Work:
    """Open the work and commit all images."""
    work = open_work(recipe(source, views), str(cache), append=append)
    fill(work)
    return work


def held(cache: Path) -> dict[int, list[str]]:
    """View -> its keys, in no order."""
    opened = Cache.open(str(cache))
    found: dict[int, list[str]] = {}
    for shard in opened.shards():
        found.setdefault(shard.view, []).extend(opened.samples(shard.index)["key"].to_pylist())
    return {view: sorted(key[0] for key in keys) for view, keys in found.items()}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a cache."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def segments(cache: Path) -> list[tuple[int, int, int]]:
    """(keys, first view, views) of every segment."""
    return [(s.keys, s.first_view, s.views) for s in Cache.open(str(cache)).segments]


def test_another_folder_is_appended_and_nothing_there_is_rewritten(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcde"), add_photos(tmp_path / "b", "xyz")
    extract(first, tmp_path / "c")
    before = contents(tmp_path / "c")
    extract(more, tmp_path / "c", append=True)
    after = contents(tmp_path / "c")
    assert {path: after[path] for path in before} == before
    assert segments(tmp_path / "c") == [(5, 0, 2), (3, 0, 2)]
    assert held(tmp_path / "c") == {0: list("abcdexyz"), 1: list("abcdexyz")}
    again = extract(more, tmp_path / "c", append=True)
    assert contents(tmp_path / "c") == after and not again.cache.missing(Column.images())
    # the first source is still known, with and without --append
    for append in (False, True):
        assert len(open_work(recipe(first), str(tmp_path / "c"), append=append).cache.segments) == 2


def test_an_interrupted_append_is_taken_up_by_the_same_command(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcde"), add_photos(tmp_path / "b", "vwxyz")
    extract(first, tmp_path / "c")
    work = open_work(recipe(more), str(tmp_path / "c"), append=True)
    some = {work.cache.missing(Column.images())[1]}
    fill(work, some)
    for append in (True, False):
        again = open_work(recipe(more), str(tmp_path / "c"), append=append)
        assert again.cache.segments == work.cache.segments
    fill(again)
    assert held(tmp_path / "c")[1] == list("abcdevwxyz")


def test_what_a_folder_has_gained_is_appended(tmp_path: Path) -> None:
    folder, cache = add_photos(tmp_path / "a", "abc"), tmp_path / "c"
    extract(folder, cache)
    for new in ("de", "fgh"):
        add_photos(folder, new)
        with pytest.raises(
            CacheError, match=r"source [0-9a-f]{64} with 3 keys.* is [0-9a-f]{64} with.*--append"
        ):
            open_work(recipe(folder), str(cache))
        extract(folder, cache, append=True)
        extract(folder, cache, append=True)
    assert segments(cache) == [(3, 0, 2), (2, 0, 2), (3, 0, 2)]
    assert held(cache) == {0: list("abcdefgh"), 1: list("abcdefgh")}
    # the grown folder holds all three sources: more views of all of them
    work = extract(folder, cache, views=3)
    assert segments(cache)[3:] == [(3, 2, 1), (2, 2, 1), (3, 2, 1)]
    assert held(cache)[2] == list("abcdefgh") and not work.waiting(3)
    sizes = [[shard.rows for shard in work.cache.shards(view)] for view in range(3)]
    assert sizes[0] == sizes[1] == sizes[2], "what make_order asks of views"


def test_photos_that_are_there_are_left_out(tmp_path: Path) -> None:
    extract(add_photos(tmp_path / "a", "abcd"), tmp_path / "c")
    extract(add_photos(tmp_path / "b", "cdxy"), tmp_path / "c", append=True)
    assert held(tmp_path / "c")[0] == list("abcdxy")
    with pytest.raises(CacheError, match=r"all 2 images of the source are in the cache.*nothing to append"):
        open_work(recipe(add_photos(tmp_path / "d", "bx")), str(tmp_path / "c"), append=True)


def test_appending_needs_what_was_there_complete(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcd"), add_photos(tmp_path / "b", "xy")
    fill(open_work(recipe(first), str(tmp_path / "c")), {0})
    with pytest.raises(CacheError, match=r"complete ones only.*2 are there; extract that source first"):
        open_work(recipe(more), str(tmp_path / "c"), append=True)
    assert segments(tmp_path / "c") == [(4, 0, 2)]


def test_views_of_appended_images_are_those_of_the_others(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcd"), add_photos(tmp_path / "b", "xy")
    extract(first, tmp_path / "c")
    for views in (1, 3):
        with pytest.raises(CacheError, match=rf"has 2 views, the recipe asks {views}.*views\.count = 2"):
            open_work(recipe(more, views), str(tmp_path / "c"), append=True)
    extract(more, tmp_path / "c", append=True)
    with pytest.raises(CacheError, match=r"in turn.*has 2 views"):
        open_work(recipe(more, 3), str(tmp_path / "c"))
    work = extract(first, tmp_path / "c", views=3)
    assert work.waiting(2) == [] and "has 2 of 3 views; run again" in work.waiting(3)[0]
    assert extract(more, tmp_path / "c", views=3).waiting(3) == []


def test_batches_run_over_all_sources_of_a_cache(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcde"), add_photos(tmp_path / "b", "xyz")
    extract(first, tmp_path / "c")
    extract(more, tmp_path / "c", append=True)
    order = make_order(Cache.open(str(tmp_path / "c")), seed=0, global_batch=8, window=2)
    assert order.samples == 8 and order.views == 2
    for step in range(4):
        assert sorted(order.batch(step)[:, 0]) == list(range(8)), "every sample of both sources, once a pass"
    extract(first, tmp_path / "c", views=3)
    cache = Cache.open(str(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"view 2 has 5 samples.*the order 8"):
        make_order(cache, seed=0, global_batch=8, window=2)
    assert make_order(cache, seed=0, global_batch=8, window=2, views=2).samples == 8


def test_a_source_that_is_not_named_is_said_to_be_missing(tmp_path: Path) -> None:
    first, more = add_photos(tmp_path / "a", "abcd"), add_photos(tmp_path / "b", "xyz")
    extract(first, tmp_path / "c")
    extract(more, tmp_path / "c", append=True)
    cache = Cache.open(str(tmp_path / "c"))
    for shard in (1, 5):
        cache.discard(Column.images(), shard)
    with pytest.raises(
        CacheError, match=r"source\.path is empty: 1 shards.*with 4 keys.*1 shards.*with 3 keys"
    ):
        open_work(recipe(""), cache.url)
    work = open_work(recipe(first), cache.url)
    assert work.possible([0, 1, 4, 5]) == [0, 1, 4]
    assert len(work.entries(1)) == 2 and work.entries(4).num_rows == 0, "its images are there"
    with pytest.raises(CacheError, match=r"shard 000005 cannot be made.*with 3 keys"):
        work.entries(5)


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, more = add_photos(tmp_path / "a", "abcd"), add_photos(tmp_path / "b", "dxy")
    assert planned(recipe(first), str(tmp_path / "c"))[0] is None and not (tmp_path / "c").exists()
    extract(first, tmp_path / "c")
    before = contents(tmp_path / "c")
    cache, new, left_out = planned(recipe(more), str(tmp_path / "c"), append=True)
    assert cache and left_out == 1
    assert [(s.index, s.keys, s.first_shard, s.views) for s in new] == [(2, 2, 4, 2)]
    caplog.set_level("INFO")
    options = ExtractOptions(cache=str(tmp_path / "c"), append=True, dry_run=True)
    assert dry_run(recipe(more), options) == 0
    assert "would add segment 2" in caplog.text and "would write 4 samples in 2 shards" in caplog.text
    with pytest.raises(CacheError, match=r"--append"):
        planned(recipe(more), str(tmp_path / "c"))
    assert contents(tmp_path / "c") == before
    assert open_work(recipe(more), str(tmp_path / "c"), append=True).cache.segments[1] == new[0]
