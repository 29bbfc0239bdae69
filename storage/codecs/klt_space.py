"""Where do the levels of one grid live after the transform: components by frequency, and zones of them.

Levels that share a grid form a group; their channels side by side are D numbers per token. The transform is
a DCT over the grid and, of the D numbers at every frequency, a basis of all D (joint) or of each level
(separable): klt_basis.py. A zone holds the leading components of every block of the basis, ring by ring of
frequencies; zones are nested, and the last one holds everything. A row of codes holds the coefficients of all
h*w*D (frequency, component) pairs: first those of the first zone, then what the next one adds, each part by
falling calibrated variance of its (component, ring) segment. What no zone holds is nearly always zero, and
nearly free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from storage.codecs.base import LevelShape, Stats
from storage.codecs.dct import dct, inverse_dct, rings
from storage.codecs.klt_bands import Band, bands_of
from storage.codecs.klt_basis import Basis


def group_levels(shapes: Sequence[LevelShape]) -> list[tuple[int, ...]]:
    """Numbers of the levels that share a grid, group by group in order of first appearance."""
    grids: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        grids.setdefault((shape.height, shape.width), []).append(number)
    return [tuple(levels) for levels in grids.values()]


_Made = TypeVar("_Made")


class Space:
    """The coefficients of one group, and their order in a row."""

    def __init__(self, shapes: Sequence[LevelShape], basis: Basis, variance: Tensor, kept: Tensor) -> None:
        """`variance` [D, rings] per component and ring; `kept` [zones, blocks, rings]: how many leading
        components of a block a zone holds, zone by zone not fewer."""
        self.height, self.width = shapes[0].height, shapes[0].width
        self.tokens, self.channels = shapes[0].tokens, [shape.channels for shape in shapes]
        self.basis, self.depth = basis, sum(self.channels)
        natural = rings(self.height, self.width)
        self._sorting = np.argsort(natural, kind="stable")
        self.ring = natural[self._sorting]
        """Of each frequency; frequencies stand ring by ring."""
        self.ends = np.cumsum(np.bincount(natural)).tolist()
        """Where each ring ends."""
        everything = torch.tensor(basis.widths).view(1, -1, 1).expand(1, -1, kept.shape[2])
        self.kept: np.ndarray = torch.cat([kept.long(), everything]).numpy()
        """[zones, blocks, rings]; the last zone, added here, holds everything."""
        self.zones = len(self.kept)
        self.variance: np.ndarray = variance.double().numpy()
        self.symbols = self.tokens * self.depth
        self._made: dict[tuple[str, torch.device], Any] = {}
        counts = np.bincount(self.ring)
        self.symbols_in = [int((kept.sum(0) * counts).sum()) for kept in self.kept]
        """Symbols at the front of a row that each zone takes."""

    @property
    def inverse_macs(self) -> list[int]:
        """Multiply-adds of decoding one sample, per zone: of what it holds, without the zeros of bands."""
        counts, widths = np.bincount(self.ring), np.array(self.basis.widths)
        rest = (self.height + self.width) * self.symbols
        if self.basis.mix is not None:
            rest += len(self.basis.mix) * self.symbols
        return [int((widths @ kept * counts).sum()) + rest for kept in self.kept]

    def bands(self, zone: int) -> list[Band]:
        """Frequencies that one product per block undoes."""
        return bands_of(self.ends, self.kept[zone], self.basis.widths)

    def frequencies(self, z: Tensor) -> Tensor:
        """z-scored tokens [B, N, D] -> frequencies [B, N, D], ring by ring."""
        sorting = self.made_on("sorting", z.device, lambda: torch.from_numpy(self._sorting).to(z.device))
        return dct(z, self.height, self.width).index_select(1, sorting)

    def tokens_of(self, frequencies: Tensor) -> Tensor:
        """Frequencies [B, N, D], ring by ring -> z-scored tokens [B, N, D]."""
        place = self.place_on(frequencies.device)
        return inverse_dct(frequencies.index_select(1, place), self.height, self.width)

    def place_on(self, device: torch.device) -> Tensor:
        """Row-major frequency -> its place ring by ring, int64 [N]."""
        return self.made_on(
            "place", device, lambda: torch.from_numpy(np.argsort(self._sorting, kind="stable")).to(device)
        )

    def basis_on(self, device: torch.device) -> Basis:
        """The basis on `device`, moved once."""
        return self.made_on("basis", device, lambda: self.basis.to(device))

    def shares_on(self, device: torch.device) -> Tensor:
        """How much of each component lies in each level: float64 [D, levels], rows sum to 1."""
        basis = self.basis_on(device)
        return self.made_on("shares", device, lambda: basis.shares(self.channels).double())

    def undo_basis(self, coefficients: Tensor, zone: int) -> Tensor:
        """Frequencies [B, N, D] of coefficients [B, N, D] that are 0 outside a zone, ring by ring."""
        basis = self.basis_on(coefficients.device)
        out = torch.zeros_like(coefficients)
        starts = np.cumsum([0, *basis.widths])
        for band in self.bands(zone):
            here = slice(band.first, band.end)
            for block, start, count in zip(basis.blocks, starts, band.components, strict=False):
                if count:
                    some = coefficients[:, here, start : start + count]
                    out[:, here, start : start + len(block)] = some @ block[:count]
        return basis.unmix(out)

    def mask_on(self, device: torch.device, zone: int) -> Tensor:
        """Whether a zone holds a coefficient: bool [N, D]."""
        return self.made_on(
            f"mask {zone}", device, lambda: torch.from_numpy(self._inside(zone).T[self.ring]).to(device)
        )

    def order_on(self, device: torch.device) -> Tensor:
        """Symbol of a row -> its place frequency * D + component, int32 [symbols]."""
        return self.made_on("order", device, lambda: torch.from_numpy(self.order()).to(device))

    def made_on(self, name: str, device: torch.device, make: Callable[[], _Made]) -> _Made:
        """What `make` returns, made once per device."""
        if (name, device) not in self._made:
            self._made[name, device] = make()
        made: _Made = self._made[name, device]
        return made

    def order(self) -> np.ndarray:
        """Symbol of a row -> its place frequency * D + component, int32 [symbols]."""
        bands = self.variance.shape[1]
        outside = sum((~self._inside(zone)).astype(np.int8) for zone in range(self.zones - 1))
        zone = np.broadcast_to(outside, self.variance.shape)
        ordered = np.lexsort((-self.variance.ravel(), zone.ravel()))
        component, ring = np.divmod(ordered, bands)
        counts = np.bincount(self.ring)
        first, lengths = np.cumsum(counts) - counts, counts[ring]
        within = np.arange(self.symbols) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        frequency = np.repeat(first[ring], lengths) + within
        order: np.ndarray = (frequency * self.depth + np.repeat(component, lengths)).astype(np.int32)
        return order

    def _inside(self, zone: int) -> np.ndarray:
        """Whether a (component, ring) belongs to a zone: bool [D, rings]."""
        parts = [
            np.arange(width)[:, None] < kept[None, :]
            for width, kept in zip(self.basis.widths, self.kept[zone], strict=True)
        ]
        return np.concatenate(parts)


def space_of(shapes: Sequence[LevelShape], group: int, stats: Stats) -> Space:
    """The space of group `group` from calibrated tensors.

    Raises ValueError when they lack one or it does not fit the levels.
    """
    depth, bands = sum(shape.channels for shape in shapes), int(rings(*shapes[0][1:]).max()) + 1
    blocks: list[Tensor] = []
    while f"basis.{group}.{len(blocks)}" in stats:
        blocks.append(stats[f"basis.{group}.{len(blocks)}"])
    variance, kept = (stats.get(f"{name}.{group}", torch.empty(0)) for name in ("variance", "kept"))
    fits = (
        sum(len(block) for block in blocks) == depth
        and variance.shape == (depth, bands)
        and kept.ndim == 3
        and kept.shape[1:] == (len(blocks), bands)
    )
    if not fits:
        grid = f"{shapes[0].height}x{shapes[0].width}"
        raise ValueError(
            f"codec klt has no basis of {depth} channels on a {grid} grid among its tensors; calibrate again"
        )
    return Space(shapes, Basis(blocks, stats.get(f"mix.{group}")), variance, kept)
