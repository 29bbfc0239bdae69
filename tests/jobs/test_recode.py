"""A cache written again: records copied where only the container differs, recoded where the codec does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from jobs.cache_columns import column_for
from jobs.config import Recipe
from jobs.extract import fill, tell_replacements
from jobs.recode import RecodeOptions, make_job, open_recoding, told
from pipeline.recode import RecodeJob, RecodeWorker
from storage import layout
from storage.cache import Cache
from storage.codecs.base import flat_cosine
from storage.errors import AmbiguousColumn, CacheError, CorruptObject, MissingData
from storage.layout import Column
from storage.recoding import added, lowest_fidelity
from storage.verify import verify
from tests.jobs.conftest import small_recipe
from tests.jobs.here import HereEngine, extract_here

F16 = {"name": "f16", "calibration_images": 6}
INT8 = {"name": "int8", "calibration_images": 6}
KLT = {"name": "klt", "calibration_images": 8, "fidelity": 0.99, "lossless": "zstd"}


def recipe(photos: Path, codec: dict[str, Any] = F16, **cache: Any) -> Recipe:
    """Two views, two teachers."""
    plain = small_recipe(photos).model_dump()
    plain["committee"] |= {"teachers": ("mini_clip", "mini_dinov2")}
    plain["cache"] |= {"codec": codec, **cache}
    return Recipe.model_validate(plain)


def recode(
    asked: Recipe,
    source: str,
    target: str,
    *,
    worker: Callable[[RecodeJob], Any] = RecodeWorker,
    replace: bool = False,
) -> tuple[Cache, list[str]]:
    """Run the command's work in this process: the target, and what was told."""
    work = open_recoding(asked, source, target)
    engine = HereEngine(worker(make_job(asked, work, device="cpu", threads=1)))
    columns = fill(engine, asked, work, replace=replace, command="recode")
    return Cache.open(target), list(told(work, columns))


def files(cache: Cache) -> dict[str, bytes]:
    """Every file but the logs."""
    return {path: cache.store.read(path) for path in cache.store.list() if not path.startswith("logs/")}


def columns_of(cache: Cache) -> dict[str, Column]:
    return cache.teacher_columns()


def decoded(cache: Cache, column: Column, shard: int) -> list[torch.Tensor]:
    """Maps of a shard; zeros where there is no record."""
    codec = cache.codec(column)
    records = cache.read_records(column, shard, range(cache.shard(shard).rows))
    return codec.decode([None if r is None else codec.unpack(r) for r in records], "cpu")


