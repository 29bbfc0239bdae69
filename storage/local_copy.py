"""How what was once read from far away stays near: ranges of a store, kept in a local folder up to a bound.

Training walks a cache pass after pass, and each pass reads everything once. Of such a walk a folder that
drops what was not read for longest keeps nothing: all is dropped right before its turn comes. So what came
first stays, and once the folder is full nothing is added: a folder of a third of the cache serves a third of
every pass. (fsspec's local caches have no bound but age.)

Per object there are two files, both only appended to: `.data` with ranges as they came, and `.index` with an
entry for each, written after its bytes. Every range carries a CRC-32C. So a killed process leaves at worst
bytes that no entry names, and an entry whose bytes are not sound is dropped with its object and read anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.crc import crc32c
from storage.errors import CacheError
from storage.identity import Data, sha256
from storage.store import Range, Store

log = logging.getLogger(__name__)

_ENTRY = np.dtype([("offset", "<u8"), ("size", "<u8"), ("place", "<u8"), ("crc", "<u4"), ("check", "<u4")])
# an object that was read whole has an offset that no range can have
_WHOLE = 2**64 - 1
_KEPT = ("images/", "features/", "samples/")
# of the same names, but they may change
_CHANGING = (".json", ".safetensors")
_NAME, _LOCK = "cutler-", "lock"


class LocalCopy:
    """A store whose objects of images, samples and features are kept in `folder`, at most `room` bytes.

    Threads may share one. Each process takes a folder of its own below `folder`: number `rank` of this
    store's. Those of other stores that no process uses are removed. What cannot be kept (a full disk) is
    read from the store each time, which is said once.

    Raises CacheError where another process uses the same store's folder of the same rank.
    """

    def __init__(self, store: Store, folder: Path, *, room: int, rank: int = 0) -> None:
        self.url = store.url
        self._store, self._room, self._guard = store, room, threading.Lock()
        self._growing, self._full = True, False
        self._folder, lock = _take(folder, f"{_NAME}{sha256(store.url.encode())[:16]}", rank)
        self._release = weakref.finalize(self, os.close, lock)
        self._used = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        log.info("%s holds %.1f GB of %s, at most %.1f", self._folder, self._used / 1e9, self.url, room / 1e9)

    def close(self) -> None:
        """Let another process have the folder; harmless when done already."""
        self._release()

    def read(self, path: str) -> bytes:
        found = self._near(path, [(_WHOLE, 0)])[0]
        if found is None:
            found = self._store.read(path)
            self._keep(path, _WHOLE, found)
        return found

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        return self.read_ranges(path, [(offset, size)])[0]

    def read_ranges(self, path: str, ranges: Sequence[Range]) -> list[bytes]:
        near = self._near(path, ranges)
        far = [want for want, found in zip(ranges, near, strict=True) if found is None]
        fetched = dict(zip(far, self._store.read_ranges(path, far), strict=True)) if far else {}
        for (offset, size), data in fetched.items():
            if len(data) == size:
                self._keep(path, offset, data)
        return [fetched[want] if found is None else found for want, found in zip(ranges, near, strict=True)]

    def drop(self, path: str) -> bool:
        """Forget what is kept of an object; False if that is nothing."""
        freed = 0
        for file in self._files(path):
            with contextlib.suppress(OSError):
                size = file.stat().st_size
                file.unlink()
                freed += size
        with self._guard:
            self._used -= freed
        return freed > 0

    def exists(self, path: str) -> bool:
        return self._store.exists(path)

    def size(self, path: str) -> int:
        return self._store.size(path)

    def list(self, prefix: str = "") -> list[str]:
        return self._store.list(prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        return self._store.folders(prefix)

    def put_new(self, path: str, data: Data) -> bool:
        return self._store.put_new(path, data)

    def replace(self, path: str, data: Data) -> None:
        self._store.replace(path, data)

    def delete(self, path: str) -> None:
        self._store.delete(path)

    def local_path(self, path: str) -> Path | None:
        return self._store.local_path(path)

    def _files(self, path: str) -> tuple[Path, Path]:
        return self._folder / f"{path}.data", self._folder / f"{path}.index"

    def _near(self, path: str, ranges: Sequence[Range]) -> Sequence[bytes | None]:
        """What the folder has of the ranges, checked; None for the others."""
        nothing = [None] * len(ranges)
        if not _kept(path):
            return nothing
        data, index = self._files(path)
        try:
            places = _find_places(index, ranges)
            parts = _read_places(data, places)
        except FileNotFoundError:
            return nothing
        except OSError as error:
            self._give_up(error)
            return nothing
        for place, part in zip(places, parts, strict=True):
            if place and part is not None and crc32c(part) != place.crc:
                log.warning("%s is damaged; %s is read again from %s", data, path, self.url)
                self.drop(path)
                return nothing
        return parts

    def _keep(self, path: str, offset: int, data: bytes) -> None:
        """Append a range to what is kept, if there is room."""
        if not _kept(path):
            return
        needed = len(data) + _ENTRY.itemsize
        with self._guard:
            fits = self._growing and self._used + needed <= self._room
            self._used += needed if fits else 0
            full, self._full = self._growing and not fits and not self._full, self._full or not fits
        if full:
            log.info("%s is full; the rest is read from %s in every pass", self._folder, self.url)
        if not fits:
            return
        file, index = self._files(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            place = _append(file, data)
            entry = np.array((offset, len(data), place, crc32c(data), 0), _ENTRY)
            entry["check"] = _check(entry)
            _append(index, entry.tobytes())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Keep nothing more; what is kept is still tried."""
        with self._guard:
            growing, self._growing = self._growing, False
        if growing:
            log.warning(
                "%s takes no more (%s); the rest is read from %s each time", self._folder, error, self.url
            )


