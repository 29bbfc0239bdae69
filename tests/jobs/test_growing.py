"""A cache's life on a real Ray cluster, by its commands: it grows, is recoded, damaged, repaired."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.__main__ import main
from storage.cache import Cache
from storage.layout import Column
from storage.verify import verify

pytestmark = pytest.mark.usefixtures("ray_head")

SMALL = [
    *("--views.size", "64", "--views.count", "1", "--cache.samples-per-shard", "4"),
    *("--committee.teachers", "mini_clip", "--cache.codec.calibration-images", "4"),
    *("--cache.codec.name", "f16", "--cache.codec.lossless", "none", "--extract.actors", "1"),
]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the logs."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_cache_lives(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, more, url = (tmp_path / name for name in ("first", "more", "c"))
    shutil.copytree(photos / "class0", first)
    shutil.copytree(photos / "class1", more)
    at = ["mini", "--cache", str(url), *SMALL]
    assert main(["extract", *at, "--source.path", str(first)]) == 0
    before = files(url)
    grow = ["extract", *at, "--source.path", str(more), "--append"]
    assert main(["extract", *at, "--source.path", str(more)]) == 2 and files(url) == before
    assert main([*grow, "--dry-run"]) == 0 and files(url) == before
    assert main(grow) == 0
    kept = {path: data for path, data in before.items() if "/compact/" not in path}
    grown = files(url)
    assert {path: grown[path] for path in kept} == kept and verify(str(url)).ok
    capsys.readouterr()

    int8 = [*SMALL, "--cache.codec.name", "int8", "--cache.container", "zarr"]
    assert main(["recode", "mini", "--cache", str(url), "--out", str(tmp_path / "z"), *int8]) == 0
    assert "to the teacher's maps; together the angles add up to" in capsys.readouterr().err
    assert verify(str(tmp_path / "z")).ok
    argv = ["verify", str(tmp_path / "z"), "--depth", "teachers", "--device", "cpu", "--samples", "4"]
    assert main(argv) == 0

    cache = Cache.open(str(url))
    column = cache.teacher_columns()["mini_clip"]
    (url / cache.committed(column)[1].records.name).unlink()
    (url / cache.committed(Column.images())[3].records.name).write_bytes(b"damaged")
    hurt = files(url)
    assert main(["repair", *at]) == 2 and files(url) == hurt
    assert main(["repair", *at, "--source.path", str(more)]) == 0
    assert files(url) == grown
