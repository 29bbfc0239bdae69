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
from storage.codecs.klt_basis import Basis
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
    """The frequencies of one ring, and how many components of each block their zone holds."""

    frequencies: Tensor
    components: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Coefficients per block."""
        return [len(self.frequencies) * count for count in self.components]


@dataclass(frozen=True)
class _Plan:
    """How a zone is inverted."""

    places: Tensor
    """Where in a row each coefficient stands, ring by ring, block by block, frequency-major; int64."""
    rings: list[_Ring]
    empty: Tensor
    """Frequencies of which the zone holds nothing."""


def invert(space: Space, plane: Tensor, outliers: Outliers, zone: int) -> Tensor:
    """Tokens [N, B, D] fp32, in steps, of the int8 codes `plane` [B, symbols of the zone] and `outliers`.

    Takes two times 4 * B * N * D bytes, and as much again for the length of a product.
    """
    device, batch = plane.device, len(plane)
    plan: _Plan = space.made_on(f"plan {zone}", device, lambda: _plan(space, zone, device))
    basis = space.basis_on(device)
    grid = torch.empty(space.tokens, batch, space.depth, device=device)
    grid.index_fill_(0, plan.empty, 0)
    codes = plane.index_select(1, plan.places)
    first = 0
    for ring in plan.rings:
        pieces = codes[:, first : first + sum(ring.sizes)].split(ring.sizes, 1)
        grid.index_copy_(0, ring.frequencies, _undo_basis(basis, pieces, ring))
        first += sum(ring.sizes)
    _add_outliers(space, outliers, grid)
    return _undo_dct(grid, space.height, space.width)


def _undo_basis(basis: Basis, pieces: tuple[Tensor, ...], ring: _Ring) -> Tensor:
    """Frequencies of one ring [F, B, D] of its codes, [B, F * components] per block."""
    batch, count, starts = len(pieces[0]), len(ring.frequencies), np.cumsum([0, *basis.widths])
    out = torch.empty(count * batch, int(starts[-1]), device=pieces[0].device)
    for block, (piece, components) in enumerate(zip(pieces, ring.components, strict=True)):
        codes = piece.view(batch, count, components).transpose(0, 1).reshape(count * batch, components)
        out[:, starts[block] : starts[block + 1]] = product(codes, basis.operands[block][:components])
    return basis.unmix(out.view(count, batch, -1))


def product(codes: Tensor, rows: Tensor) -> Tensor:
    """int8 [n, k] @ [k, d] -> float32 [n, d]: bf16 operands on a GPU, where they are as exact and faster."""
    if codes.device.type == "cuda":
        exact: Tensor = torch.mm(codes.bfloat16(), rows, out_dtype=torch.float32)
        return exact
    return torch.mm(codes.float(), rows)


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


def _plan(space: Space, zone: int, device: torch.device) -> _Plan:
    symbol = np.empty(space.symbols, np.int64)
    symbol[space.order()] = np.arange(space.symbols)
    at = symbol.reshape(space.tokens, space.depth)
    places, found, empty = [np.empty(0, np.int64)], [], [np.empty(0, np.int64)]
    starts = np.cumsum([0, *space.basis.widths])
    for ring, kept in enumerate(space.kept[zone].T):
        frequencies = np.flatnonzero(space.ring == ring)
        if not kept.any():
            empty.append(frequencies)
            continue
        for start, count in zip(starts[:-1], kept, strict=True):
            places.append(at[frequencies, start : start + count].ravel())
        found.append(_Ring(torch.from_numpy(frequencies).to(device), tuple(int(n) for n in kept)))
    nothing, everywhere = (torch.from_numpy(np.concatenate(parts)).to(device) for parts in (empty, places))
    return _Plan(everywhere, found, nothing)