class _Place(NamedTuple):
    at: int
    size: int
    crc: int


def _kept(path: str) -> bool:
    return path.startswith(_KEPT) and not path.endswith(_CHANGING)


def _find_places(index: Path, ranges: Sequence[Range]) -> list[_Place | None]:
    """Where the ranges of an object are in its data; an entry that is not sound is none."""
    data = index.read_bytes()
    entries = np.frombuffer(data, _ENTRY, len(data) // _ENTRY.itemsize)
    return [_find(entries, offset, size) for offset, size in ranges]


def _find(entries: NDArray[np.void], offset: int, size: int) -> _Place | None:
    for row in np.flatnonzero(entries["offset"] == np.uint64(offset))[::-1]:
        entry = entries[row]
        fits = offset == _WHOLE or int(entry["size"]) == size
        if fits and _check(entry) == int(entry["check"]):
            return _Place(int(entry["place"]), int(entry["size"]), int(entry["crc"]))
    return None


def _read_places(data: Path, places: Sequence[_Place | None]) -> Sequence[bytes | None]:
    if not any(places):
        return [None] * len(places)
    with data.open("rb", buffering=0) as file:
        return [place and os.pread(file.fileno(), place.size, place.at) for place in places]


def _check(entry: np.void | NDArray[np.void]) -> int:
    """CRC-32C of an entry without its last field."""
    return int(crc32c(entry.tobytes()[:-4]))


def _append(path: Path, data: bytes) -> int:
    """Append to a file, whole; where the data begin. Another thread's come before or after, never between."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        written = os.write(descriptor, data)
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
    if written < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return end - written


def _take(folder: Path, name: str, rank: int) -> tuple[Path, int]:
    """The folder of a store and rank, and a descriptor whose lock keeps other processes out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = _lock(folder, wait=True)
    try:
        for other in folder.glob(f"{_NAME}*"):
            if other.name != name:
                _remove_unused(other)
        mine = folder / name / str(rank)
        mine.mkdir(parents=True, exist_ok=True)
        held = _lock(mine, wait=False)
    except BlockingIOError:
        what = f"another process keeps rank {rank}'s copy of the same cache in {folder}"
        raise CacheError(f"{what}; set stage1.local_cache to another folder for this run") from None
    finally:
        os.close(everything)
    for index in mine.rglob("*.index"):
        # a disk that was full may have cut the last entry short
        os.truncate(index, index.stat().st_size // _ENTRY.itemsize * _ENTRY.itemsize)
    return mine, held


def _lock(folder: Path, *, wait: bool) -> int:
    """Take a folder's lock, which ends with the process; raises BlockingIOError if another one has it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_unused(folder: Path) -> None:
    """Remove another store's copies, unless a process uses one of them."""
    held = []
    try:
        held = [_lock(rank, wait=False) for rank in folder.iterdir()]
        shutil.rmtree(folder)
    except BlockingIOError:
        log.info("%s is in use and stays", folder)
    finally:
        for descriptor in held:
            os.close(descriptor)
