"""How does a long check show how far it is: a bar for a person, else a plain line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

log = logging.getLogger(__name__)


class Tally:
    """Callable with (done, total) of one kind of thing.

    Args:
        what: the thing counted, in the plural.
        interval_s: between two plain lines.
    """

    def __init__(self, what: str, *, interval_s: float = 5.0) -> None:
        self._what, self._interval_s = what, interval_s
        self._last = time.monotonic()
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done."""
        if sys.stderr.isatty():
            self._draw(done, total)
        elif time.monotonic() - self._last >= self._interval_s:
            self._last = time.monotonic()
            log.info("%d of %d %s", done, total, self._what)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=f" {self._what}")
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
