"""Stage 1 on a real cache: the losses of live teachers on the same crops, and an exact resumption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.cache import Cache
from storage.codecs import Calibrator, LevelShape
from storage.config import CodecConfig, JpegConfig, ViewConfig
from storage.jpeg import decode_jpeg, encode_jpeg
from storage.manifest import Invariants, SampleRow
from storage.stream import Stream, make_order
from student.metrics_log import read_records
from student.pixels import to_unit
from student.stage1 import Stage1Data, run_stage1
from tests.student.test_stage1 import CPU, Teachers, config, make_student, pictures

KEYS, VIEWS, BAD = 11, 2, 3
"""11 keys in batches of 4, so that slots differ in length; row BAD of every shard is quarantined."""


class CachedTeachers:
    """A cache that was filled from live teachers, and both ways to train on it."""

    def __init__(self, folder: Path) -> None:
        self.teachers = Teachers()
        views = ViewConfig(size=64)
        invariants = Invariants(views=views, jpeg=JpegConfig(), samples_per_shard=4, container="wds")
        self.cache = Cache.create(str(folder), invariants)
        self.cache.add_segment("source", KEYS, VIEWS)
        self.columns = {name: self._register(name) for name in self.teachers.vits}
        for shard in self.cache.shards():
            self._fill(shard)
        self.order = make_order(self.cache, seed=0, global_batch=4, window=2)

    def _register(self, name: str):
        levels = self.teachers(torch.rand(2, 3, 64, 64))[name]
        shapes = tuple(LevelShape(*level.shape[1:]) for level in levels)
        calibrator = Calibrator(shapes)
        calibrator.update(levels)
        return self.cache.register(
            name, {"weights": name}, CodecConfig(name="f16"), shapes, calibrator.finish, {}
        )

    def _fill(self, shard) -> None:
        names = [f"k{i:02d}" for i in self.cache.segments[0].permutation()][
            shard.first : shard.first + shard.rows
        ]
        bad = [row == BAD for row in range(shard.rows)]
        jpegs = [encode_jpeg(image.numpy(), JpegConfig()) for image in pictures(shard.rows, shard.index)]
        rows = [
            SampleRow(
                row, f"{key}~v{shard.view}", key, 0, 0, 64, 64, False, 64, 64, "broken" if bad[row] else None
            )
            for row, key in enumerate(names)
        ]
        self.cache.put_images(shard.index, rows, [None if b else j for j, b in zip(jpegs, bad, strict=True)])
        crops = torch.from_numpy(np.stack([decode_jpeg(jpeg) for jpeg in jpegs]))
        for name, levels in self.teachers(to_unit(crops, CPU)).items():
            codec = self.cache.codec(self.columns[name])
            codes, quality, _ = codec.encode(levels)
            records = [None if b else codec.pack(code) for code, b in zip(codes, bad, strict=True)]
            reasons = ["broken" if b else None for b in bad]
            self.cache.put_features(self.columns[name], shard.index, records, quality, reasons)

    def data(self, *, live: bool, dies_at: int = -1, bad: str = "stop") -> Stage1Data:
        """Stage 1's data from the codes or from the teachers."""
        columns = {} if live else self.columns

        def targets(batch):
            if batch.step == dies_at:
                raise MemoryError
            if live:
                return self.teachers(to_unit(batch.images, CPU))
            return {name: self.cache.codec(c).decode(batch.codes[name], CPU) for name, c in columns.items()}

        def stream(first: int, steps: int) -> Stream:
            return Stream(self.cache, self.order, columns, first, steps, threads=2, on_bad_shard=bad)

        return Stage1Data(stream, targets, self.order.steps_per_epoch)

    def losses(self, out: Path, **how) -> list[float]:
        """Losses of every step of a run of four epochs."""
        changes = {"epochs": 4, "checkpoint_every": 4}
        run_stage1(make_student(), self.data(**how), config(**changes), out=out, device="cpu")
        return [record["loss"] for record in read_records(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> CachedTeachers:
    return CachedTeachers(tmp_path_factory.mktemp("cache"))


def test_the_cache_trains_as_its_live_teachers_do(cached: CachedTeachers, tmp_path: Path) -> None:
    from_cache = cached.losses(tmp_path / "cache", live=False)
    from_live = cached.losses(tmp_path / "live", live=True)
    assert len(from_cache) == 4 * cached.order.steps_per_epoch == 12
    assert from_cache == pytest.approx(from_live, rel=2e-3)
    assert from_cache[-1] < 0.8 * from_cache[0]


def test_a_killed_run_on_the_cache_goes_on_exactly(cached: CachedTeachers, tmp_path: Path) -> None:
    whole = cached.losses(tmp_path / "whole", live=False)
    with pytest.raises(MemoryError):
        cached.losses(tmp_path / "killed", live=False, dies_at=7)
    assert cached.losses(tmp_path / "killed", live=False) == whole, "bit for bit"


def test_skipped_samples_are_counted_in_the_log_and_over_resumed_calls(tmp_path: Path) -> None:
    cached = CachedTeachers(tmp_path / "cache")
    commit = cached.cache.committed(cached.columns["wide"])[1]
    (tmp_path / "cache" / commit.records.name).unlink()
    changes = {"epochs": 4, "checkpoint_every": 4, "log_every": 3}

    def run(out: str, **how) -> dict:
        data = cached.data(live=False, bad="skip", **how)
        return run_stage1(make_student(), data, config(**changes), out=tmp_path / out, device="cpu")

    summary = run("whole")
    records = read_records(tmp_path / "whole" / "metrics.jsonl")
    with cached.data(live=False, bad="skip").stream(0, summary["steps"]) as stream:
        skipped = [batch.skipped for batch in stream]
    assert [r["skipped"] for r in records] == [sum(skipped[i : i + 3]) for i in range(0, 12, 3)]
    assert summary["skipped"] == sum(skipped) > 0 and 0 <= summary["data_wait"] < 1
    assert all(0 <= r["data_wait"] <= 1 for r in records)
    with pytest.raises(MemoryError):
        run("killed", dies_at=7)
    assert run("killed")["skipped"] == sum(skipped)
