"""How is a file written whole or not at all, and on the disk before anyone is told?"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import ExitStack
from pathlib import Path

from storage.identity import Data

TEMPORARY = ".tmp-"
"""Start of the name of a file being written; one left behind by a crash is no object and harms nobody."""


def replace_file(path: Path, data: Data) -> None:
    """Write a file over what was there; its folder is made if need be."""
    write_beside(path, data).replace(path)
    sync(path.parent)


def write_json(path: Path, document: object) -> None:
    """Write a document for people and other programs over what was there, its keys in the order given."""
    replace_file(path, json.dumps(document, indent=1).encode() + b"\n")


def write_beside(target: Path, data: Data) -> Path:
    """Write and sync a temporary file in the folder of `target`, to be renamed or linked; its path."""
    _make_folder(target.parent)
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    with ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        with temporary.open("xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        undo.pop_all()
    return temporary


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)
