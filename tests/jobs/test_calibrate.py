"""Calibration on a real Ray cluster: the same bytes by one worker, by three, and when one is killed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from jobs.calibrate import CalibrateOptions, dry_run, run
from jobs.calibration_table import TeacherRow, format_calibration
from jobs.config import Recipe
from jobs.errors import IncompleteError
from jobs.ray_session import cluster
from jobs.register import commit_calibration_images, register
from jobs.work import open_work
from pipeline.engine import Engine, Slots
from pipeline.worker import CalibrationPart, ExtractionJob, ExtractionWorker
from storage.cache import Cache
from storage.layout import Column, codec_path

TEACHERS = ("mini_dinov2", "mini_clip")


@pytest.fixture
def asked(mini: Recipe) -> Recipe:
    """klt on two teachers, calibrated on 9 of the 10 images in shards of 3."""
    recipe = mini.model_dump()
    recipe["committee"]["teachers"] = TEACHERS
    recipe["cache"] |= {"samples_per_shard": 3}
    recipe["cache"]["codec"] = {"name": "klt", "calibration_images": 9}
    recipe["extract"]["actors"] = 1
    return Recipe.model_validate(recipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the caches of this module are."""
    return tmp_path_factory.mktemp("calibrated")


def tensors_of(url: Path) -> dict[str, bytes]:
    """teacher -> the bytes of its codec.safetensors."""
    cache = Cache.open(str(url))
    return {name: cache.store.read(codec_path(column)) for name, column in cache.teacher_columns().items()}


class Mortal(ExtractionWorker):
    """A worker that dies once of each thing it is told to die of: files named by shard in `DEATHS`."""

    def calibrate(self, shard: int, *more: object) -> CalibrationPart:
        """Die, fail, or do it."""
        marker = Path(os.environ["DEATHS"], f"{shard}")
        if marker.exists():
            what = marker.read_text()
            marker.unlink()
            if what == "kill":
                os._exit(1)
            raise OSError("disk on fire")
        return super().calibrate(shard, *more)


def job_of(recipe: Recipe, url: Path) -> ExtractionJob:
    """What a worker of one CPU needs."""
    return ExtractionJob(
        str(url),
        recipe.source,
        recipe.views,
        recipe.committee,
        recipe.cache.codec,
        recipe.extract,
        device="cpu",
        threads=1,
    )


def test_the_command_registers_columns_and_says_what_they_are(
    ray_head: str, asked: Recipe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = folder / "one"
    with cluster():
        assert run(asked, CalibrateOptions(cache=str(url)), open_work(asked, str(url))) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [*TEACHERS, "all"]
    assert max(map(len, lines)) <= 120
    assert (lines[1].split()[1] == "9" and "192" in lines[1] and "joint" in printed) or "separable" in printed
    cache = Cache.open(str(url))
    assert len(cache.committed(Column.images())) == 4, "of nine samples one could not be decoded"
    assert not any(cache.committed(column) for column in cache.teacher_columns().values())
    assert any("calibrate-" in name for name in cache.store.list("logs/"))


def test_three_workers_of_which_one_is_killed_give_the_same_bytes(
    ray_head: str, asked: Recipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0").write_text("kill")
    (tmp_path / "2").write_text("raise")
    monkeypatch.setattr("pipeline.engine.ENVIRONMENT", {"DEATHS": str(tmp_path)})
    url, slots = folder / "three", Slots(3, 0.5, 0, "cpu")
    with cluster():
        engine = Engine(job_of(asked, url), slots, worker=Mortal, stall_timeout_s=120)
        try:
            assert register(engine, asked, open_work(asked, str(url))).images == 9
        finally:
            engine.close()
    assert not list(tmp_path.iterdir()), "both faults happened"
    assert tensors_of(folder / "three") == tensors_of(folder / "one")


class Here:
    """A worker in this process, called as the engine calls one; it has no loop."""

    def __init__(self, job: ExtractionJob) -> None:
        self._worker = ExtractionWorker(job)

    def call(self, method: str, *arguments: object) -> object:
        """What the worker returns."""
        return getattr(self._worker, method)(*arguments)


def test_a_column_that_is_there_is_not_calibrated_again(asked: Recipe, folder: Path) -> None:
    before, work = tensors_of(folder / "one"), open_work(asked, str(folder / "one"))
    found = register(Here(job_of(asked, folder / "one")), asked, work)
    assert (found.new, found.images, tuple(found.columns)) == ((), 0, TEACHERS)
    assert tensors_of(folder / "one") == before


def test_fewer_images_than_asked_are_all_used_and_that_is_said_once(
    asked: Recipe, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = asked.cache.codec.model_copy(update={"calibration_images": 50})
    recipe = asked.model_copy(update={"cache": asked.cache.model_copy(update={"codec": more})})
    work = open_work(recipe, str(folder / "one"))
    shares = commit_calibration_images(None, recipe, work)
    assert sum(share.samples for share in shares.values()) == 10
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "calibrating on all 10 images that there are; cache.codec.calibration_images asks for 50"
    ]


def test_a_shard_that_calibration_cannot_have_is_named(
    ray_head: str, asked: Recipe, photos: Path, tmp_path: Path
) -> None:
    recipe = asked.model_copy(update={"extract": asked.extract.model_copy(update={"max_tries": 1})})
    work = open_work(recipe, str(tmp_path / "c"))
    lost = photos / work.entries(1)["path"][0].as_py()
    away = lost.rename(lost.with_suffix(".away"))
    try:
        with pytest.raises(IncompleteError, match=r"calibration needs shard 000001, .*given up") as caught:
            run_with(recipe, tmp_path / "c", work)
    finally:
        away.rename(lost)
    assert "\n" not in str(caught.value)


def run_with(recipe: Recipe, url: Path, work: object) -> None:
    """The command, inside this process."""
    with cluster():
        run(recipe, CalibrateOptions(cache=str(url)), work)


def test_a_dry_run_writes_nothing(asked: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert dry_run(asked, CalibrateOptions(cache=str(tmp_path / "c"))) == 0
    assert "would calibrate klt of mini_dinov2, mini_clip on 9 of 11 images" in caplog.text
    assert not (tmp_path / "c").exists()


def test_a_real_sized_table_fits_a_terminal() -> None:
    basis = {"dimensions": 5632, "block": 1408, "basis": "separable", "kept": 5632}
    cost = {"encoded": 128, "fidelity": 0.9951, "decode_gmac": 123.4, "decode_share": 0.123}
    row = TeacherRow(
        "openai_clip_b16", "c", 2048, 131_072, bits_per_value=12.2, terabytes=9.9, **basis, **cost
    )
    lines = format_calibration(Recipe(), [row, row])
    assert max(map(len, lines)) <= 120 and len({len(line) for line in lines[:4]}) == 1
