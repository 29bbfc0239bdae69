"""Which column a recipe means, and how one is dropped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from jobs.__main__ import main
from jobs.cache_columns import column_for, columns_for
from jobs.config import Recipe
from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import settings_of
from pipeline.teachers.spec import spec_of
from pipeline.teachers.weights import known_digest
from storage import layout
from storage.cache import Cache
from storage.codecs import make_calibrator
from storage.config import CacheConfig, CodecConfig, ViewConfig
from storage.errors import AmbiguousColumn, StaleColumn
from storage.layout import Column
from storage.manifest import Invariants
from storage.replacing import begin_replacing
from storage.verify import verify
from tests.storage.sample_cache import make_cache, put_features, register

TEACHER = "mini_clip"
COMMITTEE = CommitteeConfig(teachers=(TEACHER,), weights="random:0", precision="fp32")
VIEWS = ViewConfig(size=32)
SHAPES = ((4, 2, 2),) * 4


def recipe(**codec: object) -> Recipe:
    """A recipe with one teacher."""
    return Recipe(committee=COMMITTEE, views=VIEWS, cache=CacheConfig(codec=CodecConfig(**codec)))


def add(cache: Cache, grid: int = 2, recoded: str = "", **codec: object) -> Column:
    """An empty column of the recipe's teacher."""
    digest = known_digest(spec_of(TEACHER), COMMITTEE.weights)
    identity = settings_of(TEACHER, COMMITTEE) | {"weights_sha256": digest}
    if recoded:
        identity["recoded_from"] = {"fingerprint": recoded}
    shapes, config = ((4, grid, grid),) * 4, CodecConfig(**codec)
    calibrator = make_calibrator(config, shapes)
    calibrator.update([torch.randn(8, *shape, generator=torch.manual_seed(0)) for shape in shapes])
    return cache.register(TEACHER, identity, config, shapes, calibrator.finish, {})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.create(str(tmp_path / "c"), Invariants.of(VIEWS, CacheConfig()))


def test_the_only_column_is_meant_whatever_its_codec(cache: Cache) -> None:
    only = add(cache, name="int8")
    assert columns_for(recipe(name="f16"), cache) == {TEACHER: only}


def test_the_recipes_own_codec_wins_then_its_name(cache: Cache) -> None:
    plain, coarse, fine = add(cache), add(cache, name="int8"), add(cache, name="int8", lossless="zstd")
    assert column_for(TEACHER, recipe(), cache) == plain
    assert column_for(TEACHER, recipe(name="int8"), cache) == coarse
    assert column_for(TEACHER, recipe(name="int8", lossless="zstd"), cache) == fine
    assert column_for(TEACHER, recipe(name="f16", level=3), cache) == plain
    with pytest.raises(AmbiguousColumn) as caught:
        column_for(TEACHER, recipe(name="int8", lossless="zstd", level=9), cache)
    said = str(caught.value)
    for column, stage in ((plain, "none"), (coarse, "none"), (fine, "zstd")):
        assert f"{column.fingerprint} (" in said and f"lossless {stage}" in said
    assert "calibration_images" not in said, "what they have in common"


def test_grids_and_recoding_tell_columns_apart(cache: Cache) -> None:
    first, second = add(cache), add(cache, recoded="0123abcd")
    with pytest.raises(AmbiguousColumn, match="recoded from 0123abcd"):
        column_for(TEACHER, recipe(), cache)
    third = add(cache, grid=1)
    with pytest.raises(AmbiguousColumn, match="shapes") as caught:
        column_for(TEACHER, recipe(), cache)
    assert all(str(column.fingerprint) in str(caught.value) for column in (first, second, third))


def test_a_half_replaced_column_is_refused_with_both_fingerprints(cache: Cache) -> None:
    old, new = add(cache), add(cache, name="int8")
    begin_replacing(cache, new)
    for codec in ("f16", "int8"):
        with pytest.raises(AmbiguousColumn, match=rf"{new}.*{old}.*extract \.\.\. --replace"):
            columns_for(recipe(name=codec), cache)


def test_a_column_of_another_cache_is_refused_with_both_fingerprints(cache: Cache, tmp_path: Path) -> None:
    views = VIEWS.model_copy(update={"seed": 7})
    other = Cache.create(str(tmp_path / "other"), Invariants.of(views, CacheConfig()))
    stray = add(other)
    for path in other.store.list(stray.path + "/"):
        cache.store.put_new(path, other.store.read(path))
    with pytest.raises(StaleColumn, match="extract it again here") as caught:
        columns_for(recipe(), Cache.open(cache.url))
    assert caught.value.found == stray.fingerprint != caught.value.wanted == add(cache).fingerprint


@pytest.fixture
def filled(tmp_path: Path) -> Cache:
    """A complete cache in which alpha is there twice."""
    cache = make_cache(str(tmp_path / "c"))
    column = register(cache, "alpha", CodecConfig(name="int8"))
    for shard in cache.shards():
        put_features(cache, column, shard.index)
    return cache


def test_a_column_is_dropped_and_nothing_else(filled: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    store, before = filled.store, set(filled.store.list())
    beta = filled.store.folders("features/beta")[0]
    assert main(["drop", filled.url, "beta", "--yes"]) == 0
    said = capsys.readouterr().err
    assert f"features/beta/{beta} of {filled.url}: 6 of 6 shards, " in said and "dropped" in said
    assert before - set(store.list()) == {path for path in before if f"beta/{beta}" in path}
    assert verify(filled.url).ok


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images", "cannot be dropped"),
        ("alpha", "alpha 2 times; say alpha/"),
        ("gamma", "has no column gamma"),
        ("alpha/00000000", "has no column alpha/00000000"),
        ("bet", "it has alpha/"),
        ("beta", "say --yes"),
    ],
)
def test_what_is_unclear_is_never_dropped(
    filled: Cache, name: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = filled.store.list()
    more = [] if name == "beta" else ["--yes"]
    assert main(["drop", filled.url, name, *more]) == 2
    assert said in capsys.readouterr().err and filled.store.list() == before


def test_one_of_two_columns_goes_by_its_fingerprint(filled: Cache) -> None:
    keep, gone = (c for c in filled.every_feature_column() if c.teacher == "alpha")
    # without its description it is still there to be dropped
    filled.store.delete(layout.teacher_path(gone))
    assert main(["drop", filled.url, f"alpha/{gone.fingerprint}", "--yes"]) == 0
    assert Cache.open(filled.url).teacher_columns()["alpha"] == keep
