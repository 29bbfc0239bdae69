"""What inspect says of a cache, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.config import CodecConfig
from storage.inspect import format_levels, format_steps, format_table, inspect_cache
from storage.text_table import format_bytes
from tests.storage.sample_cache import make_cache, put_features, register


def test_rows_say_what_is_there(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), lossless="none", views=1)
    images, alpha, beta = inspect_cache(cache)
    assert (images.teacher, images.codec, images.grid) == ("images", "jpeg 95 4:4:4", "32 px")
    assert images.bits_per_value is None and images.fidelity == ()
    assert (alpha.teacher, alpha.codec, alpha.grid) == ("alpha", "f16", "2x3")
    assert (alpha.shards_done, alpha.shards_expected, alpha.samples, alpha.quarantined) == (3, 3, 7, 1)
    # 72 values of two bytes and a CRC; 72 codes of one byte, 18 steps of four and a CRC
    assert alpha.bits_per_value == pytest.approx(8 * (2 * 72 + 4) / 72)
    assert beta.bits_per_value == pytest.approx(8 * (72 + 4 * 18 + 4) / 72)
    assert alpha.bytes == sum(
        cache.store.size(path) for path in cache.store.list("features/alpha/") if path.endswith(".tar")
    )
    commits = cache.committed(cache.teacher_columns()["beta"]).values()
    assert beta.fidelity[1].min == min(commit.fidelity[1].min for commit in commits)
    used = [commit.rows - len(commit.quarantined) for commit in commits]
    mean = sum(n * commit.fidelity[1].mean for n, commit in zip(used, commits, strict=True)) / 6
    assert beta.fidelity[1].mean == pytest.approx(mean)


def test_columns_half_done_are_told(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    column = register(cache, "alpha", CodecConfig(name="int8", lossless="zstd", level=3))
    (row,) = [row for row in inspect_cache(cache) if row.fingerprint == column.fingerprint]
    assert (row.shards_done, row.samples, row.bytes, row.bits_per_value, row.fidelity) == (0, 0, 0, None, ())
    assert row.codec == "int8+zstd3"
    put_features(cache, column, 0)
    (row,) = [row for row in inspect_cache(cache) if row.fingerprint == column.fingerprint]
    assert (row.shards_done, row.shards_expected) == (1, 3)


def test_the_table_is_aligned(tmp_path: Path) -> None:
    rows = inspect_cache(make_cache(str(tmp_path), views=1))
    header, *lines = format_table(rows).splitlines()
    assert len(lines) == 3
    for name in ("fingerprint", "shards", "bits/value", "codec"):
        at = header.index(name)
        assert all(line[at - 2 : at] == "  " and line[at] != " " for line in lines), name
    assert lines[1].startswith("alpha") and "3/3" in lines[1] and "f16" in lines[1]


def test_rows_are_plain_json(tmp_path: Path) -> None:
    row = inspect_cache(make_cache(str(tmp_path), views=1))[1].model_dump(mode="json")
    assert row["teacher"] == "alpha" and set(row["fidelity"][0]) == {"min", "p1", "mean"}


def test_sizes_for_people() -> None:
    assert [format_bytes(size) for size in (0, 999, 1000, 42.5e12, 2e15)] == [
        *("0 B", "999 B", "1.0 kB", "42.5 TB", "2.0 PB"),
    ]


def test_levels_and_steps_are_told(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    column = register(cache, "alpha", CodecConfig(name="klt", fidelity=0.98))
    for shard in cache.shards():
        put_features(cache, column, shard.index)
    rows = inspect_cache(cache)
    (klt,) = [row for row in rows if row.asked]
    assert klt.asked == 0.98 and klt.codec == "klt+pcodec8 0.98" and klt.decode_gmac > 0
    assert min(level.min for level in klt.fidelity) >= 0.98
    # six samples of seven, two groups of levels at most
    assert sum(klt.rungs.values()) in (6, 12) and list(klt.rungs) == sorted(klt.rungs)
    levels = format_levels(rows).splitlines()
    assert len(levels) == 1 + sum(len(row.fidelity) for row in rows)
    assert any(line.startswith("alpha 1 ") for line in levels)
    (steps,) = format_steps(rows).splitlines()
    assert steps.startswith("alpha: steps in z-scores (samples): ")


def test_a_cache_without_teachers_has_no_levels(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), views=1)
    images = [row for row in inspect_cache(cache) if row.teacher == "images"]
    assert format_levels(images) == "" and format_steps(images) == ""
