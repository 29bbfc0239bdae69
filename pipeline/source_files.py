"""Which files lie at a source's path, on a disk or at a URL: names relative to a root, and sizes."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec

log = logging.getLogger(__name__)

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "jp2"})
"""Names of photos end in one of these, in any case."""

_MAGIC = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


class SourceError(ValueError):
    """The source is not what the recipe says; the message names the path and the remedy."""


def is_photo(name: str) -> bool:
    """Whether a relative path is visible and ends like a photo's."""
    _, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in EXTENSIONS and _visible(name)


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Relative path and size (bytes) of every photo below a folder or URL, in no order; links are followed.

    Raises:
        SourceError: there is no such folder.
    """
    if "://" in folder:
        yield from _remote_files(folder)
        return
    root = Path(folder).expanduser()
    if not root.is_dir():
        what = "is a file, source.kind = folder wants a folder" if root.exists() else "is not there"
        raise SourceError(f"source.path {folder} {what}; name the folder that holds the images")
    left_out: list[str] = []
    yield from _walk(root, "", frozenset(), left_out)
    if left_out:
        log.warning("%s: %d unreadable names left out, the first: %s", folder, len(left_out), left_out[0])


def tar_root(path: str) -> str:
    """Folder that the names of tars are relative to: the last one before a `*`, `?`, `[`, `{` or the tar."""
    pattern = _as_pattern(path)
    magic = _MAGIC.search(pattern)
    head, slash, _ = pattern[: magic.start() if magic else None].rpartition("/")
    return head or slash or "."


def tars_at(path: str) -> dict[str, int]:
    """Name relative to `tar_root` -> size (bytes) of each tar.

    `path` is a tar, a folder of tars, a glob, or a list `{a,b}` or `{000..099}`.

    Raises:
        SourceError: nothing is there, or one of the tars that `{}` lists is missing.
    """
    filesystem, base = fsspec.core.url_to_fs(_expanded(tar_root(path)))
    tars: dict[str, int] = {}
    for pattern in _alternatives(_as_pattern(path)):
        relative = pattern.removeprefix(tar_root(path)).lstrip("/")
        found = filesystem.glob(f"{base.rstrip('/')}/{relative}", detail=True)
        if not found:
            raise SourceError(
                f"source.path {path}: no file {pattern}; name tars, or the folder that holds them"
            )
        files = ((name, info) for name, info in found.items() if info["type"] != "directory")
        tars |= {_relative(name, base): int(info["size"]) for name, info in files}
    return dict(sorted(tars.items()))


def _as_pattern(path: str) -> str:
    """A folder stands for the tars in it."""
    plain = path.lower().endswith(".tar") or _MAGIC.search(path)
    return path if plain else path.rstrip("/") + "/*.tar"


def _expanded(folder: str) -> str:
    return folder if "://" in folder else str(Path(folder).expanduser())


def _alternatives(pattern: str) -> list[str]:
    """Every name that `{a,b}` and `{000..099}` stand for."""
    if match := _RANGE.search(pattern):
        first, last = match[1], match[2]
        words = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    elif match := _CHOICE.search(pattern):
        words = match[1].split(",")
    else:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for word in words for name in _alternatives(head + word + tail)]


def _visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _relative(name: str, base: str) -> str:
    return name.removeprefix(base.rstrip("/") + "/")


def _remote_files(url: str) -> Iterator[tuple[str, int]]:
    filesystem, base = fsspec.core.url_to_fs(url)
    if not filesystem.isdir(base):
        raise SourceError(f"source.path {url} is no folder there; name the folder that holds the images")
    for name, info in filesystem.find(base, detail=True).items():
        if is_photo(relative := _relative(name, base)):
            yield relative, int(info["size"])


def _walk(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], left_out: list[str]
) -> Iterator[tuple[str, int]]:
    """Photos below `folder`; a link to one of the folders above it is a loop and is not followed."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                continue
            found = _status(entry)
            if found is None or not _is_utf8(entry.name):
                left_out.append(name.encode("utf-8", "backslashreplace").decode())
            elif stat.S_ISDIR(found.st_mode):
                yield from _walk(folder / entry.name, f"{name}/", above | {identity}, left_out)
            elif stat.S_ISREG(found.st_mode) and is_photo(entry.name):
                yield name, found.st_size


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a link to nothing, or to itself
        return None


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
