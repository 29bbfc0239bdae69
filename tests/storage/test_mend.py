"""What verification names can be taken out, and no more than that is lost."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

from storage import layout
from storage.audit import Problem
from storage.cache import Cache
from storage.layout import Column
from storage.local import LocalStore
from storage.mend import discard_damage
from storage.verify import verify
from tests.storage.sample_cache import make_cache


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_a_damaged_shard_is_the_only_thing_discarded(tmp_path: Path, container: str) -> None:
    cache = make_cache(str(tmp_path), container)
    columns = [Column.images(), *cache.teacher_columns().values()]
    victim = columns[1]
    before = {column: set(cache.committed(column)) for column in columns}
    flip(tmp_path / cache.committed(victim)[2].records.name)
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    after = Cache.open(str(tmp_path))
    assert after.missing(victim) == [2]
    assert all(set(after.committed(c)) == before[c] for c in columns if c != victim)
    assert {(p.column, p.shard) for p in verify(str(tmp_path)).problems} == {(victim, 2)}, "only missing now"


def test_a_damaged_compaction_costs_nothing(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path))
    column = Column.images()
    cache.compact(column)
    (path,) = (tmp_path / layout.compaction_folder(column)).iterdir()
    flip(path)
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    assert not path.exists()
    assert verify(str(tmp_path)).ok


def test_a_codec_without_its_tensors_costs_its_column(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path))
    columns = cache.teacher_columns()
    flip(tmp_path / layout.codec_path(columns["beta"]))
    discard_damage(Cache.open(str(tmp_path)), verify(str(tmp_path)).problems)
    assert set(Cache.open(str(tmp_path)).teacher_columns()) == {"alpha"}
    assert verify(str(tmp_path)).ok


FAILURES = [errno.EMFILE, errno.ETIMEDOUT, errno.EACCES, errno.EIO]


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a cache."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", FAILURES, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("container", ["wds", "zarr"])
def test_what_cannot_be_read_is_reported_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, number: int
) -> None:
    """Reading a sound cache fails at every third object, at each of its documents and objects in turn."""
    cache = make_cache(str(tmp_path), container, views=1)
    for column in cache.columns():
        cache.compact(column)
    before = contents(tmp_path)
    for skipped in range(3):
        with monkeypatch.context() as patch:
            calls = itertools.count(skipped)

            def fail(call, calls=calls):
                def failing(self, path, *args):
                    # cache.json and the segments must open for anything else to be looked at
                    if (
                        path.split("/")[0] in ("features", "images", "samples", "commits")
                        and not next(calls) % 3
                    ):
                        raise OSError(number, os.strerror(number), path)
                    return call(self, path, *args)

                return failing

            for name in ("read", "read_ranges", "size"):
                patch.setattr(LocalStore, name, fail(getattr(LocalStore, name)))
            report = verify(str(tmp_path))
        assert report.problems and not report.notes
        assert {problem.kind for problem in report.problems} == {"unreadable"}, report.problems
        for problem in report.problems:
            assert os.strerror(number) in problem.what and "nothing was concluded" in problem.what
        assert discard_damage(Cache.open(str(tmp_path)), report.problems) == []
    assert contents(tmp_path) == before
    assert verify(str(tmp_path)).ok


@pytest.mark.parametrize("where", ["read", "list"])
def test_a_cache_that_cannot_be_opened_or_listed_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    make_cache(str(tmp_path), views=1)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(LocalStore, where, fail)
        report = verify(str(tmp_path))
    assert [problem.kind for problem in report.problems] == ["unreadable"] and not report.notes
    assert discard_damage(Cache.open(str(tmp_path)), report.problems) == []


def test_damage_is_discarded_beside_what_cannot_be_read(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path))
    damaged, locked = cache.teacher_columns().values()
    flip(tmp_path / cache.committed(damaged)[2].records.name)
    problems = [
        *verify(str(tmp_path)).problems,
        Problem.unreadable("x", locked, 1, TimeoutError("timed out")),
        Problem.unreadable(layout.teacher_path(locked), locked, None, TimeoutError("timed out")),
    ]
    assert discard_damage(Cache.open(str(tmp_path)), problems) == [f"discarded shard 000002 of {damaged}"]
