"""Depth 3 of verification: fresh maps agree with the cache, and what is not a teacher's is found."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.__main__ import main
from jobs.config import Recipe
from jobs.verify_teachers import Ask, compare, draw
from storage import layout
from storage.cache import Cache
from storage.identity import seal, unseal
from storage.layout import Column
from storage.recoding import added
from tests.jobs.conftest import small_recipe
from tests.jobs.here import extract_here


def recipe(photos: Path, **cache: object) -> Recipe:
    """One view, two teachers."""
    plain = small_recipe(photos).model_dump()
    plain["views"] |= {"count": 1}
    plain["committee"] |= {"teachers": ("mini_clip", "mini_dinov2")}
    plain["cache"] |= cache
    return Recipe.model_validate(plain)


@pytest.fixture(scope="module")
def caches(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cache]:
    folder = tmp_path_factory.mktemp("caches")
    pooled = {"name": "int8", "calibration_images": 6, "grid": "student"}
    codecs = {"f16": {"name": "f16", "calibration_images": 6}, "pooled": pooled}
    return {
        name: extract_here(recipe(photos, codec=codec), str(folder / name)) for name, codec in codecs.items()
    }


def ask(samples: int = 5, weights: str = "random:0", tolerance: float = 1e-4) -> Ask:
    return Ask(samples, 0, weights, tolerance, "cpu")


@pytest.mark.parametrize("name", ["f16", "pooled"])
def test_a_cache_agrees_with_its_teachers(caches: dict[str, Cache], name: str) -> None:
    checks, problems = compare(caches[name], ask())
    assert problems == []
    assert {(check.column.teacher, check.level) for check in checks} == {
        (teacher, level) for teacher in ("mini_clip", "mini_dinov2") for level in range(4)
    }
    for check in checks:
        assert check.samples == 5 and check.recorded - 1e-4 < check.lowest <= check.mean <= 1
        assert check.lowest > (0.9999 if name == "f16" else 0.999)


def test_the_command_says_so(caches: dict[str, Cache], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["verify", caches["f16"].url, "--depth", "teachers", "--samples", "3", "--weights", "random:0"]
    assert main([*argv, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "level 3: 3 samples, cosine min 1.00000 mean 1.00000, recorded min" in said and "sound" in said


def test_features_of_another_image_are_found_and_kept(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte is what was written, in another order: only the teachers can tell."""
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = next(column for column in cache.columns() if column.teacher == "mini_clip")
    shard = next(s for s in cache.shards() if not cache.committed(Column.images())[s.index].quarantined)
    records = cache.read_records(column, shard.index, range(shard.rows))
    codec = cache.codec(column)
    quality = codec.encode(codec.decode([codec.unpack(record) for record in records], "cpu")).quality
    cache.discard(column, shard.index)
    cache = Cache.open(cache.url)
    cache.put_features(column, shard.index, records[::-1], quality, [None] * shard.rows)
    argv = ["verify", cache.url, "--depth", "teachers", "--samples", "100", "--weights", "random:0"]
    assert main([*argv, "--device", "cpu", "--discard"]) == 1
    said = capsys.readouterr().err
    assert f"{cache.committed(column)[shard.index].records.name}: row 0 level 0 has cosine" in said
    assert "--tolerance allows" in said and Cache.open(cache.url).missing(column) == []
    _, problems = compare(cache, ask(100))
    assert {(p.column, p.shard, p.kind) for p in problems} == {(column, shard.index, "differs")}
    assert compare(cache, ask(100, tolerance=2))[1] == []


def test_other_weights_are_one_line_with_both_digests(caches: dict[str, Cache], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"digest [0-9a-f]{8}; random:1 has [0-9a-f]{8}.*--weights"):
        compare(caches["f16"], ask(weights="random:1"))
    with pytest.raises(ValueError, match="cutler weights"):
        compare(caches["f16"], ask(weights=str(tmp_path)))


def test_settings_that_this_version_has_not_are_one_line(photos: Path, tmp_path: Path) -> None:
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = next(column for column in cache.columns() if column.teacher == "mini_clip")
    path = layout.teacher_path(column)
    doc = unseal(cache.store.read(path), path)
    doc["identity"]["blocks"] = [0, 1, 2, 2]
    found = cache.column_fingerprint(doc["identity"], recipe(photos).cache.codec, doc["shapes"])
    other = Column.features("mini_clip", found)
    cache.store.put_new(layout.teacher_path(other), seal(doc | {"fingerprint": found}))
    cache.store.put_new(layout.codec_path(other), cache.store.read(layout.codec_path(column)))
    with pytest.raises(
        ValueError, match=rf"{other} was made with blocks \[0, 1, 2, 2\].*runs mini_clip with"
    ):
        compare(Cache.open(cache.url), ask())


def test_a_damaged_cache_is_not_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = extract_here(recipe(photos), str(tmp_path / "c"))
    column = next(column for column in cache.columns() if column.teacher == "mini_clip")
    (Path(cache.url) / cache.committed(column)[0].records.name).write_bytes(b"damaged")
    assert main(["verify", cache.url, "--depth", "teachers"]) == 1
    assert "the teachers are not run" in capsys.readouterr().err


def test_the_draw_is_seeded_sound_and_spread(caches: dict[str, Cache]) -> None:
    cache = caches["f16"]
    some = draw(cache, 6, 0)
    assert some == draw(Cache.open(cache.url), 6, 0) != draw(cache, 6, 1)
    everything = draw(cache, 1000, 0)
    assert len(set(everything)) == len(everything) == 10, "the broken photo is no sample"
    assert {sample.shard for sample in everything} == {shard.index for shard in cache.shards()}


@given(st.integers(0, 10_000))
def test_angles_add_up_to_the_worst_case(seed: int) -> None:
    """Cosine of two vectors, each near a third, is never below what the angles' sum allows."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=6)
    a, b = (middle + rng.uniform(0, 2) * rng.normal(size=6) for _ in range(2))

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    assert cosine(a, b) >= added(cosine(a, middle), cosine(middle, b)) - 1e-9
    assert math.isclose(added(np.float64(0.995), 0.995), math.cos(2 * math.acos(0.995)))
