"""Folders and tars, here or behind a URL, give stable unique keys and the bytes that were put in."""

from __future__ import annotations

import gc
import io
import os
import pickle
import shutil
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pytest
import webdataset

from pipeline.config import SourceConfig
from pipeline.source_files import SourceError, is_photo
from pipeline.sources import Source, open_source
from pipeline.tar_index import TarError

FILES = {
    "n01/a.JPEG": b"first",
    "n01/a.png": b"second, of the same stem",
    "n02/deep/er/b c.jpg": b"third",
    "Ünïcode/雪.webp": b"fourth",
    "n02/dotted.name.v2.jpg": b"fifth",
    "empty.jpg": b"",
}


def source(kind: str, path: object) -> Source:
    return open_source(SourceConfig(kind=kind, path=str(path)))


def contents(from_source: Source) -> dict[str, bytes]:
    """Name -> bytes of everything indexed, with the index's own promises checked on the way."""
    table = from_source.index()
    assert table.schema == pa.schema(
        [("key", pa.string()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]
    )
    keys = table["key"].to_pylist()
    assert keys == sorted(keys, key=str.encode) and len(set(keys)) == len(keys)
    assert not any("." in key for key in keys)
    rows = table.to_pylist()
    return {
        unquote(r["key"], errors="surrogateescape"): from_source.read(r["path"], r["offset"], r["size"])
        for r in rows
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def upload(filesystem: fsspec.AbstractFileSystem, folder: Path, to: str) -> str:
    for path in (p for p in folder.rglob("*") if p.is_file()):
        filesystem.pipe_file(f"/{to}/{path.relative_to(folder)}", path.read_bytes())
    return f"memory://{to}"


def test_folder_keys_are_relative_and_move_with_it(tmp_path: Path) -> None:
    here = source("folder", write(tmp_path / "here", FILES))
    assert contents(here) == FILES
    shutil.copytree(tmp_path / "here", tmp_path / "else" / "where")
    there = source("folder", f"{tmp_path}/else/where/")
    assert there.index() == here.index() and there.fingerprint() == here.fingerprint()


def test_folder_behind_a_url_is_the_same(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    local = source("folder", write(tmp_path / "here", FILES | {".cache/x.jpg": b"1", "labels.txt": b"2"}))
    remote = source("folder", upload(memory, tmp_path / "here", "bucket/in"))
    assert remote.index() == local.index() and contents(remote) == FILES


def test_only_visible_photos_count(tmp_path: Path) -> None:
    others = {".hidden.jpg": b"1", ".git/a.jpg": b"2", "labels.csv": b"3", "jpg": b"4", "a.jpg.txt": b"5"}
    assert contents(source("folder", write(tmp_path, FILES | others))) == FILES
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert contents(source("folder", tmp_path)) == FILES


def test_links_are_followed_and_loops_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "in", {"a/x.jpg": b"x"})
    write(tmp_path / "out", {"y.jpg": b"y"})
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/up").symlink_to("..")
    (tmp_path / "in/linked").symlink_to(tmp_path / "out")
    (tmp_path / "in/self.jpg").symlink_to("self.jpg")
    (tmp_path / "in/gone.jpg").symlink_to("nowhere.jpg")
    assert contents(source("folder", tmp_path / "in")) == {"a/x.jpg": b"x", "linked/y.jpg": b"y"}
    assert "2 unreadable names left out" in caplog.text


def test_name_that_is_not_utf8_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"a.jpg": b"1"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.jpg")).write_bytes(b"2")
    assert contents(source("folder", tmp_path)) == {"a.jpg": b"1"}
    assert r"\xe9.jpg" in caplog.text.replace("\\udce9", r"\xe9")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_tars_give_what_stock_webdataset_gives(tmp_path: Path) -> None:
    for t in range(3):
        with webdataset.TarWriter(str(tmp_path / f"train-{t:02d}.tar")) as sink:
            for i in range(20):
                sink.write({"__key__": f"sub/{i:04d}", "jpg": f"{t} {i}".encode(), "cls": str(i).encode()})
    found = contents(source("wds", tmp_path))
    stock = webdataset.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False)
    expected = {f"{Path(s['__url__']).name}/{s['__key__']}.jpg": s["jpg"] for s in stock}
    del stock
    gc.collect()  # webdataset leaves its files to the collector, which would complain in another test
    assert found == expected and len(found) == 60


def test_webdataset_extension_is_what_follows_the_first_dot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "1.jpg": b"a",
        "1.seg.png": b"mask",
        "2.JPG": b"b",
        "v1.0/3.png": b"c",
        ".4.jpg": b"d",
        "5.txt": b"e",
    }
    found = contents(source("wds", write_tar(tmp_path / "t.tar", files)))
    assert found == {"t.tar/1.jpg": b"a", "t.tar/2.JPG": b"b", "t.tar/v1.0/3.png": b"c"}
    assert "1 members left out, the first: 1.seg.png" in caplog.text


