"""Repair makes exactly what is damaged or missing again, to the byte, and says what it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.config import Recipe
from jobs.errors import IncompleteError
from jobs.repair import RepairOptions, repair
from pipeline.worker import ExtractionWorker
from storage import layout
from storage.cache import Cache
from storage.errors import CacheError, MissingData
from storage.layout import Column
from storage.verify import verify
from tests.jobs.conftest import small_recipe
from tests.jobs.here import HereEngine, extract_here, job_of


def recipe(photos: Path | str, **views: int) -> Recipe:
    """Two views, two teachers."""
    plain = small_recipe(Path("/nowhere")).model_dump()
    plain["source"]["path"] = str(photos)
    plain["views"] |= views
    plain["committee"] |= {"teachers": ("mini_clip", "mini_dinov2")}
    return Recipe.model_validate(plain)


def run(asked: Recipe, url: Path | str, *, dry_run: bool = False) -> int:
    """The command's work in this process."""

    @contextmanager
    def workers(limited: Recipe) -> Iterator[HereEngine]:
        yield HereEngine(ExtractionWorker(job_of(limited, str(url))))

    return repair(asked, RepairOptions(cache=str(url), dry_run=dry_run), workers)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the logs."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    extract_here(recipe(photos), str(folder))
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


def teacher(folder: Path, name: str) -> Column:
    return Cache.open(str(folder)).teacher_columns()[name]


def damage_record(folder: Path) -> None:
    cache = Cache.open(str(folder))
    flip(folder / cache.committed(teacher(folder, "mini_clip"))[1].records.name)


def lose_object(folder: Path) -> None:
    cache = Cache.open(str(folder))
    (folder / cache.committed(teacher(folder, "mini_dinov2"))[3].records.name).unlink()


def damage_commit(folder: Path) -> None:
    flip(folder / layout.commit_path(teacher(folder, "mini_clip"), 2))


def never_extracted(folder: Path) -> None:
    Cache.open(str(folder)).discard(teacher(folder, "mini_clip"), 0)


def damage_compaction(folder: Path) -> None:
    for column in (Column.images(), teacher(folder, "mini_clip")):
        (path,) = (folder / layout.compaction_folder(column)).iterdir()
        flip(path)


def damage_codec(folder: Path) -> None:
    flip(folder / layout.codec_path(teacher(folder, "mini_clip")))


def damage_teacher(folder: Path) -> None:
    flip(folder / layout.teacher_path(teacher(folder, "mini_dinov2")))


def lose_codec(folder: Path) -> None:
    (folder / layout.codec_path(teacher(folder, "mini_dinov2"))).unlink()


def damage_codec_and_record(folder: Path) -> None:
    damage_record(folder)
    damage_codec(folder)


def damage_codec_and_teacher(folder: Path) -> None:
    column = teacher(folder, "mini_clip")
    flip(folder / layout.codec_path(column))
    flip(folder / layout.teacher_path(column))


FEATURES: list[tuple[Callable[[Path], None], int]] = [
    (damage_record, 1),
    (lose_object, 1),
    (damage_commit, 1),
    (never_extracted, 1),
    (damage_compaction, 0),
    (damage_codec, 0),
    (damage_teacher, 0),
    (lose_codec, 0),
    (damage_codec_and_record, 1),
    (damage_codec_and_teacher, 6),
]


@pytest.mark.parametrize(("damage", "shards"), FEATURES, ids=lambda value: getattr(value, "__name__", ""))
def test_features_are_made_again_without_the_source(
    copy: Path, whole: Path, damage: Callable[[Path], None], shards: int
) -> None:
    damage(copy)
    assert run(recipe(""), copy) == 0
    assert contents(copy) == contents(whole) and verify(str(copy)).ok
    logs = sorted((copy / "logs").glob("repair-*"))
    assert len(logs) == (1 if shards else 0)
    if shards:
        assert json.loads(logs[0].read_text())["shards_done"] == shards
    assert run(recipe(""), copy) == 0, "sound: nothing to do"


