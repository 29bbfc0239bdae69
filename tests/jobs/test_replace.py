"""A teacher's column is replaced by extraction: beside the old one first, instead of it once it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from jobs.cache_columns import columns_for
from jobs.config import Recipe
from pipeline.worker import ExtractionWorker
from storage.cache import Cache
from storage.errors import AmbiguousColumn
from storage.verify import verify
from tests.jobs.conftest import small_recipe
from tests.jobs.here import extract_here


def recipe(photos: Path, name: str, **committee: Any) -> Recipe:
    """One view; two teachers in a codec."""
    plain = small_recipe(photos).model_dump()
    plain["views"] |= {"count": 1}
    plain["committee"] |= {"teachers": ("mini_clip", "mini_dinov2"), **committee}
    plain["cache"]["codec"] = {"name": name, "calibration_images": 4}
    return Recipe.model_validate(plain)


class Killed(Exception):
    """Stands for a kill."""


class Dying(ExtractionWorker):
    """Dies at its second shard."""

    def run(self, shard: int, *arguments: Any) -> Any:
        """As a worker."""
        if shard == 1:
            raise Killed
        return super().run(shard, *arguments)


def test_half_replaced_is_refused_and_the_same_command_finishes(photos: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "c")
    old = extract_here(recipe(photos, "f16"), url).teacher_columns()
    images = {path: data for path, data in contents(url).items() if "features" not in path}
    asked = recipe(photos, "int8")
    sourceless = asked.model_copy(update={"source": asked.source.model_copy(update={"path": ""})})
    with pytest.raises(Killed):
        extract_here(sourceless, url, replace=True, worker=Dying)
    cache = Cache.open(url)
    for codec in ("f16", "int8"):
        with pytest.raises(AmbiguousColumn) as caught:
            columns_for(recipe(photos, codec), cache)
        said = str(caught.value)
        new = next(c for c in cache.columns() if c.teacher == "mini_clip" and c not in old.values())
        assert str(new) in said and str(old["mini_clip"]) in said and "extract ... --replace" in said
    assert main(["verify", url]) == 1, "its new columns are not complete"
    with pytest.raises(AmbiguousColumn, match="is about to replace"):
        extract_here(sourceless, url)
    assert len(Cache.open(url).columns()) == 5, "complete, and still nothing was dropped"
    cache = extract_here(sourceless, url, replace=True)
    assert json.loads(cache.store.read(cache.store.list("logs/")[-1]))["shards_done"] == 0
    now = columns_for(asked, cache)
    assert not set(now.values()) & set(old.values()) and cache.teacher_columns() == now
    report = verify(url)
    assert report.ok and not report.notes
    assert {path: data for path, data in contents(url).items() if "features" not in path} == images


def test_other_settings_replace_too_and_only_that_teacher(photos: Path, tmp_path: Path) -> None:
    url = str(tmp_path / "c")
    old = extract_here(recipe(photos, "f16"), url).teacher_columns()
    asked = recipe(photos, "f16", teachers=("mini_clip",), normalisation="pretrained")
    cache = extract_here(asked, url, replace=True)
    assert cache.teacher_columns()["mini_dinov2"] == old["mini_dinov2"]
    assert columns_for(asked, cache)["mini_clip"] != old["mini_clip"]
    assert verify(cache).ok


def contents(url: str) -> dict[str, bytes]:
    """Every file but the logs."""
    store = Cache.open(url).store
    return {path: store.read(path) for path in store.list() if not path.startswith("logs/")}
