"""What a cache should hold: permutations, shards and sample tables, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.config import CacheConfig, ViewConfig
from storage.errors import FormatError
from storage.identity import seal
from storage.manifest import (
    SAMPLES,
    Invariants,
    SampleRow,
    Segment,
    permutation,
    read_invariants,
    read_samples,
    read_segment,
    segment_shards,
    write_invariants,
    write_samples,
    write_segment,
)

TEXT = st.text(st.characters(codec="utf-8"))
SMALL = st.integers(0, 2**31 - 1)
PINNED = [1, 4, 3, 7, 6, 5, 0, 8, 2, 9]
ROWS = st.builds(
    SampleRow, SMALL, TEXT, TEXT, SMALL, SMALL, SMALL, SMALL, st.booleans(), SMALL, SMALL, st.none() | TEXT
)


def test_a_permutation_never_changes() -> None:
    assert permutation("some source", 10).tolist() == PINNED
    assert permutation("another source", 10).tolist() != PINNED
    large = permutation("some source", 100_000)
    assert np.array_equal(np.sort(large), np.arange(100_000))
    # no trace of the source's order: neighbours are as far apart as chance has it
    assert abs(np.abs(np.diff(large)).mean() / (100_000 / 3) - 1) < 0.02


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 3), st.integers(0, 9), st.integers(1, 20))
def test_shards_hold_each_sample_once_view_by_view(
    keys: int, views: int, first_view: int, first_shard: int, per_shard: int
) -> None:
    segment = Segment(
        index=1, source="s", keys=keys, views=views, first_view=first_view, first_shard=first_shard
    )
    shards = segment_shards(segment, per_shard)
    assert [shard.index for shard in shards] == list(range(first_shard, first_shard + len(shards)))
    samples = [(shard.view, shard.first + row) for shard in shards for row in range(shard.rows)]
    wanted = [(view, key) for view in range(first_view, first_view + views) for key in range(keys)]
    assert samples == wanted
    assert all(shard.rows == per_shard for shard in shards if shard.first + per_shard <= keys)


def test_invariants_come_back_and_leave_the_number_of_views_out() -> None:
    asked = Invariants.of(ViewConfig(count=5, size=64), CacheConfig(samples_per_shard=9, container="zarr"))
    assert read_invariants(write_invariants(asked), "cache.json") == asked
    assert asked == Invariants.of(
        ViewConfig(count=2, size=64), CacheConfig(samples_per_shard=9, container="zarr")
    )
    assert "count" not in asked.doc()["views"]


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused_by_name(version: int) -> None:
    doc = {**Invariants().doc(), "format": version}
    with pytest.raises(FormatError, match=rf"cache\.json: field format = {version} is not of cache format 2"):
        read_invariants(seal(doc), "cache.json")


def test_a_segment_comes_back() -> None:
    segment = Segment(index=3, source="abc", keys=1_281_167, views=2, first_view=1, first_shard=77)
    assert read_segment(write_segment(segment), "segments/0003.json") == segment


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_sample_tables_come_back_and_are_deterministic(rows: list[SampleRow]) -> None:
    data = write_samples(rows)
    table = read_samples(data)
    assert table.schema.equals(SAMPLES)
    assert [SampleRow(**row) for row in table.to_pylist()] == rows
    assert write_samples(rows) == data
