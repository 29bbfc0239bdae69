"""How objects are kept in a local folder, and read from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.atomic import TEMPORARY, replace_file, sync, write_beside
from storage.errors import CacheError
from storage.identity import Data
from storage.open_files import OpenFiles


class LocalStore:
    """A folder. New objects are written beside their place, synced, then linked into it (fails if taken)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self._open_files = OpenFiles(self._path)

    def _path(self, path: str) -> Path:
        if path.startswith("/") or ".." in path.split("/"):
            raise CacheError(
                f"object name {path!r} leads out of the cache {self.url}; the document naming it is not ours"
            )
        return self.root / path

    def read(self, path: str) -> bytes:
        return self._path(path).read_bytes()

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        return self.read_ranges(path, [(offset, size)])[0]

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        file = self._open_files.get(path)
        return [_pread(file.descriptor, offset, size) for offset, size in ranges]

    def exists(self, path: str) -> bool:
        return self._path(path).is_file()

    def size(self, path: str) -> int:
        return self._path(path).stat().st_size

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self._walk(prefix.rstrip("/")))

    def _walk(self, folder: str) -> Iterator[str]:
        for entry in _entries(self._path(folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from self._walk(path)
            elif not entry.name.startswith(TEMPORARY):
                yield path

    def folders(self, prefix: str) -> Sequence[str]:
        # a folder outlives what was deleted from it; in an object store there is none without an object
        found = [entry.name for entry in _entries(self._path(prefix)) if entry.is_dir()]
        return sorted(name for name in found if any(self._walk(f"{prefix}/{name}" if prefix else name)))

    def put_new(self, path: str, data: Data) -> bool:
        target = self._path(path)
        if target.exists():
            return False
        temporary = write_beside(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise CacheError(
                f"the file system of {self.root} refuses hard links ({error.strerror}), which make a commit "
                "exclusive; put the cache on another file system or in an object store"
            ) from None
        finally:
            temporary.unlink()
        sync(target.parent)
        return True

    def replace(self, path: str, data: Data) -> None:
        replace_file(self._path(path), data)
        self._open_files.forget(path)

    def delete(self, path: str) -> None:
        self._path(path).unlink(missing_ok=True)
        self._open_files.forget(path)

    def local_path(self, path: str) -> Path | None:
        return self._path(path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    # one call moves at most 2 GiB and may be cut short by a signal
    parts: list[bytes] = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
