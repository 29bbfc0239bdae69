"""How do codes travel to the trainer's device: an int8 plane per zone and a sparse list of what int8 lacks.

Both steps run in the stream's threads: `thin` on one row, `collate` on a batch, whose tensors are pinned for
a GPU. Pinned memory is torch's caching host allocator's: blocks of a batch that was decoded are used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs.klt_inverse import Outliers
from storage.codecs.klt_rows import Head, RowLayout
from storage.codecs.klt_steps import step_of
from storage.errors import FormatError

_BYTE = 127
# of fp32 frequencies that are inverted at a time
_PART_BYTES = 256 << 20


class Piece(NamedTuple):
    """What one group of a row is decoded from."""

    head: Head
    plane: np.ndarray
    """Codes int8 [symbols of the zone]; 0 where an outlier stands."""
    symbol: np.ndarray
    """Outliers' symbols, int64 [n]."""
    value: np.ndarray
    """Outliers' values, float32 [n]."""


Row = tuple[Piece, ...]
"""One row, group by group."""


class Part(NamedTuple):
    """Rows of a batch whose codes lie in the same zone, as many as are inverted at a time."""

    zone: int
    rows: Tensor
    """int64 [b]."""
    plane: Tensor
    """int8 [b, symbols of the zone]."""
    steps: Tensor
    """float32 [b]."""
    outliers: Outliers

    def on(self, device: torch.device) -> Part:
        """The same on `device`, without waiting when it is pinned."""
        if device.type == "cpu":
            return self
        rows, plane, steps, *rest = (
            tensor.to(device, non_blocking=True)
            for tensor in (self.rows, self.plane, self.steps, *self.outliers)
        )
        return Part(self.zone, rows, plane, steps, Outliers(*rest))


class Batch(NamedTuple):
    """A batch of rows as host tensors."""

    size: int
    missing: Tensor
    """Rows that are None, int64."""
    groups: tuple[tuple[Part, ...], ...]


def thin(codes: np.ndarray, layout: RowLayout, groups: Sequence[tuple[int, Sequence[int]]]) -> Row:
    """A row of int16 codes for the journey; `groups` are (first symbol, symbols of each zone).

    Raises FormatError for a row whose head makes no sense.
    """
    escapes = layout.escapes(codes)
    pieces = []
    for index, (first, zones) in enumerate(groups):
        head = layout.head(codes, index)
        if not 0 <= head.zone < len(zones):
            raise FormatError(f"a record names zone {head.zone} of {len(zones)}; is it another codec's?")
        wide = codes[first : first + zones[head.zone]]
        plane = wide.astype(np.int8)
        symbol = _beyond(wide)
        value = wide[symbol].astype(np.float64)
        plane[symbol] = 0
        here = escapes[(escapes[:, 0] >= first) & (escapes[:, 0] < first + len(wide))].astype(np.int64)
        # what is escaped is also beyond int8: it is in the list already
        at = np.searchsorted(symbol, here[:, 0] - first)
        if (at >= len(symbol)).any() or (symbol[at] != here[:, 0] - first).any():
            raise FormatError("a record escapes what is no code beyond int16; is it another codec's?")
        value[at] += here[:, 1]
        pieces.append(Piece(head, plane, symbol, value.astype(np.float32)))
    return tuple(pieces)


def _beyond(codes: np.ndarray) -> np.ndarray:
    """Where int16 codes are no int8, int64: looked for only as far as there are such, for they come first."""
    found, page = [np.empty(0, np.int64)], 1 << 16
    for start in range(0, len(codes), page):
        some = codes[start : start + page]
        if some.max() > _BYTE or some.min() < -_BYTE:
            found.append(start + np.flatnonzero(np.abs(some) > _BYTE))
    return np.concatenate(found)


def collate(rows: Sequence[Row | None], zones: Sequence[Sequence[int]], *, pinned: bool) -> Batch:
    """Rows as host tensors, grouped by zone; `zones` are the symbols of each zone of each group."""
    missing = [number for number, row in enumerate(rows) if row is None]
    groups = []
    for index, sizes in enumerate(zones):
        held = [(number, row[index]) for number, row in enumerate(rows) if row is not None]
        most = max(1, _PART_BYTES // (4 * sizes[-1]))
        parts = []
        for zone, symbols in enumerate(sizes):
            inside = [pair for pair in held if pair[1].head.zone == zone]
            chunks = [inside[first : first + most] for first in range(0, len(inside), most)]
            parts += [_part(zone, chunk, symbols, pinned=pinned) for chunk in chunks]
        groups.append(tuple(parts))
    return Batch(len(rows), _tensor(missing, torch.int64, pinned=pinned), tuple(groups))


def _part(zone: int, chunk: Sequence[tuple[int, Piece]], symbols: int, *, pinned: bool) -> Part:
    numbers, pieces = zip(*chunk, strict=True)
    plane = torch.empty((len(pieces), symbols), dtype=torch.int8, pin_memory=pinned)
    for target, piece in zip(plane.numpy(), pieces, strict=True):
        target[:] = piece.plane
    row = np.repeat(np.arange(len(pieces)), [len(piece.symbol) for piece in pieces])
    outliers = Outliers(
        _tensor(row, torch.int64, pinned=pinned),
        _tensor(np.concatenate([piece.symbol for piece in pieces]), torch.int64, pinned=pinned),
        _tensor(np.concatenate([piece.value for piece in pieces]), torch.float32, pinned=pinned),
    )
    steps = step_of(torch.tensor([piece.head.rung for piece in pieces])).flatten().tolist()
    return Part(
        zone,
        _tensor(numbers, torch.int64, pinned=pinned),
        plane,
        _tensor(steps, torch.float32, pinned=pinned),
        outliers,
    )


def _tensor(numbers: Sequence[float] | np.ndarray, dtype: torch.dtype, *, pinned: bool) -> Tensor:
    host = torch.empty(len(numbers), dtype=dtype, pin_memory=pinned)
    host.numpy()[:] = numbers
    return host
