"""Where do the levels of one grid live after the transform: components by frequency, and a zone of them.

Levels that share a grid form a group; their channels side by side are D numbers per token. The transform is
a DCT over the grid and, of the D numbers at every frequency, an orthonormal basis: one of all D (joint), or a
small mix over levels followed by one basis per mixed level (separable). A row of codes holds the coefficients
of all h*w*D (frequency, component) pairs: first those of the zone, then the rest, each part by falling
calibrated variance of its (component, ring) segment. The rest is nearly always zero, and nearly free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from storage.codecs.base import LevelShape, Stats
from storage.codecs.dct import dct, inverse_dct, rings


def group_levels(shapes: Sequence[LevelShape]) -> list[tuple[int, ...]]:
    """Numbers of the levels that share a grid, group by group in order of first appearance."""
    grids: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        grids.setdefault((shape.height, shape.width), []).append(number)
    return [tuple(levels) for levels in grids.values()]


_Made = TypeVar("_Made")


class Basis:
    """An orthonormal basis of the D numbers of a group: blocks on the diagonal after a mix over levels.

    `mix` [M, M] turns levels into mixed levels (None: they stay as they are); `blocks` hold components as
    rows. They are kept as bf16 can hold them, so that a product in bf16 uses the very same numbers; `forward`
    inverts them exactly, lest what rounding took from their orthogonality leak between levels.
    """

    def __init__(self, blocks: Sequence[Tensor], mix: Tensor | None = None) -> None:
        self.blocks = [block.float() for block in blocks]
        self.mix = mix
        self.widths = [len(block) for block in blocks]

    @cached_property
    def _inverses(self) -> list[Tensor]:
        return [torch.linalg.inv(block.double()).float() for block in self.blocks]

    def to(self, device: torch.device) -> Basis:
        """The same basis on `device`."""
        mix = None if self.mix is None else self.mix.to(device)
        return Basis([block.to(device) for block in self.blocks], mix)

    def forward(self, numbers: Tensor) -> Tensor:
        """Channels [B, N, D] -> components [B, N, D]."""
        mixed = self._mixed(numbers, self.mix)
        pieces = mixed.split(self.widths, 2)
        return torch.cat([piece @ back for piece, back in zip(pieces, self._inverses, strict=True)], 2)

    def inverse(self, components: Tensor) -> Tensor:
        """Components [B, N, D] -> channels [B, N, D]."""
        pieces = components.split(self.widths, 2)
        parts = [piece @ block for piece, block in zip(pieces, self.blocks, strict=True)]
        return self.unmix(torch.cat(parts, 2))

    def unmix(self, mixed: Tensor) -> Tensor:
        """Mixed levels [B, N, D] -> channels [B, N, D]."""
        return self._mixed(mixed, None if self.mix is None else self.mix.T)

    def _mixed(self, numbers: Tensor, mix: Tensor | None) -> Tensor:
        if mix is None:
            return numbers
        levels = numbers.unflatten(2, (len(mix), -1))
        return torch.einsum("ml,bnlc->bnmc", mix, levels).flatten(2)

    def shares(self, channels: Sequence[int]) -> Tensor:
        """How much of each component lies in each level: [D, levels], rows sum to 1."""
        eye = torch.eye(sum(self.widths), device=self.blocks[0].device).unsqueeze(0)
        parts = self.inverse(eye)[0].square().split(list(channels), 1)
        return torch.stack([part.sum(1) for part in parts], 1)


@dataclass(frozen=True)
class Segment:
    """A rectangle of the zone: frequencies of one ring x leading components of one block."""

    block: int
    frequencies: Tensor
    components: int

    @property
    def size(self) -> int:
        """Coefficients in it."""
        return len(self.frequencies) * self.components


class Space:
    """The coefficients of one group, and their order in a row."""

    def __init__(self, shapes: Sequence[LevelShape], basis: Basis, variance: Tensor, kept: Tensor) -> None:
        """`variance` [D, rings] per component and ring; `kept` [blocks, rings]: components in the zone."""
        self.height, self.width = shapes[0].height, shapes[0].width
        self.tokens, self.channels = shapes[0].tokens, [shape.channels for shape in shapes]
        self.basis, self.depth = basis, sum(self.channels)
        self._variance, self._kept = variance.double().numpy(), kept.numpy()
        self._ring = rings(self.height, self.width)
        self.symbols = self.tokens * self.depth
        self._made: dict[tuple[str, torch.device], Any] = {}
        self.zone_symbols = int((self._inside() * np.bincount(self._ring)).sum())
        """Symbols at the front of a row that the zone takes."""

    @property
    def inverse_macs(self) -> int:
        """Multiply-adds of `invert` and `tokens_of` for one sample whose zone suffices."""
        per_frequency = self._kept.T[self._ring] @ np.array(self.basis.widths)
        mix = 0 if self.basis.mix is None else len(self.basis.mix) * self.tokens * self.depth
        return int(per_frequency.sum()) + mix + (self.height + self.width) * self.tokens * self.depth

    def frequencies(self, z: Tensor) -> Tensor:
        """z-scored tokens [B, N, D] -> frequencies [B, N, D]."""
        return dct(z, self.height, self.width)

    def tokens_of(self, frequencies: Tensor) -> Tensor:
        """Frequencies [B, N, D] -> z-scored tokens [B, N, D]."""
        return inverse_dct(frequencies, self.height, self.width)

    def _inside(self) -> np.ndarray:
        """Whether a (component, ring) belongs to the zone: bool [D, rings]."""
        parts = [
            np.arange(width)[:, None] < kept[None, :]
            for width, kept in zip(self.basis.widths, self._kept, strict=True)
        ]
        return np.concatenate(parts)

    def basis_on(self, device: torch.device) -> Basis:
        """The basis on `device`, moved once."""
        return self._moved("basis", device, lambda: self.basis.to(device))

    def shares_on(self, device: torch.device) -> Tensor:
        """How much of each component lies in each level: float64 [D, levels], rows sum to 1."""
        basis = self.basis_on(device)
        return self._moved("shares", device, lambda: basis.shares(self.channels).double())

    def mask_on(self, device: torch.device) -> Tensor:
        """Whether the zone holds a coefficient: bool [N, D]."""
        inside = self._inside
        return self._moved("mask", device, lambda: torch.from_numpy(inside().T[self._ring]).to(device))

    def order_on(self, device: torch.device) -> Tensor:
        """Symbol of a row -> its place frequency * D + component, int32 [symbols]."""
        return self._moved("order", device, lambda: torch.from_numpy(self._order()).to(device))

    def invert(self, symbols: Tensor, steps: Tensor, grid: Tensor, *, whole: bool) -> None:
        """Fill `grid` [B, N, D] with the frequencies of `symbols` [B, zone or all] times `steps` [B, 1, 1].

        One product per ring and block, with as many components as the zone keeps there.
        """
        places, segments = self._moved(f"plan {whole}", grid.device, lambda: self._plan(whole, grid.device))
        basis = self.basis_on(grid.device)
        starts = np.cumsum([0, *basis.widths])
        pieces = symbols.index_select(1, places).split([s.size for s in segments], 1)
        for piece, segment in zip(pieces, segments, strict=True):
            numbers = piece.unflatten(1, (len(segment.frequencies), segment.components)) * steps
            first, last = starts[segment.block], starts[segment.block + 1]
            grid[:, segment.frequencies, first:last] = (
                numbers @ basis.blocks[segment.block][: segment.components]
            )
        if basis.mix is not None:
            grid.copy_(basis.unmix(grid))

    def _moved(self, name: str, device: torch.device, make: Callable[[], _Made]) -> _Made:
        """What `make` returns, made once per device."""
        if (name, device) not in self._made:
            self._made[name, device] = make()
        made: _Made = self._made[name, device]
        return made

    def _order(self) -> np.ndarray:
        inside, bands = self._inside(), self._variance.shape[1]
        ordered = np.lexsort((-self._variance.ravel(), ~inside.ravel()))
        component, ring = np.divmod(ordered, bands)
        by_ring = np.argsort(self._ring, kind="stable")
        counts = np.bincount(self._ring)
        first, lengths = np.cumsum(counts) - counts, counts[ring]
        within = np.arange(self.symbols) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        frequency = by_ring[np.repeat(first[ring], lengths) + within]
        order: np.ndarray = (frequency * self.depth + np.repeat(component, lengths)).astype(np.int32)
        return order

    def _plan(self, whole: bool, device: torch.device) -> tuple[Tensor, list[Segment]]:
        """Where in a row each coefficient of each segment stands, int32, and the segments."""
        symbol = np.empty(self.symbols, np.int32)
        symbol[self._order()] = np.arange(self.symbols, dtype=np.int32)
        at = symbol.reshape(self.tokens, self.depth)
        places, segments = [np.empty(0, np.int32)], []
        starts = np.cumsum([0, *self.basis.widths])
        for ring, kept in enumerate(self._kept.T):
            frequencies = np.flatnonzero(self._ring == ring)
            for block, width in enumerate(self.basis.widths):
                count = width if whole else int(kept[block])
                if count:
                    places.append(at[frequencies, starts[block] : starts[block] + count].ravel())
                    segments.append(Segment(block, torch.from_numpy(frequencies).to(device), count))
        return torch.from_numpy(np.concatenate(places)).to(device), segments


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
        and kept.shape == (len(blocks), bands)
    )
    if not fits:
        grid = f"{shapes[0].height}x{shapes[0].width}"
        raise ValueError(
            f"codec klt has no basis of {depth} channels on a {grid} grid among its tensors; calibrate again"
        )
    return Space(shapes, Basis(blocks, stats.get(f"mix.{group}")), variance, kept)