@pytest.mark.parametrize("damage", [damage_record, lose_object, damage_codec])
def test_zarr_is_repaired_as_well(photos: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    plain = recipe(photos).model_dump()
    asked = Recipe.model_validate(plain | {"cache": plain["cache"] | {"container": "zarr"}})
    url = tmp_path / "c"
    extract_here(asked, str(url))
    before = contents(url)
    damage(url)
    flip(url / layout.zarr_path(teacher(url, "mini_dinov2")))
    assert run(asked, url) == 0
    assert contents(url) == before


def test_images_need_their_source_and_nothing_is_taken_out_without_it(
    copy: Path, whole: Path, photos: Path, tmp_path: Path
) -> None:
    cache = Cache.open(str(copy))
    flip(copy / cache.committed(Column.images())[4].records.name)
    damage_record(copy)
    before = contents(copy)
    (tmp_path / "other").mkdir()
    shutil.copy(next(photos.glob("class1/*.png")), tmp_path / "other")
    for source in ("", str(tmp_path / "other")):
        with pytest.raises(
            CacheError, match=r"shard 000004.*with 11 keys.*--source\.path.*nothing was taken"
        ):
            run(recipe(source), copy)
        assert contents(copy) == before
    assert run(recipe(photos), copy) == 0
    assert contents(copy) == contents(whole)


def test_a_dry_run_tells_and_writes_nothing(
    copy: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cache = Cache.open(str(copy))
    flip(copy / cache.committed(Column.images())[0].records.name)
    damage_codec(copy)
    before = contents(copy)
    assert run(recipe(photos), copy, dry_run=True) == 1
    assert contents(copy) == before and not list(copy.glob("logs/repair-*"))
    said = caplog.text
    assert f"to be calibrated again {teacher(copy, 'mini_clip')}" in said
    assert "to be discarded shard 000000 of images and of every column" in said
    assert "would make 1 shards of images" in said
    assert f"would make 1 shards of {teacher(copy, 'mini_clip')}" in said
    assert f"would make 1 shards of {teacher(copy, 'mini_dinov2')}" in said
    flip(copy / "cache.json")
    assert run(recipe(photos), copy, dry_run=True) == 1
    assert "to be written cache.json again" in caplog.text


@pytest.mark.parametrize("how", ["damaged", "gone"])
@pytest.mark.parametrize("path", ["cache.json", "segments/0001.json"])
def test_the_caches_own_documents_are_written_again(
    copy: Path, whole: Path, photos: Path, path: str, how: str
) -> None:
    damage_record(copy)
    if how == "gone":
        (copy / path).unlink()
    else:
        flip(copy / path)
    assert run(recipe(photos), copy) == 0
    assert contents(copy) == contents(whole)


def test_documents_are_never_guessed(copy: Path, photos: Path, tmp_path: Path) -> None:
    flip(copy / "cache.json")
    with pytest.raises(CacheError, match=r"would have fingerprint [0-9a-f]{8}.*made with others"):
        run(recipe(photos, size=80), copy)
    assert run(recipe(photos), copy) == 0
    flip(copy / "segments/0001.json")
    before = contents(copy)
    with pytest.raises(CacheError, match=r"segments/0001\.json is damaged or lost.*--source\.path"):
        run(recipe(""), copy)
    (tmp_path / "other").mkdir()
    shutil.copy(next(photos.glob("class1/*.png")), tmp_path / "other")
    for wrong in (recipe(tmp_path / "other"), recipe(photos, count=1)):
        with pytest.raises(CacheError, match="does not hold the images that shards from 000000 on"):
            run(wrong, copy)
    assert contents(copy) == before
    for name in ("features", "commits/features"):
        shutil.rmtree(copy / name)
    flip(copy / "cache.json")
    with pytest.raises(CacheError, match="no teacher's column is there to confirm"):
        run(recipe(photos), copy)
    with pytest.raises(MissingData, match=r"neither cache\.json nor commits"):
        run(recipe(photos), tmp_path / "nothing")


@pytest.mark.parametrize("lost", [1, 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_any_segment_of_a_cache_that_grew_is_written_again(photos: Path, tmp_path: Path, lost: int) -> None:
    """Two sources, one view each, then one more view of both."""
    more = tmp_path / "more"
    more.mkdir()
    for photo in sorted(photos.glob("class0/*.png"))[:3]:
        shutil.copy(photo, more / photo.name)
    url = tmp_path / "c"
    extract_here(recipe(photos, count=1), str(url))
    extract_here(recipe(more, count=1), str(url), append=True)
    with pytest.raises(IncompleteError, match=r"with 3 keys has 1 of 2 views; run again with it"):
        extract_here(recipe(photos, count=2), str(url))
    extract_here(recipe(more, count=2), str(url))
    before = contents(url)
    path = url / layout.segment_path(lost)
    mine = photos if lost in (1, 3) else more
    for hurt in (flip, Path.unlink):
        hurt(path)
        with pytest.raises(CacheError, match=rf"segments/000{lost}\.json is damaged or lost"):
            run(recipe(more if mine == photos else photos), url)
        assert run(recipe(mine), url) == 0
        assert contents(url) == before
    for number in (1, 2):
        flip(url / layout.segment_path(number))
    with pytest.raises(CacheError, match="and 1 more are damaged or lost"):
        run(recipe(photos), url)


def test_what_the_recipe_does_not_make_is_said(copy: Path, whole: Path) -> None:
    damage_record(copy)
    lose_object(copy)
    plain = recipe("").model_dump()
    other = Recipe.model_validate(plain | {"committee": plain["committee"] | {"teachers": ("mini_dinov2",)}})
    with pytest.raises(IncompleteError, match=r"mini_clip/.* lacks 1 shards: the recipe does not name its"):
        run(other, copy)
    assert {p.column.teacher for p in verify(str(copy)).problems} == {"mini_clip"}, "the other one is whole"
    codec = {"name": "int8", "calibration_images": 6}
    with pytest.raises(IncompleteError, match=r"codec\.name f16, the recipe asks int8"):
        run(Recipe.model_validate(plain | {"cache": plain["cache"] | {"codec": codec}}), copy)
    assert run(recipe(""), copy) == 0 and contents(copy) == contents(whole)


def test_a_codec_that_the_recipe_does_not_make_is_left(copy: Path, whole: Path) -> None:
    damage_codec(copy)
    before, plain = contents(copy), recipe("").model_dump()
    codec = {"name": "int8", "calibration_images": 6}
    other = Recipe.model_validate(plain | {"cache": plain["cache"] | {"codec": codec}})
    with pytest.raises(IncompleteError, match="cannot be decoded, and the recipe makes another one"):
        run(other, copy)
    fewer = plain["committee"] | {"teachers": ("mini_dinov2",)}
    with pytest.raises(IncompleteError, match="cannot be decoded, and the recipe does not name its teacher"):
        run(Recipe.model_validate(plain | {"committee": fewer}), copy)
    assert contents(copy) == before
    assert run(recipe(""), copy) == 0 and contents(copy) == contents(whole)


def test_images_alone_are_made_again(copy: Path, photos: Path) -> None:
    cache = Cache.open(str(copy))
    for column in cache.teacher_columns().values():
        cache.drop(column)
    whole = contents(copy)
    flip(copy / cache.committed(Column.images())[2].records.name)
    assert run(recipe(photos), copy) == 0
    assert contents(copy) == whole


def test_what_cannot_be_read_is_left_alone(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.local import LocalStore

    damage_record(copy)
    before, size = contents(copy), LocalStore.size

    def failing(self: LocalStore, path: str) -> int:
        if path.startswith("images/000001"):
            raise PermissionError(13, "Permission denied", path)
        return size(self, path)

    monkeypatch.setattr(LocalStore, "size", failing)
    with pytest.raises(IncompleteError, match="nothing was taken out: some objects could not be read"):
        run(recipe(""), copy)
    assert contents(copy) == before
