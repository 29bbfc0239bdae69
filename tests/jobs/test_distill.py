"""Stage 1 from the cache follows live teachers; a finished run is left alone; wrong caches are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.__main__ import main
from jobs.cache_columns import columns_for
from jobs.config import Recipe
from jobs.extract import ExtractOptions, open_work, run
from jobs.ray_session import cluster
from storage.cache import Cache
from storage.quality import Quality
from tests.jobs.conftest import small_recipe


@pytest.fixture(scope="module")
def cache(ray_head: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small f16 cache, extracted over Ray."""
    recipe: Recipe = small_recipe(photos)
    folder = tmp_path_factory.mktemp("distill") / "cache"
    with cluster():
        run(recipe, ExtractOptions(cache=str(folder)), open_work(recipe, str(folder)))
    return folder


SHORT = [
    "--views.size",
    "64",
    "--stage1.epochs",
    "6",
    "--stage1.warmup-epochs",
    "1",
    "--stage1.batch-size",
    "4",
]
SHORT += ["--stage1.log-every", "1", "--stage1.checkpoint-every", "5"]


def distill(cache: Path, out: Path, *more: str) -> int:
    """Run the command in this process."""
    return main(["distill", "mini", "--cache", str(cache), "--out", str(out), *SHORT, *more])


def losses(out: Path) -> np.ndarray:
    """Loss of every step."""
    return np.array([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])


def test_cached_stage_1_follows_the_live_run_step_for_step(cache: Path, tmp_path: Path) -> None:
    assert distill(cache, tmp_path / "cached") == 0
    assert distill(cache, tmp_path / "live", "--teachers", "live") == 0
    cached, live = losses(tmp_path / "cached"), losses(tmp_path / "live")
    assert len(cached) == len(live) > 12
    assert np.abs(cached - live).max() < 1e-3
    assert cached[-1] < 0.8 * cached[0]


def test_similarity_and_maps_are_left_and_a_finished_run_is_not_run_again(
    cache: Path, photos: Path, tmp_path: Path
) -> None:
    out, held_out = tmp_path / "run", ["--evaluate.similarity-source", str(photos)]
    assert distill(cache, out, *held_out) == 0
    before, after = (json.loads((out / f"similarity_{p}.json").read_text()) for p in ("before", "after"))
    assert all(after[t]["flattened"] > before[t]["flattened"] + 0.1 for t in after)
    maps = np.load(out / "maps.npz")
    assert maps["mini_sam.after"].shape == (3, 4, 4, 3) and maps["photos"].shape == (3, 64, 64, 3)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert distill(cache, out, *held_out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["--views.size", "80"], "holds views with size 64, the recipe asks 80"),
        (["--committee.teachers", "mini_clip", "vit_s16"], "the recipe asks vit_s16"),
        (["--committee.weights", "random:7"], "the recipe asks random:7, which are"),
        (["--committee.normalisation", "pretrained"], "mean [0.485, 0.456, 0.406], the recipe asks [0.48"),
        (["--committee.precision", "bf16"], "precision fp32, the recipe asks bf16"),
        (["--stage1.batch-size", "400"], "400"),
        (["--views.count", "9"], "9"),
        (["--student.arch", "huge"], "vit_base_patch16"),
    ],
)
def test_what_does_not_fit_is_refused(
    cache: Path, tmp_path: Path, override: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(cache, tmp_path / "run", *override) == 2
    assert said in capsys.readouterr().err


def test_a_run_of_another_recipe_is_not_overwritten(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(cache, tmp_path / "run") == 0
    assert distill(cache, tmp_path / "run", "--stage1.seed", "5") == 2
    assert "seed = 0 there, 5 now" in capsys.readouterr().err


def test_a_resumed_run_may_change_what_does_not_change_the_result(cache: Path, tmp_path: Path) -> None:
    assert distill(cache, tmp_path / "run") == 0
    assert distill(cache, tmp_path / "run", "--stage1.threads", "1", "--stage1.log-every", "3") == 0


def test_a_checkpoint_pins_every_object_it_was_trained_on(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "cache", tmp_path / "run"
    shutil.copytree(cache, copy)
    assert distill(copy, out) == 0
    opened = Cache.open(str(copy))
    column = opened.teacher_columns()["mini_sam"]
    rows = opened.shard(0).rows
    records = opened.read_records(column, 0, range(rows))
    opened.discard(column, 0)
    codec = opened.codec(column)
    others = [None if r is None else codec.pack(-codec.unpack(r)) for r in records]
    ones = np.ones((rows, 4))
    opened.put_features(column, 0, others, Quality(ones, ones, np.zeros((rows, 0), np.int64)), [None] * rows)
    assert distill(copy, out) == 2
    assert "another input: data = " in capsys.readouterr().err


def test_the_codec_tells_two_columns_apart(ray_head: str, photos: Path, cache: Path, tmp_path: Path) -> None:
    both = tmp_path / "cache"
    shutil.copytree(cache, both)
    recipe = small_recipe(photos)
    codec = recipe.cache.codec.model_copy(update={"name": "int8"})
    recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"codec": codec})})
    with cluster():
        run(recipe, ExtractOptions(cache=str(both)), open_work(recipe, str(both)))
    opened = Cache.open(str(both))
    assert len(opened.columns()) == 7
    for name in ("f16", "int8"):
        settings = recipe.cache.model_copy(update={"codec": codec.model_copy(update={"name": name})})
        found = columns_for(recipe.model_copy(update={"cache": settings}), opened)
        assert {opened.teacher_doc(column)["codec"]["name"] for column in found.values()} == {name}


def test_a_run_that_failed_at_once_does_not_block_its_correction(cache: Path, tmp_path: Path) -> None:
    assert distill(cache, tmp_path / "run", "--student.arch", "huge") == 2
    assert distill(cache, tmp_path / "run") == 0


def test_a_student_of_stage_1_is_scored_alone(cache: Path, photos: Path, tmp_path: Path) -> None:
    held_out = ["--evaluate.similarity-source", str(photos)]
    assert distill(cache, tmp_path / "run", *held_out) == 0
    asked = [
        "evaluate",
        "mini",
        "--run",
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "e"),
        *SHORT,
        *held_out,
    ]
    assert main(asked) == 0
    scored = json.loads((tmp_path / "e" / "similarity.json").read_text())
    after = json.loads((tmp_path / "run" / "similarity_after.json").read_text())
    assert scored == after
