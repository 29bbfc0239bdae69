"""Stores: the same few calls on a folder and on an fsspec URL, whole objects or none, one creator."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import CacheError
from storage.identity import sha256
from storage.local import LocalStore
from storage.store import RemoteStore, Store, measure, open_store


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(
        str(tmp_path / "a b") if request.param == "folder" else f"memory://{uuid.uuid4()}/cache"
    )


def test_objects_come_back(store: Store) -> None:
    assert store.put_new("a/b/c.bin", b"0123456789")
    assert store.put_new("a/d.bin", [b"01", b"", b"23"])
    assert store.read("a/b/c.bin") == b"0123456789" and store.read("a/d.bin") == b"0123"
    assert store.read_range("a/b/c.bin", 3, 4) == b"3456"
    assert store.read_ranges("a/b/c.bin", [(8, 5), (0, 2), (4, 1)]) == [b"89", b"01", b"4"]
    assert store.size("a/d.bin") == 4 and store.exists("a/d.bin") and not store.exists("a")
    assert measure(store, "a/d.bin") == (4, sha256(b"0123"))


def test_listing(store: Store) -> None:
    assert store.list() == [] and list(store.folders("a")) == []
    for path in ("a/x/2", "a/x/1", "a/y", "ab/z", "c"):
        store.put_new(path, b"")
    assert store.list() == ["a/x/1", "a/x/2", "a/y", "ab/z", "c"]
    assert store.list("a/") == ["a/x/1", "a/x/2", "a/y"]
    assert store.list("nothing/") == []
    assert list(store.folders("")) == ["a", "ab"] and list(store.folders("a")) == ["x"]
    store.delete("ab/z")
    assert list(store.folders("")) == ["a"], "a folder is there while it holds an object"


def test_creating_replacing_deleting(store: Store) -> None:
    assert store.put_new("x", b"first")
    assert not store.put_new("x", b"second") and store.read("x") == b"first"
    store.replace("x", [b"thi", b"rd"])
    assert store.read("x") == b"third"
    store.delete("x")
    store.delete("x")
    assert not store.exists("x") and store.put_new("x", b"again")


def test_what_is_not_there(store: Store) -> None:
    store.put_new("x", b"")
    for call in (
        store.read,
        store.size,
        lambda path: store.read_range(path, 0, 1),
        lambda path: measure(store, path),
    ):
        with pytest.raises(FileNotFoundError):
            call("nothing")


@pytest.mark.parametrize("size", [0, 1, 1 << 25, (1 << 25) + 1])
def test_objects_are_measured_in_blocks_within_their_size(
    store: Store, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """S3 refuses a range that begins at the end: whole blocks of 16 MiB, and nothing, end where one would."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    store.put_new("big", data)
    read, ranges = store.read_range, list[tuple[int, int]]()

    def noted(path: str, offset: int, count: int) -> bytes:
        ranges.append((offset, count))
        return read(path, offset, count)

    monkeypatch.setattr(store, "read_range", noted)
    assert measure(store, "big") == (size, sha256(data))
    assert all(count > 0 and offset + count <= size for offset, count in ranges)
    assert sum(count for _, count in ranges) == size


def test_one_of_many_creates(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for attempt in range(20):
        barrier = threading.Barrier(8)

        def create(writer: int, attempt: int = attempt, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return store.put_new(f"dir{attempt}/x", bytes([writer]) * 1000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert sum(won) == 1
        assert store.read(f"dir{attempt}/x") == bytes([won.index(True)]) * 1000
    assert not list(tmp_path.glob("*/.tmp-*"))


def test_a_killed_writer_leaves_no_object(tmp_path: Path) -> None:
    """The writer is killed, for real, between two pieces of an object."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from storage.local import LocalStore\n"
        "def pieces():\n"
        "    yield b'x' * 100_000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalStore(Path(sys.argv[1])).put_new('a/x', pieces())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    store = LocalStore(tmp_path)
    assert len(list((tmp_path / "a").iterdir())) == 1, "what was half written is under another name"
    assert store.list() == [] and not store.exists("a/x")
    assert store.put_new("a/x", b"whole") and store.read("a/x") == b"whole"


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def pieces():
        yield b"x"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        LocalStore(tmp_path).put_new("x", pieces())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(CacheError, match="leads out"):
        LocalStore(tmp_path).read(path)


def test_urls(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    assert open_store(str(tmp_path)).local_path("a/b") == tmp_path / "a/b"
    remote = open_store("memory://x/y")
    assert isinstance(remote, RemoteStore) and remote.local_path("a") is None


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(CacheError, match="refuses hard links"):
        LocalStore(tmp_path).put_new("x", b"")
    assert not list(tmp_path.iterdir())
