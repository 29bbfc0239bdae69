"""Which files stay open between two reads: the last few, so that a read is one call to the system.

Opening costs little on a local disk and a round trip or more on a network file system.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

# of the 1,024 that a process may usually have
_MOST = 256


class OpenFile:
    """A file open for reading, closed when nobody refers to it: not while another thread reads it."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


class OpenFiles:
    """The `most` files read last, by path. Threads may share it; `place` says where a path's file is."""

    def __init__(self, place: Callable[[str], Path], most: int = _MOST) -> None:
        self._place = place
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, path: str) -> OpenFile:
        """The file, opened unless it is open. Raises FileNotFoundError."""
        with self._guard:
            if (file := self._files.get(path)) is not None:
                self._files.move_to_end(path)
                return file
        # opening may take long, and nobody should wait for another's file
        file = OpenFile(os.open(self._place(path), os.O_RDONLY | os.O_CLOEXEC))
        with self._guard:
            self._files[path] = file
            dropped = self._files.popitem(last=False) if len(self._files) > self._most else None
        del dropped
        return file

    def forget(self, path: str) -> None:
        """Let go of a file that was deleted or replaced."""
        with self._guard:
            dropped = self._files.pop(path, None)
        del dropped
