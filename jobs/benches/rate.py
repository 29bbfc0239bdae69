"""How few bits could any code of Gaussian data take? Reverse water-filling over component variances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def distortion_of(cosine: float) -> float:
    """The relative mean squared error at which the best reconstruction has this cosine: 1 - cosine^2."""
    return 1 - cosine**2


def rate(variances: Floats, counts: Floats, distortion: float) -> float:
    """R(D) in bits per value of independent Gaussian components.

    Args:
        variances: of each kind of component, any shape.
        counts: how many components of each kind there are, same shape (broadcast).
        distortion: mean squared error as a share of the total variance, 0 < distortion.

    Components below the water level cost nothing and are lost whole (Cover and Thomas, section 10.3.3).
    """
    counts = np.broadcast_to(counts, variances.shape)
    level = _water_level(variances, counts, distortion * float((counts * variances).sum()))
    above = variances > level
    bits = 0.5 * np.log2(variances[above] / level)
    return float((counts[above] * bits).sum() / counts.sum())


def _water_level(variances: Floats, counts: Floats, error: float) -> float:
    """The level at which min(variance, level) sums to `error`, by bisection."""
    low, high = 0.0, float(variances.max())
    for _ in range(100):
        middle = (low + high) / 2
        if float((counts * np.minimum(variances, middle)).sum()) < error:
            low = middle
        else:
            high = middle
    return high