def test_one_tar_folder_glob_and_list_give_the_same_keys(
    tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    for t in range(3):
        write_tar(tmp_path / f"t{t:02d}.tar", {"same.jpg": f"{t}".encode()})
    whole = source("wds", tmp_path).index()
    assert whole["key"].to_pylist() == [f"t0{t}%2Etar/same%2Ejpg" for t in range(3)]
    url = upload(memory, tmp_path, "bucket/tars")
    for root in (str(tmp_path), url):
        for pattern in ("t*.tar", "t{00..02}.tar", "{t00,t01,t02}.tar", "t0[0-9].tar", ""):
            assert source("wds", f"{root}/{pattern}".rstrip("/")).index() == whole
        one = source("wds", f"{root}/t01.tar")
        assert one.index() == whole.slice(1, 1) and contents(one) == {"t01.tar/same.jpg": b"1"}


def test_linked_tar(tmp_path: Path) -> None:
    write_tar(tmp_path / "real.tar", {"a.jpg": b"12"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.tar").symlink_to(tmp_path / "real.tar")
    assert contents(source("wds", tmp_path / "in")) == {"link.tar/a.jpg": b"12"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_imagenet_tar_has_the_keys_of_its_folder(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, kind: int
) -> None:
    photos = {f"n{c:08d}/n{c:08d}_{i}.JPEG": os.urandom(300 * i + c) for c in range(5) for i in range(7)}
    inner = {}
    for c in range(5):
        mine = {Path(name).name: data for name, data in photos.items() if name.startswith(f"n{c:08d}/")}
        inner[f"n{c:08d}.tar"] = write_tar(tmp_path / "class.tar", mine, kind).read_bytes()
    write_tar(tmp_path / "train.tar", inner, kind)
    from_tar, from_folder = (
        source("imagenet_tar", tmp_path / "train.tar"),
        source("folder", write(tmp_path / "f", photos)),
    )
    assert contents(from_tar) == contents(from_folder) == photos
    assert from_tar.fingerprint() == from_folder.fingerprint()
    memory.pipe_file("/b/train.tar", (tmp_path / "train.tar").read_bytes())
    assert source("imagenet_tar", "memory://b/train.tar").index() == from_tar.index()


def test_imagenet_validation_tar_is_flat(tmp_path: Path) -> None:
    photos = {f"ILSVRC2012_val_{i:08d}.JPEG": b"%d" % i for i in range(9)}
    assert contents(source("imagenet_tar", write_tar(tmp_path / "val.tar", photos))) == photos


def test_of_a_name_that_occurs_twice_the_last_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(tmp_path / "t.tar", {"a.jpg": b"old", "./a.jpg": b"new", "b.jpg": b"only"})
    assert contents(source("wds", tmp_path / "t.tar")) == {"t.tar/a.jpg": b"new", "t.tar/b.jpg": b"only"}
    assert "1 names occur twice" in caplog.text


def test_cut_tar_within_a_tar_is_named_with_its_offset(tmp_path: Path) -> None:
    inner = write_tar(tmp_path / "i.tar", {"a.JPEG": b"1" * 900, "b.JPEG": b"2" * 900}).read_bytes()
    write_tar(tmp_path / "train.tar", {"n01.tar": inner, "n02.tar": inner[:2048]})
    with pytest.raises(TarError, match=r"train\.tar/n02\.tar, offset \d+: cut short"):
        source("imagenet_tar", tmp_path / "train.tar").index()


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("folder", "", "source.path is empty"),
        ("folder", "{tmp}/nowhere", "is not there"),
        ("folder", "{tmp}/t.tar", "is a file"),
        ("folder", "{tmp}/none", "holds no image"),
        ("folder", "memory://nowhere", "is no folder"),
        ("wds", "{tmp}/none", "no file"),
        ("wds", "{tmp}/nowhere.tar", "no file"),
        ("wds", "{tmp}/{t,u}.tar", "no file .*u.tar"),
        ("wds", "{tmp}/t.tar", "holds no image"),
        ("imagenet_tar", "{tmp}", "names 2 tars"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, kind: str, path: str, message: str) -> None:
    (tmp_path / "none").mkdir()
    for name in ("t.tar", "t2.tar"):
        write_tar(tmp_path / name, {"readme.txt": b"1"})
    with pytest.raises(SourceError, match=message) as caught:
        source(kind, path.replace("{tmp}", str(tmp_path))).index()
    assert "\n" not in str(caught.value)


def test_source_that_changed_is_refused(tmp_path: Path) -> None:
    changed = source("folder", write(tmp_path, {"a.jpg": b"123"}))
    (row,) = changed.index().to_pylist()
    (tmp_path / "a.jpg").write_bytes(b"1234")
    with pytest.raises(SourceError, match=r"a\.jpg gave 4 bytes where 3 were indexed"):
        changed.read(row["path"], row["offset"], row["size"])
    assert source("folder", tmp_path).fingerprint() != changed.fingerprint()


def test_travels_to_another_process_and_serves_threads(tmp_path: Path) -> None:
    first = source("wds", write_tar(tmp_path / "t.tar", {f"{i}.jpg": bytes([i]) * i for i in range(100)}))
    rows = first.index().to_pylist()
    copy = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 2000
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda r: copy.read(r["path"], r["offset"], r["size"]), rows * 5))
    assert read == [first.read(r["path"], r["offset"], r["size"]) for r in rows * 5]


def test_index_reads_headers_only(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos of 8 MiB behind a URL: one block per header, not the photo."""
    write_tar(tmp_path / "t.tar", {f"{i}.jpg": bytes(16 << 20) for i in range(4)})
    memory.pipe_file("/b/t.tar", (tmp_path / "t.tar").read_bytes())
    fetched = []
    original = type(memory).cat_file

    def counting(
        self: object, path: str, start: int | None = None, end: int | None = None, **more: object
    ) -> bytes:
        data = original(self, path, start, end, **more)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(type(memory), "cat_file", counting)
    assert len(source("wds", "memory://b/t.tar").index()) == 4
    assert sum(fetched) < 5 * (4 << 20) + 1024


def test_indexing_costs_microseconds_per_member(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    header = tarfile.TarInfo("x")
    with path.open("wb") as file:
        for i in range(20_000):
            header.name = f"n{i % 1000:08d}/{i}.jpg"
            file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))
    start = time.process_time()
    assert len(source("wds", path).index()) == 20_000
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "name", ["a.JPG", "x/y.jpeg", "x.y.z.Png", "a.webp", "a.tif", "a.TIFF", "a.gif", "a.ppm", "a.bmp"]
)
def test_photos_by_name(name: str) -> None:
    assert (
        is_photo(name)
        and not is_photo(f".{name}")
        and not is_photo(f".x/{name}")
        and not is_photo(f"{name}~")
    )
