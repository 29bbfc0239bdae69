"""How does a teacher's map become one on the student's grid: area pooling with exact fractional weights.

A cell of the student's grid covers a rectangle of the image, and gets the mean of the teacher's map over it,
each teacher cell weighted by the area that both share. Where sides divide evenly that is plain average
pooling; 27 -> 24 weighs cells by fractions. The two axes are independent, so it is two small matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]
"""Cells (h, w)."""


def pooled_grid(grid: Grid, student: Grid) -> Grid:
    """The grid that maps of `grid` are stored on: the student's where it has fewer cells, else their own."""
    return student if grid[0] * grid[1] > student[0] * student[1] else grid


def pooled_shapes(shapes: Sequence[Sequence[int]], student: Grid | None) -> tuple[tuple[int, int, int], ...]:
    """Shapes (C, h, w) of levels once `pool` has been at them; without a student's grid their own."""
    return tuple((c, *pooled_grid((h, w), student or (h, w))) for c, h, w in shapes)


def pool(level: Tensor, student: Grid) -> Tensor:
    """A map `[B, C, h, w]` on the student's grid, if that has fewer cells; else the map as it is.

    Returns:
        float32 `[B, C, H, W]`, channels last in memory; computed in float32 on the map's device.
    """
    import torch

    rows, columns = level.shape[-2:]
    height, width = pooled_grid((rows, columns), student)
    if (height, width) == (rows, columns):
        return level
    # token-major, as teachers give their maps: both products run over contiguous rows of channels
    tokens = level.permute(0, 2, 3, 1).float()
    down, across = (
        torch.tensor(area_weights(*sides), dtype=torch.float32, device=level.device)
        for sides in ((rows, height), (columns, width))
    )
    with torch.autocast(level.device.type, enabled=False):
        flat = torch.matmul(down, tokens.reshape(len(tokens), rows, -1))
        pooled = torch.matmul(across, flat.reshape(len(tokens) * height, columns, -1))
    return pooled.unflatten(0, (len(tokens), height)).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def area_weights(cells: int, wanted: int) -> tuple[tuple[float, ...], ...]:
    """`wanted` rows of `cells` weights: the share of each wanted cell that each given cell covers.

    Rows sum to 1, and columns to wanted / cells: the mean of a map is kept. In whole numbers, a side has
    cells x wanted units; the overlap of two cells is exact before the one division.
    """
    return tuple(
        tuple(
            max(0, min((i + 1) * cells, (j + 1) * wanted) - max(i * cells, j * wanted)) / cells
            for j in range(cells)
        )
        for i in range(wanted)
    )
