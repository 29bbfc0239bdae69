"""The plan command: what it counts, reads and measures, what it warns of, and that it needs no torch."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.config import Recipe
from jobs.disk_space import bytes_of, free_bytes, warn_if_small
from jobs.measured import measured_columns
from jobs.plan import PlanOptions, main, plan_of
from jobs.work import open_work
from pipeline.teachers.spec import spec_of
from storage.codecs import make_calibrator
from storage.config import CodecConfig
from tests.storage.sample_cache import IDENTITY, SHAPES, make_cache


def test_a_folder_is_counted_and_json_is_printed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mini", "--source.path", str(photos), "--json-output"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["images"], doc["samples"]) == (11, 22)
    assert {row["codec"] for row in doc["codecs"]} >= {"f16", "int8", "klt 0.99", "klt 0.995", "klt 0.999"}


def test_a_disk_that_is_too_small_is_said_with_both_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "not" / "yet"
    with caplog.at_level(logging.WARNING):
        assert main(["nyud_vitb", "--images", "1000000000", "--cache", str(place)]) == 0
    (said,) = [record.message for record in caplog.records if "needs about" in record.message]
    assert str(place) in said and "PB" in said and " free; " in said
    assert "GPU-h" in capsys.readouterr().out and not place.exists()


def test_free_space_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert free_bytes(f"file://{tmp_path}/a/b") == pytest.approx(free, rel=0.2)
    assert free_bytes("s3://bucket/cache") is None
    assert not warn_if_small("s3://bucket/cache", 1e30)
    assert not warn_if_small(str(tmp_path), 1) and warn_if_small(str(tmp_path), 1e18)


def test_bits_are_read_from_a_caches_commits_and_else_from_its_calibration(tmp_path: Path) -> None:
    url = str(tmp_path / "c")
    cache = make_cache(url)
    found = measured_columns(url, ["alpha", "beta", "sam_b16"])
    assert set(found) == {"alpha", "beta"}
    ((alpha,), (beta,)) = (found["alpha"], found["beta"])
    column = cache.teacher_columns()["alpha"]
    commits = cache.committed(column).values()
    size = sum(commit.records.bytes for commit in commits)
    assert alpha.bits_per_value == pytest.approx(8 * size / sum(c.stats["values"] for c in commits))
    assert (alpha.codec.label, beta.codec.label, alpha.grid) == ("f16", "int8", "teacher")
    for shard in list(cache.committed(column)):
        cache.discard(column, shard)
    assert "alpha" not in measured_columns(url, ["alpha", "beta"])
    klt = CodecConfig(name="klt", calibration_images=6)
    stats = make_calibrator(klt, SHAPES["alpha"])
    stats.update(
        [torch.randn(6, *shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES["alpha"]]
    )
    tensors = stats.finish()
    cache.register("alpha", IDENTITY, klt, SHAPES["alpha"], lambda: tensors, {})
    (estimated,) = measured_columns(url, ["alpha"])["alpha"]
    assert estimated.bits_per_value == float(tensors["estimate.bits"]) > 0
    assert (estimated.codec.label, estimated.decode_gmac > 0) == ("klt 0.995", True)
    with pytest.raises(ValueError, match=r"holds nothing measured of sam_b16; extract or calibrate"):
        measured_columns(url, ["sam_b16"])


def test_what_extract_is_about_to_write_is_foreseen(mini: Recipe, tmp_path: Path) -> None:
    f16 = mini.cache.model_copy(update={"codec": CodecConfig(name="f16")})
    mini = mini.model_copy(update={"cache": f16})
    cache = open_work(mini, str(tmp_path / "c")).cache
    teachers = list(mini.committee.teachers)
    one, two = (bytes_of(mini, cache, dict.fromkeys(shards, teachers)) for shards in ([0], [0, 1]))
    values = sum(sum(c * h * w for c, h, w in spec_of(name).level_shapes(64, 64)) for name in teachers)
    assert two == 2 * one == pytest.approx(2 * 4 * (2 * values + 64 * 64 * 0.45), rel=1e-3)
    assert bytes_of(mini, cache, {0: []}) == pytest.approx(4 * 64 * 64 * 0.45)


def test_a_fidelity_above_bf16_is_measured_on_generated_photos(
    mini: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = mini.model_copy(update={"source": mini.source.model_copy(update={"path": ""})})
    answer = plan_of(recipe, PlanOptions(images=5, measure_bf16=2, device="cpu"))
    for row in answer.rows:
        assert 0.99 < row.bf16_cosine < 1.0, row.teacher


def test_help_and_a_plan_need_no_torch() -> None:
    code = "import sys, jobs.plan as p; p.main(['mini', '--images', '9']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
