"""Which frequencies does a grid have: the orthonormal 2-D DCT over tokens, and rings of like frequency."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=64)
def dct_matrix(size: int, device: torch.device) -> Tensor:
    """The orthonormal DCT-II as a matrix on `device`, made once: float32 [frequency, position]."""
    frequency, position = torch.arange(size, dtype=torch.float64).unsqueeze(1), torch.arange(size)
    matrix = torch.cos(math.pi / size * (position + 0.5) * frequency) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix.float().to(device)


def dct(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, h*w, D] -> frequencies [B, h*w, D], row-major as the tokens are."""
    return _both_ways(tokens, dct_matrix(height, tokens.device), dct_matrix(width, tokens.device))


def inverse_dct(frequencies: Tensor, height: int, width: int) -> Tensor:
    """Frequencies [B, h*w, D] -> tokens [B, h*w, D]."""
    device = frequencies.device
    return _both_ways(frequencies, dct_matrix(height, device).T, dct_matrix(width, device).T)


def _both_ways(grid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Two products along the axes of the grid; D stays innermost, so nothing is transposed in memory."""
    batch, tokens, depth = grid.shape
    height, width = len(rows), len(columns)
    down = rows @ grid.reshape(batch, height, width * depth)
    across = columns @ down.reshape(batch * height, width, depth)
    return across.reshape(batch, tokens, depth)


def rings(height: int, width: int) -> np.ndarray:
    """The ring of each frequency, int64 [h*w]: its radius in steps of the longer side, from 0 (the mean)."""
    longest = max(height, width)
    down = np.arange(height)[:, None] * (longest / height)
    across = np.arange(width)[None, :] * (longest / width)
    radius: np.ndarray = np.rint(np.hypot(down, across)).astype(np.int64)
    return radius.ravel()
