"""Extraction on a real Ray cluster: complete, the same to the byte, resumable, honest about gaps."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset
import zarr

from jobs.config import Recipe
from jobs.errors import IncompleteError
from jobs.extract import ExtractOptions, open_work, run
from jobs.ray_session import cluster
from pipeline.engine import Engine, EngineError, Slots
from pipeline.queue import Queue
from pipeline.worker import ExtractionJob, ExtractionWorker, ShardResult
from storage.cache import Cache
from storage.layout import Column
from storage.verify import verify

pytestmark = pytest.mark.usefixtures("ray_head")


def extract(recipe: Recipe, folder: Path) -> Cache:
    """Run the whole command inside this process."""
    with cluster():
        assert run(recipe, ExtractOptions(cache=str(folder)), open_work(recipe, str(folder))) == 0
    return Cache.open(str(folder))


def last_summary(cache: Cache) -> dict:
    """The newest run summary in the cache's logs."""
    return json.loads(cache.store.read(cache.store.list("logs/")[-1]))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but its logs."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in paths if p.relative_to(folder).parts[0] != "logs"
    }


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the caches of this module are; its tests build on each other."""
    return tmp_path_factory.mktemp("caches")


def test_extraction_is_complete_and_the_same_to_the_byte(mini: Recipe, module_folder: Path) -> None:
    first = extract(mini, module_folder / "first")
    extract(mini, module_folder / "second")
    assert files(module_folder / "first") == files(module_folder / "second")
    report = verify(first)
    assert report.ok and not report.notes
    quarantined = [
        row for shard in first.shards() for row in first.samples(shard.index).to_pylist() if row["quarantine"]
    ]
    assert [row["source"] for row in quarantined] == ["class0/broken.jpg"] * mini.views.count
    assert last_summary(first)["teacher_forwards"] >= 3 * 20


def test_extracting_again_runs_no_teacher(mini: Recipe, module_folder: Path) -> None:
    before = files(module_folder / "first")
    cache = extract(mini, module_folder / "first")
    assert last_summary(cache)["teacher_forwards"] == 0
    assert files(module_folder / "first") == before


# webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_stock_webdataset_reads_the_shards(mini: Recipe, module_folder: Path) -> None:
    cache = Cache.open(str(module_folder / "first"))
    for column in (Column.images(), *cache.teacher_columns().values()):
        urls = [str(module_folder / "first" / c.records.name) for c in cache.committed(column).values()]
        stock = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
        gc.collect()
        rows = [row for shard in cache.shards() for row in cache.samples(shard.index).to_pylist()]
        assert stock == [row["key"] for row in rows if row["quarantine"] is None]


def test_zarr_and_int8_go_the_same_way(mini: Recipe, module_folder: Path) -> None:
    codec = mini.cache.codec.model_copy(update={"name": "int8"})
    settings = mini.cache.model_copy(update={"container": "zarr", "codec": codec})
    cache = extract(mini.model_copy(update={"cache": settings}), module_folder / "zarr")
    assert verify(cache).ok
    for name, column in cache.teacher_columns().items():
        array = zarr.open_array(str(module_folder / "zarr" / column.path), mode="r")
        row = next(row for row in cache.samples(0).to_pylist() if row["quarantine"] is None)["row"]
        (record,) = cache.read_records(column, 0, [row])
        assert (array[row] == cache.codec(column).unpack(record)).all(), name
        fidelity = [level.min for commit in cache.committed(column).values() for level in commit.fidelity]
        assert min(fidelity) > 0.999


def test_what_was_deleted_is_made_again_and_nothing_else(mini: Recipe, module_folder: Path) -> None:
    folder = module_folder / "first"
    cache, whole = Cache.open(str(folder)), files(folder)
    victim = cache.teacher_columns()["mini_clip"]
    cache.discard(victim, 3)
    cache = extract(mini, folder)
    assert files(folder) == whole
    assert last_summary(cache)["teacher_forwards"] == cache.shard(3).rows, "one teacher, one shard"


def test_a_teacher_is_added_from_the_cached_images_alone(mini: Recipe, module_folder: Path) -> None:
    folder = module_folder / "first"
    before = files(folder)
    added = mini.model_copy(
        update={
            "source": mini.source.model_copy(update={"path": ""}),
            "committee": mini.committee.model_copy(
                update={"teachers": ("mini_clip",), "normalisation": "pretrained"}
            ),
        }
    )
    cache = extract(added, folder)
    new = {name: data for name, data in files(folder).items() if name not in before}
    assert {name: data for name, data in files(folder).items() if name in before} == before
    assert all("features/mini_clip/" in name for name in new)
    fingerprints = [column.fingerprint for column in cache.columns() if column.teacher == "mini_clip"]
    assert len(fingerprints) == 2
    with pytest.raises(ValueError, match=f"{fingerprints[0]}.*{fingerprints[1]}"):
        cache.teacher_columns()


def test_another_recipe_is_refused_with_both_values(mini: Recipe, module_folder: Path) -> None:
    other = mini.model_copy(update={"views": mini.views.model_copy(update={"size": 80})})
    with pytest.raises(ValueError, match=r"views\.size = 64.*asks 80"):
        open_work(other, str(module_folder / "first"))


def test_a_file_that_vanished_costs_its_shard_only(mini: Recipe, photos: Path, tmp_path: Path) -> None:
    with cluster():
        work = open_work(mini, str(tmp_path / "c"))
        last = work.cache.shards(view=0)[-1].index
        lost = photos / work.entries(last)["path"][0].as_py()
        away = lost.rename(lost.with_suffix(".away"))
        try:
            with pytest.raises(IncompleteError, match="given up") as caught:
                run(mini, ExtractOptions(cache=str(tmp_path / "c")), work)
        finally:
            away.rename(lost)
    cache = Cache.open(str(tmp_path / "c"))
    missing = cache.missing(Column.images())
    assert len(missing) == mini.views.count and all(f"{shard:06d}" in str(caught.value) for shard in missing)
    assert extract(mini, tmp_path / "c").missing(Column.images()) == []


def test_weights_that_no_worker_has_are_one_line(mini: Recipe, tmp_path: Path) -> None:
    committee = mini.committee.model_copy(update={"weights": "/nowhere"})
    recipe = mini.model_copy(update={"committee": committee})
    with (
        cluster(),
        pytest.raises(EngineError, match=r"set up: weights = /nowhere.*cutler weights") as caught,
    ):
        run(recipe, ExtractOptions(cache=str(tmp_path / "c")), open_work(recipe, str(tmp_path / "c")))
    assert "\n" not in str(caught.value)


class Killed(ExtractionWorker):
    """A worker that dies of shard 2, and sees an exception from shard 4."""

    def __init__(self, job: ExtractionJob) -> None:
        self._shards: list[int] = []

    def use(self, columns: object) -> None:
        """Nothing to prepare."""

    def run(self, shard: int, entries: pa.Table, missing: list[str]) -> ShardResult:
        """Pretend to work."""
        if shard == 2:
            os._exit(1)
        if shard == 4:
            raise OSError("disk on fire")
        return ShardResult(shard, rows=1, quarantined=0)


def drive(worker: type, shards: int, *, stall_timeout_s: float = 60.0) -> tuple[Queue, list[int]]:
    """Run the engine over `shards` units with workers of that class."""
    queue, finished = Queue(range(shards)), []
    with cluster():
        engine = Engine(None, Slots(2, 1, 0, "cpu"), stall_timeout_s=stall_timeout_s, worker=worker)
        try:
            engine.run(queue, lambda _: (pa.table({}), []), on_result=lambda r: finished.append(r.shard))
        finally:
            engine.close()
    return queue, finished


def test_poison_that_kills_and_poison_that_raises_are_isolated() -> None:
    queue, finished = drive(Killed, 8)
    assert sorted(finished) == [0, 1, 3, 5, 6, 7]
    assert set(queue.bad) == {2, 4} and queue.tries[2] == queue.tries[4] == 3
    assert "disk on fire" in queue.bad[4] and "died" in queue.bad[2]


class Stillborn(Killed):
    """A worker that cannot be set up."""

    def __init__(self, job: ExtractionJob) -> None:
        raise ValueError("weights = /nowhere is no folder")


def test_workers_that_cannot_be_set_up_blame_no_shard() -> None:
    with pytest.raises(EngineError, match=r"3 workers could not be set up.*weights = /nowhere is no folder"):
        drive(Stillborn, 4)


class Stuck(Killed):
    """A worker that never comes back from shard 1."""

    def run(self, shard: int, entries: pa.Table, missing: list[str]) -> ShardResult:
        """Hang."""
        if shard == 1:
            time.sleep(600)
        return ShardResult(shard, rows=1, quarantined=0)


def test_a_run_that_hangs_says_what_it_waits_for() -> None:
    with pytest.raises(EngineError, match=r"waiting for shards \[(0, )?1\b"):
        drive(Stuck, 3, stall_timeout_s=12)


def test_sigterm_finishes_what_is_in_hand_and_a_rerun_does_the_rest(mini: Recipe, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "extract", "mini", "--cache", str(tmp_path / "c")]
    command += ["--source.path", mini.source.path, "--views.size", "64", "--cache.samples-per-shard", "2"]
    command += ["--cache.codec.calibration-images", "2", "--extract.actors", "1", "--views.count", "20"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        commits = tmp_path / "c" / "commits" / "images"
        deadline = time.monotonic() + 120
        while (
            len(list(commits.glob("*.json"))) < 4 and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "stopped by SIGTERM" in said, said
    report = verify(str(tmp_path / "c"))
    assert {problem.what for problem in report.problems} == {"the shard is not committed"}
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert verify(str(tmp_path / "c")).ok
