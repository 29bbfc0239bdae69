"""What `verify` says of a cache that is sound, unfinished, damaged, unreadable or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.__main__ import main
from storage import layout
from storage.cache import Cache
from storage.layout import Column
from storage.verify import verify
from tests.storage.sample_cache import make_cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A sound cache."""
    return make_cache(str(tmp_path / "cache"))


def test_a_sound_cache_is_said_to_be_sound(cache: Cache) -> None:
    assert main(["verify", cache.url]) == 0


def test_an_unfinished_cache_is_not_called_damaged(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.discard(cache.teacher_columns()["beta"], 2)
    before = sorted(path for path in Path(cache.url).rglob("*"))
    assert main(["verify", cache.url, "--discard"]) == 1
    said = capsys.readouterr().err
    assert "1 shards are not extracted yet" in said and "run the same extract command again" in said
    assert "--discard" not in said
    assert sorted(path for path in Path(cache.url).rglob("*")) == before, "nothing was there to discard"


def test_damage_is_named_and_discarded_when_asked(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    column = cache.teacher_columns()["alpha"]
    victim = Path(cache.url) / cache.committed(column)[1].records.name
    victim.write_bytes(victim.read_bytes()[:-1])
    assert main(["verify", cache.url]) == 1
    said = capsys.readouterr().err
    assert victim.name in said and "discard the damage with --discard" in said
    assert main(["verify", cache.url, "--discard"]) == 1
    assert "now extract again" in capsys.readouterr().err
    assert Cache.open(cache.url).missing(column) == [1]


def test_damage_to_the_images_takes_what_was_made_from_them(cache: Cache) -> None:
    victim = Path(cache.url) / cache.committed(Column.images())[0].records.name
    victim.unlink()
    assert main(["verify", cache.url, "--discard"]) == 1
    opened = Cache.open(cache.url)
    assert all(opened.missing(column) == [0] for column in cache.columns())
    assert {problem.kind for problem in verify(cache.url).problems} == {"missing"}


@pytest.mark.parametrize("what", ["nowhere", "empty", "file"])
def test_what_is_no_cache_is_refused(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    assert main(["verify", str(tmp_path / what)]) in (1, 2)
    said = capsys.readouterr().err
    assert str(tmp_path / what) in said and "--discard" not in said and "Traceback" not in said


def test_a_damaged_cache_json_is_in_the_report(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(cache.url) / layout.INVARIANTS).write_text("{")
    assert main(["verify", cache.url]) == 1
    assert layout.INVARIANTS in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_never_discarded(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    victim = Path(cache.url) / cache.committed(Column.images())[0].records.name
    victim.chmod(0)
    assert main(["verify", cache.url, "--discard"]) == 1
    assert victim.exists() and "could not be read" in capsys.readouterr().err
