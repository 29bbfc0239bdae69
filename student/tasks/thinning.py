"""How a region boundary becomes one pixel thin: Guo and Hall's parallel thinning, which the field uses.

The conditions are those of MATLAB's `bwmorph(..., 'thin')` (Guo and Hall 1989, algorithm A1), evaluated only
at the pixels that are still set: boundaries fill a few per cent of an image.
"""

from __future__ import annotations

import numpy as np

# Neighbours in circular order, as (row, column) steps: east, then counter-clockwise.
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _deletable(second: bool) -> np.ndarray:
    """For each of the 256 neighbourhoods, whether a sub-iteration deletes the pixel: bool [256]."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1 > 0
    x = [bits[:, i] for i in range(8)]
    crossings = sum((~x[i] & (x[i + 1] | x[(i + 2) % 8])).astype(int) for i in (0, 2, 4, 6))
    one = sum((x[i] | x[i + 1]).astype(int) for i in (0, 2, 4, 6))
    two = sum((x[i + 1] | x[(i + 2) % 8]).astype(int) for i in (0, 2, 4, 6))
    fewest = np.minimum(one, two)
    if second:
        kept_side = (x[5] | x[6] | ~x[3]) & x[4]
    else:
        kept_side = (x[1] | x[2] | ~x[7]) & x[0]
    return (crossings == 1) & (fewest >= 2) & (fewest <= 3) & ~kept_side


_TABLES = (_deletable(False), _deletable(True))


def thin(mask: np.ndarray) -> np.ndarray:
    """bool [H, W] -> bool [H, W]: the same lines, one pixel thin, connected as before."""
    # In C order whatever the input's (a .mat file's is the other), so that `flat` is a view.
    padded = np.ascontiguousarray(np.pad(np.asarray(mask, bool), 1))
    width = padded.shape[1]
    steps = np.array([row * width + column for row, column in _RING])
    flat = padded.reshape(-1)
    live, changed = np.flatnonzero(flat), True
    while changed:
        changed = False
        for table in _TABLES:
            codes = flat[live[:, None] + steps].astype(np.uint8) @ (1 << np.arange(8)).astype(np.uint8)
            gone = table[codes]
            changed |= bool(gone.any())
            flat[live[gone]] = False
            live = live[~gone]
    return padded[1:-1, 1:-1].copy()


def label_edges(labels: np.ndarray) -> np.ndarray:
    """Training boundaries of a label map [H, W]: thin(|Laplacian| > 0), bool [H, W] (4-neighbour kernel)."""
    padded = np.pad(labels.astype(np.int64), 1, mode="reflect")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return thin(around != 4 * padded[1:-1, 1:-1])
