"""Containers: what stock readers see in them, what a byte range gives back, and what damage they show."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from storage.cache import Cache
from storage.commits import Commit, IndexRef, ObjectRef
from storage.containers.base import MISSING, Index, Packed, add_crc, encode_index, has_crc, load_index
from storage.containers.tar import TarContainer
from storage.containers.zarr import ZarrContainer
from storage.errors import CorruptObject
from storage.identity import escape_key, sample_key, sha256
from tests.storage.sample_cache import make_cache

RECORDS = st.lists(st.none() | st.binary(max_size=600).map(add_crc), min_size=1, max_size=6)


PATHS = st.binary(min_size=1, max_size=120).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


ALPHA = "features/alpha/00000000"


def keys_of(count: int) -> list[str]:
    """Sample keys, one of them too long for a plain tar header."""
    paths = ["a/b c.jpg", "é" * 60, *map(str, range(count))]
    return [sample_key(escape_key(path), 0) for path in paths[:count]]


def commit_of(packed: Packed, rows: int, column: str = ALPHA, quarantined: tuple[int, ...] = ()) -> Commit:
    """The commit of a shard object called x."""
    ref = ObjectRef(name="x", bytes=packed.size, sha256="")
    place = IndexRef(offset=packed.index_offset, size=len(packed.index), sha256=sha256(packed.index))
    return Commit(
        column=column, shard=0, rows=rows, keys="", objects=(ref,), index=place, quarantined=quarantined
    )


def load(packed: Packed, records: list[bytes | None], column: str = ALPHA) -> Index:
    """The index as a reader gets it."""
    absent = tuple(row for row, record in enumerate(records) if record is None)
    commit = commit_of(packed, len(records), column, absent)
    return load_index(lambda at, size: packed.data[at : at + size], commit)


def check_records(packed: Packed, index: Index, records: list[bytes | None]) -> None:
    """Every record is where the index says."""
    for row, record in enumerate(records):
        place = index.range(row)
        if record is None:
            assert place is None
        else:
            offset, size = place
            assert packed.data[offset : offset + size] == record
            assert index.fault(row, record) is None
            assert "ends after" in index.fault(row, record + b"\0")


@given(RECORDS)
def test_a_tar_gives_records_back_and_any_tar_reader_agrees(records: list[bytes | None]) -> None:
    keys = keys_of(len(records))
    packed = TarContainer().pack(keys, records, "f16")
    check_records(packed, load(packed, records), records)
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar.getmembers()} == {(0, 0, 0, "", "")}
    index = members.pop("__index__")
    assert index == packed.data[packed.index_offset : packed.index_offset + len(packed.index)]
    assert members == {
        f"{key}.f16": record for key, record in zip(keys, records, strict=True) if record is not None
    }
    assert TarContainer().pack(keys, records, "f16").data == packed.data


@given(st.lists(st.none() | st.binary(max_size=600), min_size=1, max_size=6))
def test_plain_records_have_their_crc_in_the_index(records: list[bytes | None]) -> None:
    packed = TarContainer(plain=True).pack(keys_of(len(records)), records, "jpg")
    index = load(packed, records, "images")
    check_records(packed, index, records)
    for row, record in enumerate(records):
        if record:
            assert "CRC" in index.fault(row, record[:-1] + bytes([record[-1] ^ 1]))


@given(RECORDS, st.integers(0, 3))
def test_a_zarr_shard_gives_records_back(records: list[bytes | None], spare: int) -> None:
    slots = len(records) + spare
    packed = ZarrContainer(slots).pack(keys_of(len(records)), records, "f16")
    check_records(packed, load(packed, records), records)
    assert packed.size == sum(len(record) for record in records if record) + 20 * slots + 4


@given(st.binary())
def test_a_record_ends_with_its_crc(payload: bytes) -> None:
    record = add_crc(payload)
    assert record[:-4] == payload
    assert int.from_bytes(record[-4:], "little") == google_crc32c.value(payload)
    assert has_crc(record) and not has_crc(record + b"\0") and not has_crc(record[1:])


def test_a_damaged_index_is_named() -> None:
    packed = TarContainer().pack(keys_of(2), [add_crc(b"1"), None], "f16")
    data, commit = packed.data, commit_of(packed, 2, quarantined=(1,))
    for at in range(packed.index_offset, packed.index_offset + len(packed.index)):
        broken = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(CorruptObject, match="x is damaged: its index is not the one"):
            load_index(lambda start, size, broken=broken: broken[start : start + size], commit)
    for cut in range(packed.index_offset + len(packed.index)):
        with pytest.raises(CorruptObject, match="its index is not the one"):
            load_index(lambda start, size, cut=cut: data[:cut][start : start + size], commit)


@pytest.mark.parametrize("entry", [(100, 2**64 - 99), (2**64 - 2, 4), (99, 2), (101, 0), (0, 101)])
def test_an_index_never_points_outside_its_object(entry: tuple[int, int]) -> None:
    index = encode_index(np.array([entry], np.uint64), np.zeros(1, np.uint32))
    packed = Packed([bytes(100 - len(index)), index], index, 100 - len(index))
    with pytest.raises(CorruptObject, match="outside"):
        load(packed, [b""])


def test_an_index_for_fewer_rows_is_refused() -> None:
    packed = ZarrContainer(2).pack(keys_of(2), [None, None], "f16")
    with pytest.raises(CorruptObject, match="2 entries for 3 rows"):
        load(packed, [None] * 3)


def test_an_index_and_its_commit_agree_on_what_is_absent() -> None:
    packed = ZarrContainer(2).pack(keys_of(2), [add_crc(b"1"), None], "f16")
    with pytest.raises(CorruptObject, match=r"rows \[1\] have no record, its commit quarantines \[0\]"):
        load(packed, [None, b""])


@given(st.lists(PATHS, min_size=1, max_size=5, unique=True))
def test_stock_webdataset_keeps_any_key_whole(paths: list[str]) -> None:
    keys = [sample_key(escape_key(path), 3) for path in paths]
    packed = TarContainer().pack(keys, [add_crc(key.encode()) for key in keys], "int8")
    files = tar_file_expander([{"url": "x.tar", "stream": io.BytesIO(packed.data)}])
    assert [(sample["__key__"], sample["int8"]) for sample in group_by_keys(files)] == [
        (key, add_crc(key.encode())) for key in keys
    ]


def test_stock_zarr_feels_damage_too(tmp_path: Path) -> None:
    cache = make_cache(str(tmp_path), "zarr", views=1)
    column = cache.teacher_columns()["alpha"]
    path = cache.store.local_path(cache.committed(column)[0].records.name)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    array = zarr.open_array(cache.store.local_path(column.path), mode="r")
    with pytest.raises(ValueError, match="checksum"):
        array[0]


def test_an_object_cut_anywhere_is_named_or_still_whole(tmp_path: Path) -> None:
    """Where webdataset silently ends early, a read by range names the object."""
    whole = make_cache(str(tmp_path / "whole"), views=1)
    column = whole.teacher_columns()["alpha"]
    commit = whole.committed(column)[0]
    name, rows = commit.records.name, range(commit.rows)
    records = whole.read_records(column, 0, rows)
    last = commit.index.offset + commit.index.size
    for cut in range(0, commit.records.bytes, 97):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "cut", dirs_exist_ok=True))
        (folder / name).write_bytes((folder / name).read_bytes()[:cut])
        cache = Cache.open(str(folder))
        if cut >= last:
            assert cache.read_records(column, 0, rows) == records
        else:
            with pytest.raises(CorruptObject, match=name):
                cache.read_records(column, 0, rows)


def test_a_flipped_payload_byte_names_object_and_row(tmp_path: Path) -> None:
    for kind in ("wds", "zarr"):
        cache = make_cache(str(tmp_path / kind), kind, views=1)
        column = cache.teacher_columns()["beta"]
        commit = cache.committed(column)[1]
        row = next(row for row in range(commit.rows) if row not in commit.quarantined)
        path = cache.store.local_path(commit.records.name)
        data = bytearray(path.read_bytes())
        index = load_index(lambda at, size, data=data: bytes(data[at : at + size]), commit)
        offset, size = index.range(row)
        data[offset + size // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptObject, match=f"{commit.records.name} is damaged: row {row} fails"):
            cache.read_records(column, 1, [row])


def test_missing_marks_are_zarrs() -> None:
    assert int(MISSING) == 2**64 - 1