@pytest.fixture(scope="module")
def source(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """An f16 cache in tars; tests leave it as it is."""
    return extract_here(recipe(photos), str(tmp_path_factory.mktemp("source") / "c"))


@pytest.mark.parametrize("codec", [F16, pytest.param(INT8, marks=pytest.mark.slow), KLT])
def test_another_container_holds_the_same_records(photos: Path, tmp_path: Path, codec: dict) -> None:
    extract_here(recipe(photos, codec), str(tmp_path / "a"))
    there, said = recode(recipe(photos, codec, container="zarr"), str(tmp_path / "a"), str(tmp_path / "z"))
    first = Cache.open(str(tmp_path / "a"))
    assert verify(there).ok and all("byte for byte" in line for line in said)
    for name, column in columns_of(there).items():
        mine = columns_of(first)[name]
        assert column.fingerprint != mine.fingerprint, "the container is in it"
        for shard in first.shards():
            rows = range(shard.rows)
            assert there.read_records(column, shard.index, rows) == first.read_records(
                mine, shard.index, rows
            )
            one, other = (c.committed(col)[shard.index] for c, col in ((first, mine), (there, column)))
            kept = {"fidelity", "per_token", "rungs", "quarantined", "reasons", "stats", "keys", "source"}
            assert all(getattr(one, key) == getattr(other, key) for key in kept)
        tensors = (c.store.read(layout.codec_path(col)) for c, col in ((first, mine), (there, column)))
        assert len(set(tensors)) == 1
        array = zarr.open_array(str(tmp_path / "z" / column.path), mode="r")
        (record,) = first.read_records(mine, 0, [1])
        assert record is None or (array[1] == first.codec(mine).codes(record)).all()
    for folder in ("images", "samples", "commits/images", "segments"):
        mine = {path: data for path, data in files(first).items() if path.startswith(folder + "/")}
        assert mine == {path: data for path, data in files(there).items() if path.startswith(folder + "/")}
    # what an extraction into that container would have made, and the way back
    assert files(there) == files(extract_here(recipe(photos, codec, container="zarr"), str(tmp_path / "x")))
    back, _ = recode(recipe(photos, codec), there.url, str(tmp_path / "b"))
    assert files(back) == files(first)


@pytest.mark.parametrize("codec", [INT8, KLT, F16 | {"lossless": "zstd"}])
def test_another_codec_is_measured_against_what_it_was_made_of(
    photos: Path, source: Cache, tmp_path: Path, codec: dict
) -> None:
    there, said = recode(recipe(photos, codec), source.url, str(tmp_path / "c"))
    assert verify(there).ok and len(said) == 2
    for name, column in columns_of(there).items():
        mine = columns_of(source)[name]
        doc = there.teacher_doc(column)
        origin = doc["identity"]["recoded_from"]
        assert (
            origin["fingerprint"] == mine.fingerprint and origin["codec"] == source.teacher_doc(mine)["codec"]
        )
        lowest = min(lv.min for c in source.committed(mine).values() for lv in c.fidelity)
        assert origin["min_fidelity"] == lowest
        assert column_for(name, recipe(photos, codec), there) == column
        for shard in source.shards():
            before, after = decoded(source, mine, shard.index), decoded(there, column, shard.index)
            assert all(a.shape == b.shape for a, b in zip(before, after, strict=True))
            held = [r is not None for r in there.read_records(column, shard.index, range(shard.rows))]
            cosines = [flat_cosine(a.flatten(2), b.flatten(2)) for a, b in zip(before, after, strict=True)]
            assert min(c[held].min() for c in cosines) > 0.97, "raw cosines, near the z-scored ones"
            commit, old = (c.committed(col)[shard.index] for c, col in ((there, column), (source, mine)))
            assert (commit.quarantined, commit.reasons) == (old.quarantined, old.reasons)
        worst = lowest_fidelity(there, column)
        assert worst <= added(lowest, 1.0) and f"{worst:.5f} at worst" in "".join(said)
    log = json.loads(there.store.read(there.store.list("logs/")[-1]))
    assert log["command"] == "recode" and log["teacher_forwards"] == 0


def test_pooling_to_the_students_grid_is_what_extraction_pools(
    photos: Path, source: Cache, tmp_path: Path
) -> None:
    pooled = F16 | {"grid": "student"}
    there, _ = recode(recipe(photos, pooled), source.url, str(tmp_path / "c"))
    direct = extract_here(recipe(photos, pooled), str(tmp_path / "d"))
    for name, column in columns_of(there).items():
        other = columns_of(direct)[name]
        assert there.teacher_doc(column)["shapes"] == direct.teacher_doc(other)["shapes"]
        for one, two in zip(decoded(there, column, 0), decoded(direct, other, 0), strict=True):
            torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match=r"was pooled to the student's grid.*cannot be undone"):
        open_recoding(recipe(photos, INT8), there.url, str(tmp_path / "e"))
    again, said = recode(recipe(photos, pooled, container="zarr"), there.url, str(tmp_path / "z"))
    assert "byte for byte" in said[0] and verify(again).ok


def test_killed_anywhere_and_rerun_gives_the_same_bytes(photos: Path, source: Cache, tmp_path: Path) -> None:
    asked = recipe(photos, KLT)
    undisturbed = files(recode(asked, source.url, str(tmp_path / "whole"))[0])

    class Killed(Exception):
        """Stands for a kill."""

    class Dying(RecodeWorker):
        """Dies at the nth call."""

        left = 0

        def run(self, *arguments: Any) -> Any:
            """As a worker, for a while."""
            Dying.left -= 1
            if Dying.left < 0:
                raise Killed
            return super().run(*arguments)

        def calibrate(self, *arguments: Any) -> Any:
            """As a worker, for a while."""
            Dying.left -= 1
            if Dying.left < 0:
                raise Killed
            return super().calibrate(*arguments)

    for turn in range(4):
        Dying.left = turn
        with pytest.raises(Killed):
            recode(asked, source.url, str(tmp_path / "c"), worker=Dying)
    assert files(recode(asked, source.url, str(tmp_path / "c"))[0]) == undisturbed
    assert files(recode(asked, source.url, str(tmp_path / "c"))[0]) == undisturbed, "nothing is left to do"


