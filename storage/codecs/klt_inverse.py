"""How do codes become z-scored tokens on the trainer's device: ring by ring the basis, then the DCT.

DCT and basis commute, so the basis is inverted first, one product per ring of frequencies and block with just
the components that the zone holds there, and what no zone holds costs nothing. A code is a small integer and
the basis is kept as bf16 can hold it: products in bf16 with fp32 sums are as exact as fp32's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs.dct import dct_matrix
from storage.codecs.klt_space import Space


class Outliers(NamedTuple):
    """Codes that int8 cannot hold, of a batch."""

    row: Tensor
    """int64 [n]."""
    symbol: Tensor
    """int64 [n]."""
    value: Tensor
    """float32 [n]."""


@dataclass(frozen=True)
class _Ring:
    """The frequencies of one ring, and how many components of each block a zone holds there."""

    first: int
    end: int
    components: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Coefficients per block."""
        return [(self.end - self.first) * count for count in self.components]


def invert(space: Space, plane: Tensor, outliers: Outliers, zone: int) -> Tensor:
    """Tokens [N, B, D] fp32, in steps, of the int8 codes `plane` [B, symbols of the zone] and `outliers`.

    Takes 12 * B * N * D bytes at most, and the codes once more.
    """
    device = plane.device
    places, plan = space.made_on(f"plan {zone}", device, lambda: _plan(space, zone, device))
    basis, starts = space.basis_on(device), np.cumsum([0, *space.basis.widths])
    codes, at = plane.index_select(1, places), 0
    grid = torch.empty(space.tokens, len(plane), space.depth, device=device)
    for ring in plan:
        out = grid[ring.first : ring.end]
        pieces = codes[:, at : at + sum(ring.sizes)].split(ring.sizes, 1)
        at += sum(ring.sizes)
        for piece, rows, start in zip(pieces, basis.operands, starts, strict=False):
            _multiply(piece, rows, out[:, :, start : start + len(rows)])
        if basis.mix is not None:
            out.copy_(basis.unmix(out))
    _add_outliers(space, outliers, grid)
    grid = grid.index_select(0, space.place_on(device))
    return _undo_dct(grid, space.height, space.width)


def _multiply(piece: Tensor, rows: Tensor, out: Tensor) -> None:
    """Codes [B, F * k] of one ring and block, frequency-major, by rows [K, d], into `out` [F, B, d]."""
    count, batch, width = out.shape
    components = piece.shape[1] // count
    if not components:
        out.zero_()
        return
    codes = piece.view(batch, count, components).transpose(0, 1).reshape(-1, components)
    # [F, B] are one axis, whichever block of the width this is
    product(codes, rows[:components], out.as_strided((count * batch, width), out.stride()[1:]))


def product(codes: Tensor, rows: Tensor, out: Tensor) -> None:
    """int8 [n, k] @ [k, d] -> `out` float32 [n, d]: bf16 operands on a GPU, where they are as exact."""
    if codes.device.type == "cuda":
        out.copy_(torch.mm(codes.bfloat16(), rows, out_dtype=torch.float32))
    else:
        torch.mm(codes.float(), rows, out=out)


def _add_outliers(space: Space, outliers: Outliers, grid: Tensor) -> None:
    """Add what int8 left out to frequencies [N, B, D], in fp32 whatever its size."""
    if not len(outliers.value):
        return
    device = grid.device
    place = space.order_on(device).index_select(0, outliers.symbol).long()
    frequency = torch.div(place, space.depth, rounding_mode="floor")
    dense = space.made_on("dense", device, lambda: space.basis_on(device).dense())
    added = dense.index_select(0, place - frequency * space.depth).float() * outliers.value.unsqueeze(1)
    grid.view(-1, space.depth).index_add_(0, frequency * grid.shape[1] + outliers.row, added)


def _undo_dct(grid: Tensor, height: int, width: int) -> Tensor:
    """Frequencies [N, B, D] -> tokens [N, B, D]: two products, nothing is transposed in memory."""
    _, batch, depth = grid.shape
    down = dct_matrix(height, grid.device).T @ grid.view(height, width * batch * depth)
    return (dct_matrix(width, grid.device).T @ down.view(height, width, batch * depth)).view(-1, batch, depth)


def _plan(space: Space, zone: int, device: torch.device) -> tuple[Tensor, list[_Ring]]:
    """Where in a row each coefficient stands, ring by ring, block by block, int64; and the rings."""
    symbol = np.empty(space.symbols, np.int64)
    symbol[space.order()] = np.arange(space.symbols)
    at = symbol.reshape(space.tokens, space.depth)
    places, found, first = [np.empty(0, np.int64)], [], 0
    starts = np.cumsum([0, *space.basis.widths])
    for end, kept in zip(space.ends, space.kept[zone].T, strict=True):
        for start, count in zip(starts, kept, strict=False):
            places.append(at[first:end, start : start + count].ravel())
        found.append(_Ring(first, end, tuple(int(n) for n in kept)))
        first = end
    return torch.from_numpy(np.concatenate(places)).to(device), found
