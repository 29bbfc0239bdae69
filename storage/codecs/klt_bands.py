"""Which rings of frequencies does one product undo? Neighbours together, for a few products more of zeros.

A ring by itself needs just the components that its zone holds, but a product of some hundred rows costs its
start rather than its work. Neighbouring rings hold nearly as many components, so they share a product whose
missing coefficients are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# what starting a product is worth, and the share of all work that may be spent on zeros
_START_MACS, _SPARE = 1e6, 0.06


@dataclass(frozen=True)
class Band:
    """Frequencies first to end, ring by ring, and how many components of each block are multiplied there."""

    first: int
    end: int
    components: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Coefficients per block."""
        return [(self.end - self.first) * count for count in self.components]

    def macs(self, widths: Sequence[int]) -> int:
        """Multiply-adds of its products for one sample; `widths` of the blocks."""
        return sum(size * width for size, width in zip(self.sizes, widths, strict=True))

    def with_next(self, other: Band) -> Band:
        """Both as one."""
        most = map(max, self.components, other.components)
        return Band(self.first, other.end, tuple(most))


def bands_of(ends: Sequence[int], kept: np.ndarray, widths: Sequence[int]) -> list[Band]:
    """The bands of a zone: `ends` of the rings, `kept` [blocks, rings] components, `widths` of the blocks.

    Merges the pair of neighbours that wastes least, while that is less than starting a product or the waste
    of all stays below a share of the work.
    """
    firsts = [0, *ends[:-1]]
    bands = [
        Band(first, end, tuple(int(count) for count in column))
        for first, end, column in zip(firsts, ends, kept.T, strict=True)
    ]
    spare = _SPARE * sum(band.macs(widths) for band in bands)
    while len(bands) > 1:
        pairs = [(first, second, first.with_next(second)) for first, second in pairwise(bands)]
        wastes = [both.macs(widths) - a.macs(widths) - b.macs(widths) for a, b, both in pairs]
        at = int(np.argmin(wastes))
        if wastes[at] > max(_START_MACS * len(widths), spare):
            break
        spare -= wastes[at]
        bands[at : at + 2] = [pairs[at][2]]
    return bands
