"""The header reader finds what tarfile and GNU tar find, reads headers only, and notices every cut."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tar_index import Member, TarError, tar_members

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar_of(files: list[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, **options) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def members(data: bytes, start: int = 0, end: int | None = None) -> list[Member]:
    end = len(data) if end is None else end
    return list(tar_members(lambda offset, size: data[offset : offset + size], "x.tar", start, end))


def by_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


names = st.lists(
    st.text("abcdefghij-_.0é雪", min_size=1, max_size=60).filter(lambda s: set(s) != {"."}),
    min_size=1,
    max_size=6,
).map("/".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=5), st.sampled_from(FORMATS[1:]))
def test_agrees_with_tarfile(files: list[tuple[str, bytes]], kind: int) -> None:
    data = tar_of(files, kind)
    assert [tuple(m) for m in members(data)] == by_tarfile(data)
    for member, (_, content) in zip(members(data), files, strict=True):
        assert data[member.offset : member.offset + member.size] == content


def test_ustar_prefix() -> None:
    name = "d" * 90 + "/" + "e" * 40 + "/" + "f" * 60
    assert members(tar_of([(name, b"abc")], tarfile.USTAR_FORMAT))[0].name == name


def test_global_pax_header_holds_for_all_that_follow() -> None:
    data = tar_of([("a", b"1"), ("b", b"2")], tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600})
    assert [tuple(m) for m in members(data)] == by_tarfile(data)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_member_larger_than_octal_can_say(kind: int) -> None:
    """A 9 GiB member whose data is imagined: only headers are asked for."""
    info = tarfile.TarInfo("large.bin")
    info.size = 9 << 30
    head = info.tobuf(kind)
    tail = tar_of([("next.jpg", b"xyz")], kind)

    def read_at(offset: int, size: int) -> bytes:
        assert offset < len(head) or offset >= len(head) + info.size
        whole = head if offset < len(head) else tail
        first = offset if offset < len(head) else offset - len(head) - info.size
        return whole[first : first + size]

    found = list(tar_members(read_at, "x", 0, len(head) + info.size + len(tail)))
    assert [(m.name, m.size) for m in found] == [("large.bin", 9 << 30), ("next.jpg", 3)]


def test_links_devices_and_folders_are_passed_over() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"odd{kind.decode()}.jpg")
            info.type, info.linkname = kind, "../../etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("./real.jpg")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"ok"))
    assert [m.name for m in members(buffer.getvalue())] == ["real.jpg"]


def test_names_that_are_not_utf8_are_kept_apart() -> None:
    data = tar_of([("a\udce9.jpg", b"1"), ("a\udcea.jpg", b"2")])
    assert [m.name for m in members(data)] == ["a\udce9.jpg", "a\udcea.jpg"]


def test_tar_within_a_tar_is_a_range() -> None:
    inner = tar_of([("x.jpg", b"inside")])
    outer = tar_of([("class.tar", inner), ("other", b"1")])
    first = members(outer)[0]
    (found,) = members(outer, first.offset, first.offset + first.size)
    assert outer[found.offset : found.offset + found.size] == b"inside"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_is_noticed(kind: int) -> None:
    data = tar_of([("a/b.jpg", b"1" * 700), ("long" * 20 + "/c.jpg", b""), ("d.jpg", b"2" * 512)], kind)
    whole = len(data.rstrip(b"\0"))
    whole += -whole % 512
    for length in range(0, whole + 512, 64):
        with pytest.raises(TarError, match=r"x\.tar, offset \d+: (cut short|this is no tar)"):
            members(data[:length])
    assert len(members(data[: whole + 512])) == 3


def test_damage_in_a_header_is_noticed() -> None:
    data = bytearray(tar_of([("a.jpg", b"1" * 700), ("b.jpg", b"2")]))
    data[1536 + 5] ^= 1
    with pytest.raises(TarError, match="offset 1536: damaged"):
        members(bytes(data))


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff" * 400])
def test_what_is_no_tar_is_said_so(data: bytes) -> None:
    with pytest.raises(TarError, match="no tar"):
        members(data)


def test_compressed_tar_names_the_remedy() -> None:
    with pytest.raises(TarError, match=r"gzip.*decompress"):
        members(gzip.compress(tar_of([("a", b"1")])))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_ends_in_members_or_a_tar_error(draw: st.DataObject) -> None:
    data = bytearray(
        tar_of([("p" * 120, b"1" * 700), ("b.jpg", b"2")], draw.draw(st.sampled_from(FORMATS[1:])))
    )
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        members(bytes(data))
    except TarError as error:
        assert "x.tar, offset" in str(error)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7"])
def test_reads_what_the_tar_command_writes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    files = {"in/a.jpg": b"1" * 3000, "in/sub/b b.png": b"", "in/sub/c.jpg": b"3" * 512}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    subprocess.run(["tar", f"--format={kind}", "-cf", "out.tar", "in"], cwd=tmp_path, check=True)
    data = (tmp_path / "out.tar").read_bytes()
    assert {m.name: data[m.offset : m.offset + m.size] for m in members(data)} == files
