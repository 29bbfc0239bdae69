"""How do codes become z-scored tokens on the trainer's device: band by band the basis, then the DCT.

DCT and basis commute, so the basis is inverted first, one product per band of frequencies and block with just
the components that the zone holds there, and what no zone holds costs next to nothing. A code is a small
integer and the basis is kept as bf16 can hold it: products in bf16 with fp32 sums are as exact as fp32's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs.dct import dct_matrix
from storage.codecs.klt_bands import Band
from storage.codecs.klt_space import Space


class Outliers(NamedTuple):
    """Codes that int8 cannot hold, of a batch."""

    row: Tensor
    """int64 [n]."""
    symbol: Tensor
    """int64 [n]."""
    value: Tensor
    """float32 [n]."""


def invert(space: Space, plane: Tensor, outliers: Outliers, zone: int) -> Tensor:
    """Tokens [N, B, D] fp32, in steps, of the int8 codes `plane` [B, symbols of the zone] and `outliers`.

    Takes 12 * B * N * D bytes at most, and the codes once more.
    """
    device = plane.device
    places, plan = space.made_on(f"plan {zone}", device, lambda: _plan(space, zone, device))
    basis, starts = space.basis_on(device), np.cumsum([0, *space.basis.widths])
    # the column added is the zero of what a band multiplies and the zone does not hold
    codes, at = torch.nn.functional.pad(plane, (0, 1)).index_select(1, places), 0
    grid = torch.empty(space.tokens, len(plane), space.depth, device=device)
    for band in plan:
        out = grid[band.first : band.end]
        pieces = codes[:, at : at + sum(band.sizes)].split(band.sizes, 1)
        at += sum(band.sizes)
        for piece, rows, start in zip(pieces, basis.operands, starts, strict=False):
            _multiply(piece, rows, out[:, :, start : start + len(rows)])
    grid = basis.unmix(grid)
    _add_outliers(space, outliers, grid)
    grid = grid.index_select(0, space.place_on(device))
    return _undo_dct(grid, space.height, space.width)


def _multiply(piece: Tensor, rows: Tensor, out: Tensor) -> None:
    """Codes [B, F * k] of one band and block, frequency-major, by rows [K, d], into `out` [F, B, d]."""
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


def _plan(space: Space, zone: int, device: torch.device) -> tuple[Tensor, list[Band]]:
    """Where in a row each coefficient stands, band by band, block by block, int64; and the bands.

    One past the symbols of the zone stands for all that it does not hold.
    """
    symbol = np.empty(space.symbols, np.int64)
    symbol[space.order()] = np.arange(space.symbols)
    at = np.minimum(symbol, space.symbols_in[zone]).reshape(space.tokens, space.depth)
    places, found = [np.empty(0, np.int64)], space.bands(zone)
    starts = np.cumsum([0, *space.basis.widths])
    for band in found:
        for start, count in zip(starts, band.components, strict=False):
            places.append(at[band.first : band.end, start : start + count].ravel())
    return torch.from_numpy(np.concatenate(places)).to(device), found