def test_into_the_same_cache_beside_or_in_place_of_the_old(photos: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "c")
    before = files(extract_here(recipe(photos), url))
    beside, _ = recode(recipe(photos, INT8), url, url)
    after = files(beside)
    assert {path: after[path] for path in before} == before
    assert len([c for c in beside.columns() if c.teacher == "mini_clip"]) == 2
    assert recode(recipe(photos, INT8), url, url)[0] and files(Cache.open(url)) == after, (
        "resumed: nothing to do"
    )
    with pytest.raises(ValueError, match=r"container = wds, the recipe asks zarr"):
        open_recoding(recipe(photos, INT8, container="zarr"), url, url)
    replaced, _ = recode(recipe(photos, INT8), url, url, replace=True)
    assert {replaced.teacher_doc(c)["codec"]["name"] for c in columns_of(replaced).values()} == {"int8"}
    assert verify(replaced).ok and not verify(replaced).notes
    with pytest.raises(ValueError, match="has that codec and grid already"):
        open_recoding(recipe(photos, INT8), url, url)
    # recoded once more: both angles are in the bound
    twice, _ = recode(recipe(photos, INT8 | {"lossless": "zstd"}), url, str(tmp_path / "d"))
    for name, column in columns_of(twice).items():
        chain = twice.teacher_doc(column)["identity"]["recoded_from"]
        assert chain["recoded_from"]["codec"]["name"] == "f16"
        assert chain["min_fidelity"] == lowest_fidelity(replaced, columns_of(replaced)[name])


def test_a_sample_that_the_source_could_not_keep_stays_out(photos: Path, tmp_path: Path) -> None:
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = columns_of(cache)["mini_clip"]
    shard = next(s for s in cache.shards() if not cache.committed(column)[s.index].quarantined)
    records = cache.read_records(column, shard.index, range(shard.rows))
    codec = cache.codec(column)
    quality = codec.encode(codec.decode([codec.unpack(record) for record in records], "cpu")).quality
    cache.discard(column, shard.index)
    cache = Cache.open(cache.url)
    reasons = [None, "level 2 holds NaN or infinity"] + [None] * (shard.rows - 2)
    cache.put_features(column, shard.index, [records[0], None, *records[2:]], quality, reasons)
    there, _ = recode(recipe(photos, INT8), cache.url, str(tmp_path / "d"))
    commit = there.committed(columns_of(there)["mini_clip"])[shard.index]
    assert (commit.quarantined, commit.reasons) == ((1,), ("level 2 holds NaN or infinity",))
    assert verify(there).ok


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "shards": ({"cache": {"samples_per_shard": 3}}, "samples_per_shard = 4, the recipe asks 3"),
    "jpeg": ({"cache": {"jpeg": {"quality": 80}}}, r"jpeg\.quality = 95, the recipe asks 80"),
    "views": ({"views": {"size": 80}}, r"views\.size = 64, the recipe asks 80"),
    "teacher": ({"committee": {"teachers": ("mini_sam",)}}, "holds mini_clip, mini_dinov2, the recipe asks"),
    "settings": ({"committee": {"normalisation": "pretrained"}}, "mean"),
}


@pytest.mark.parametrize("which", BAD)
def test_what_cannot_be_recoded_is_one_line(photos: Path, source: Cache, tmp_path: Path, which: str) -> None:
    change, said = BAD[which]
    plain = recipe(photos, INT8).model_dump()
    for section, values in change.items():
        plain[section] |= values
    with pytest.raises(ValueError, match=said) as caught:
        open_recoding(Recipe.model_validate(plain), source.url, str(tmp_path / "c"))
    assert "\n" not in str(caught.value) and not (tmp_path / "c").exists()


