"""Which samples calibrate, and that partial statistics merge to the same bits in whatever order they come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibrate import Merged, Portion, calibrate_shard, portions, uncommitted_shards
from pipeline.config import CommitteeConfig
from pipeline.features import Runner
from pipeline.macs import decode_budgets
from pipeline.teachers.committee import Committee, build_committee
from pipeline.timers import Timers
from storage.cache import Cache
from storage.config import CacheConfig, CodecConfig, JpegConfig, ViewConfig
from storage.jpeg import encode_jpeg
from storage.manifest import Invariants, SampleRow

VIEWS = ViewConfig(count=2, size=32)
PER_SHARD, KEYS = 4, 14
BAD = {1: {0, 2}, 2: {3}}
"""Shard -> rows whose photos could not be decoded."""


def put_images(cache: Cache, shard: int) -> None:
    """Commit crops of noise, without the bad rows."""
    rng, bad = np.random.default_rng(shard), BAD.get(shard, set())
    rows, jpegs = [], []
    for row in range(cache.shard(shard).rows):
        name = f"k{shard}-{row}~v{cache.shard(shard).view}"
        reason = "not a picture" if row in bad else None
        rows.append(SampleRow(row, name, name, 0, 0, 32, 32, False, 32, 32, reason))
        pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
        jpegs.append(None if reason else encode_jpeg(pixels, JpegConfig()))
    cache.put_images(shard, rows, jpegs)


def new_cache(folder: Path) -> Cache:
    """Two views of fourteen images in shards of four, no images yet."""
    cache = Cache.create(str(folder), Invariants.of(VIEWS, CacheConfig(samples_per_shard=PER_SHARD)))
    cache.add_segment("0" * 64, KEYS, VIEWS.count)
    return cache


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    cache = new_cache(tmp_path_factory.mktemp("filled") / "c")
    for shard in cache.shards(view=0):
        put_images(cache, shard.index)
    return cache


@given(st.integers(1, 40))
def test_the_first_sound_samples_of_view_0_count_and_no_others(filled: Cache, images: int) -> None:
    usable = [(s.index, row) for s in filled.shards(view=0) for row in range(s.rows)]
    usable = [(shard, row) for shard, row in usable if row not in BAD.get(shard, set())][:images]
    found = portions(filled, images)
    assert sum(p.samples for p in found.values()) == min(images, KEYS - 3) == len(usable)
    assert {s: p.samples for s, p in found.items()} == {
        s: sum(shard == s for shard, _ in usable) for s in dict.fromkeys(shard for shard, _ in usable)
    }
    firsts = [p.first for p in found.values()]
    assert firsts == [next(i for i, (shard, _) in enumerate(usable) if shard == s) for s in found]


def test_quarantined_images_make_further_shards_necessary(tmp_path: Path) -> None:
    cache, rounds = new_cache(tmp_path / "c"), []
    while shards := uncommitted_shards(cache, 8):
        rounds.append(shards)
        for shard in shards:
            put_images(cache, shard)
    assert rounds == [[0, 1], [2]], "two of the first eight could not be decoded"
    assert portions(cache, 8) == {0: Portion(0, 4), 1: Portion(4, 2), 2: Portion(6, 2)}


@pytest.fixture(scope="module")
def committee() -> Committee:
    asked = CommitteeConfig(teachers=("mini_dinov2", "mini_clip"), weights="random:0", precision="fp32")
    return build_committee(asked)


CODEC = CodecConfig(name="klt", calibration_images=9, calibration_tokens=3)


def parts_of(cache: Cache, committee: Committee) -> dict[int, dict]:
    """Shard -> its partial calibrators, each made by a worker of its own."""
    with ThreadPoolExecutor(1) as pool:
        return {
            shard: calibrate_shard(
                cache,
                shard,
                portion,
                budgets=dict.fromkeys(committee.teachers, 1.0),
                codec=CODEC,
                runner=Runner(committee, 3, pool, Timers()),
            )
            for shard, portion in portions(cache, CODEC.calibration_images).items()
        }


@settings(max_examples=6, deadline=None)
@given(st.permutations([0, 1, 2]))
def test_statistics_are_the_same_bits_in_whatever_order_shards_finish(
    filled: Cache, committee: Committee, order: list[int]
) -> None:
    def finished(arriving: list[int]) -> dict[str, torch.Tensor]:
        merged, parts = Merged([0, 1, 2]), parts_of(filled, committee)
        for shard in arriving:
            merged.add(shard, parts[shard])
        return {f"{t}.{name}": v for t in committee.teachers for name, v in merged.finish(t).items()}

    first, second = finished([0, 1, 2]), finished(order)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_one_forward_serves_all_teachers_and_no_sample_is_run_in_vain(
    filled: Cache, committee: Committee
) -> None:
    before, parts = committee.forwards, parts_of(filled, committee)
    assert set(parts) == {0, 1, 2} and set(parts[0]) == set(committee.teachers)
    # batches of 3 over shards of 4 rows; the last shard's three samples are all in its first batch
    assert committee.forwards - before == 2 * (4 + 4 + 3)


def test_a_budget_is_shared_by_values() -> None:
    shares = decode_budgets({"a": 300, "b": 100}, asked_gmac=8.0, step=10**12)
    assert shares == {"a": 6.0, "b": 2.0}
    assert sum(decode_budgets({"a": 3, "b": 1}, asked_gmac=0, step=10**12).values()) == pytest.approx(50)
