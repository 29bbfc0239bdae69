"""What stands in a row of klt codes besides the codes: steps, zones, escapes.

A row is int16: the codes of each group of levels; then per group its rung j and the number of the zone that
holds all that is not 0; then int32 numbers as pairs of int16: how many escapes, and for each (symbol, what to
add).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TOP = 2**15 - 1
"""Largest magnitude of a code; -2^15 stays free for zarr's empty rows."""


class Head(NamedTuple):
    """What one group of a row says of itself."""

    rung: int
    zone: int


@dataclass(frozen=True)
class RowLayout:
    """Where things stand in a row of `values` codes, `groups` heads and up to `room` escapes."""

    values: int
    groups: int
    room: int

    @property
    def symbols(self) -> int:
        """Length of a row."""
        return self._escapes + 2 + 4 * self.room

    @property
    def _escapes(self) -> int:
        return self.values + 2 * self.groups

    def write_heads(self, rows: np.ndarray, group: int, rung: np.ndarray, zone: np.ndarray) -> None:
        """Heads of one group into `rows` [B, symbols]."""
        rows[:, self.values + 2 * group] = rung
        rows[:, self.values + 2 * group + 1] = zone

    def head(self, row: np.ndarray, group: int) -> Head:
        """The head of one group of `row` [symbols]."""
        rung, zone = row[self.values + 2 * group : self.values + 2 * group + 2]
        return Head(int(rung), int(zone))

    def write_escapes(self, row: np.ndarray, escapes: np.ndarray) -> bool:
        """Put (symbol, what to add) [n, 2], whole numbers, into `row`; False if they do not fit."""
        if len(escapes) > self.room or (np.abs(escapes) >= 2**31).any():
            return False
        flat = np.concatenate([[len(escapes)], escapes.ravel()]).astype("<i4")
        row[self._escapes : self._escapes + 2 * len(flat)] = flat.view("<i2")
        return True

    def escapes(self, row: np.ndarray) -> np.ndarray:
        """(symbol, what to add) [n, 2] of `row`, int32."""
        # the copy aligns what may stand at an odd symbol
        numbers = row[self._escapes :].copy().view("<i4")
        return numbers[1 : 1 + 2 * numbers[0]].reshape(-1, 2)