def test_shards_of_one_image_calibrate_by_their_place_among_all(photos: Path, tmp_path: Path) -> None:
    extract_here(recipe(photos, samples_per_shard=1), str(tmp_path / "a"))
    there, _ = recode(recipe(photos, KLT, samples_per_shard=1), str(tmp_path / "a"), str(tmp_path / "b"))
    assert verify(there).ok
    levels = [
        lv
        for col in columns_of(there).values()
        for c in there.committed(col).values()
        for lv in c.fidelity or ()
    ]
    assert levels and min(level.min for level in levels) >= 0.99


def test_an_unfinished_or_ambiguous_source_is_refused(photos: Path, tmp_path: Path) -> None:
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = columns_of(cache)["mini_clip"]
    cache.discard(column, 2)
    with pytest.raises(MissingData, match=rf"lacks 1 shards of {column}, the first is 000002"):
        open_recoding(recipe(photos, INT8), cache.url, str(tmp_path / "d"))
    extract_here(recipe(photos), cache.url)
    extract_here(recipe(photos, F16 | {"lossless": "zstd"}), cache.url)
    with pytest.raises(AmbiguousColumn, match=r"lossless none.*lossless zstd|lossless zstd.*lossless none"):
        open_recoding(recipe(photos, INT8), cache.url, str(tmp_path / "d"))
    exact = open_recoding(recipe(photos), cache.url, str(tmp_path / "d")).sources["mini_clip"]
    assert exact == column, "one has the codec already"
    tell_replacements(cache, {"mini_clip": column})
    with pytest.raises(AmbiguousColumn, match="is about to replace"):
        open_recoding(recipe(photos), cache.url, str(tmp_path / "d"))


def test_a_lower_fidelity_of_klt_and_the_way_to_plain_numbers(photos: Path, tmp_path: Path) -> None:
    first = extract_here(recipe(photos, KLT | {"fidelity": 0.999}), str(tmp_path / "a"))
    lower, _ = recode(recipe(photos, KLT), first.url, str(tmp_path / "b"))
    plain, _ = recode(recipe(photos, F16), lower.url, str(tmp_path / "c"))
    assert verify(lower).ok and verify(plain).ok
    for name, column in columns_of(lower).items():
        sizes = [
            sum(c.stats["bytes"] for c in of.committed(columns_of(of)[name]).values())
            for of in (first, lower)
        ]
        assert sizes[1] < sizes[0]
        assert min(lv.min for c in lower.committed(column).values() for lv in c.fidelity) >= 0.99
        for one, two in zip(
            decoded(lower, column, 0), decoded(plain, columns_of(plain)[name], 0), strict=True
        ):
            torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-3)
        assert 0.98 < lowest_fidelity(plain, columns_of(plain)[name]) < 0.999


def test_a_target_of_another_cache_is_refused(photos: Path, source: Cache, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for photo in sorted(photos.glob("class1/*.png"))[:3]:
        (few / photo.name).write_bytes(photo.read_bytes())
    other = extract_here(recipe(few), str(tmp_path / "c"))
    with pytest.raises(CacheError, match=r"segment 1 of .* with 3 keys, that of .* with 11"):
        open_recoding(recipe(photos, INT8), source.url, other.url)


def test_damage_in_the_source_is_never_copied(photos: Path, tmp_path: Path) -> None:
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = columns_of(cache)["mini_clip"]
    victims = [
        cache.committed(Column.images())[0].records.name,
        cache.committed(column)[0].records.name,
        layout.codec_path(column),
    ]
    for number, name in enumerate(victims):
        path = Path(cache.url) / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptObject):
            recode(recipe(photos, container="zarr"), cache.url, str(tmp_path / f"d{number}"))
        path.write_bytes(whole)
        assert verify(recode(recipe(photos, container="zarr"), cache.url, str(tmp_path / f"d{number}"))[0]).ok


def test_options_place_their_paths(tmp_path: Path) -> None:
    from jobs.cli import parse

    asked = parse("recode", RecodeOptions, ["mini", "--cache", "a", "--out", "s3://b/c"])
    assert Path(asked.options.cache).is_absolute() and asked.options.out == "s3://b/c"
