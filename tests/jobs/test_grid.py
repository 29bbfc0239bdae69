"""`grid = student`: what is stored, under which fingerprint, and that live teachers are pooled alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jobs.config import Recipe
from jobs.distill import DistillOptions, cached_targets, data_digest, live_targets
from jobs.workers import stored_grid
from pipeline.grid import pool
from storage.cache import Cache
from storage.jpeg import decode_jpeg
from tests.jobs.here import extract_here


def on_grid(recipe: Recipe, grid: str, name: str) -> Recipe:
    """One view of two teachers at 80 px (the student's grid is 5x5), codec `name`."""
    asked = recipe.model_dump()
    asked["views"] |= {"size": 80, "count": 1}
    asked["committee"]["teachers"] = ("mini_dinov2", "mini_sam")
    asked["cache"]["codec"] = {"name": name, "grid": grid, "calibration_images": 6}
    return Recipe.model_validate(asked)


@pytest.fixture(scope="module")
def pooled(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Cache]:
    from tests.jobs.conftest import small_recipe

    recipe = on_grid(small_recipe(photos), "student", "f16")
    return recipe, extract_here(recipe, str(tmp_path_factory.mktemp("pooled") / "c"))


def images_of(cache: Cache) -> torch.Tensor:
    """The sound crops of shard 0, uint8 [B, H, W, 3]."""
    rows = range(cache.shard(0).rows)
    jpegs = [jpeg for jpeg in cache.read_images(0, rows) if jpeg is not None]
    return torch.from_numpy(np.stack([decode_jpeg(jpeg) for jpeg in jpegs]))


def test_larger_maps_are_stored_on_the_students_grid(pooled: tuple[Recipe, Cache]) -> None:
    recipe, cache = pooled
    assert stored_grid(recipe) == (5, 5)
    for column in cache.teacher_columns().values():
        doc = cache.teacher_doc(column)
        assert {tuple(shape[1:]) for shape in doc["shapes"]} == {(5, 5)} and doc["codec"]["grid"] == "student"


def test_cached_and_live_targets_agree_and_are_the_pooled_maps(pooled: tuple[Recipe, Cache]) -> None:
    recipe, cache = pooled
    images, columns = images_of(cache), cache.teacher_columns()
    live, live_shapes = live_targets(recipe, "cpu")
    _, cached_shapes = cached_targets(cache, columns, "cpu")
    own = live_targets(on_grid(recipe, "teacher", "f16"), "cpu")[0](SimpleNamespace(images=images))
    assert live_shapes == cached_shapes
    found = live(SimpleNamespace(images=images))
    for name, column in columns.items():
        rows = [record for record in cache.read_records(column, 0, range(cache.shard(0).rows)) if record]
        stored = cache.codec(column).decode([cache.codec(column).unpack(row) for row in rows], "cpu")
        for level, (map_, wanted) in enumerate(zip(stored, found[name], strict=True)):
            torch.testing.assert_close(map_, wanted, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(wanted, pool(own[name][level], (5, 5)))


def test_the_grid_makes_another_column_and_another_live_run(
    pooled: tuple[Recipe, Cache], tmp_path: Path
) -> None:
    recipe, cache = pooled
    whole = on_grid(recipe, "teacher", "f16")
    identity = cache.teacher_doc(cache.teacher_columns()["mini_sam"])["identity"]
    prints = {cache.column_fingerprint(identity, r.cache.codec, [(32, 5, 5)] * 4) for r in (recipe, whole)}
    assert len(prints) == 2
    options = DistillOptions(cache=cache.url, out=tmp_path, teachers="live")
    assert data_digest(recipe, options) != data_digest(whole, options)


def test_klts_fidelity_is_that_of_the_pooled_map(photos: Path, tmp_path: Path) -> None:
    from tests.jobs.conftest import small_recipe

    recipe = on_grid(small_recipe(photos), "student", "klt")
    cache = extract_here(recipe, str(tmp_path / "c"))
    for column in cache.teacher_columns().values():
        worst = min(level.min for c in cache.committed(column).values() for level in c.fidelity)
        assert worst >= recipe.cache.codec.fidelity
