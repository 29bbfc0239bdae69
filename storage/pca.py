"""How does a feature map look: its first three principal components as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FLAT = 1e-9  # a channel or direction that varies less than this share of the largest is painted mid grey


@dataclass(frozen=True)
class PcaBasis:
    """Basis of one teacher; whatever map it paints, equal features get equal colours."""

    mean: NDArray[np.float64]
    """Channel means, `[C]`."""
    axes: NDArray[np.float64]
    """Projection of centred features onto the colours, `[C, 3]`; a zero column where nothing varies."""
    low: NDArray[np.float64]
    """Projection painted 0, `[3]`."""
    high: NDArray[np.float64]
    """Projection painted 255, `[3]`."""

    def project(self, feature_map: NDArray) -> NDArray[np.float64]:
        """Coordinates `[h, w, 3]` of a map `[C, h, w]`; ValueError where the channels differ."""
        _check(feature_map, len(self.mean))
        tokens = feature_map.reshape(len(self.mean), -1).T - self.mean
        return np.asarray(tokens @ self.axes).reshape(*feature_map.shape[1:], 3)

    def paint(self, feature_map: NDArray) -> NDArray[np.uint8]:
        """Colours uint8 `[h, w, 3]` of a map `[C, h, w]`; values outside `low..high` are clipped."""
        span = self.high - self.low
        safe = np.where(span > 0, span, 1)
        scaled = np.where(span > 0, (self.project(feature_map) - self.low) / safe, 0.5)
        return (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)


def fit_basis(maps: Sequence[NDArray], *, percentile: float = 1.0) -> PcaBasis:
    """The common basis of maps `[C, h_i, w_i]` (h and w may differ), deterministic and with its signs fixed.

    Channels are standardised first: in DINOv2 and CLIP a few channels are 20 to 50 times larger than others
    and would paint only themselves. `percentile` (of 0..50) of the projections is clipped at each end.
    Raises ValueError for no maps, other shapes, channels that differ, or values that are not finite.
    """
    if not maps:
        raise ValueError("no maps to fit a basis on; give at least one [C, h, w] array")
    for feature_map in maps:
        _check(feature_map, len(maps[0]))
    mean, covariance = _moments(maps)
    axes = _axes(covariance, np.abs(mean))
    basis = PcaBasis(mean, axes, np.zeros(3), np.zeros(3))
    colours = np.concatenate([basis.project(m).reshape(-1, 3) for m in maps])
    low, high = np.percentile(colours, [percentile, 100 - percentile], axis=0)
    return PcaBasis(mean, axes, low, high)


def pca_rgb(
    maps: Sequence[NDArray], *, basis: PcaBasis | None = None, percentile: float = 1.0
) -> list[NDArray[np.uint8]]:
    """Pictures uint8 `[h, w, 3]` of one teacher's maps `[C, h, w]` in one basis: `basis`, or fitted here."""
    fitted = basis or fit_basis(maps, percentile=percentile)
    return [fitted.paint(m) for m in maps]


def _check(feature_map: NDArray, channels: int) -> None:
    if feature_map.ndim != 3 or len(feature_map) != channels or feature_map.size == 0:
        what = f"a map is {list(feature_map.shape)}, expected [{channels}, h, w]"
        raise ValueError(f"{what}; use the maps of one teacher only")
    if not np.isfinite(feature_map).all():
        raise ValueError("a map holds NaN or Inf; leave quarantined samples out")


def _moments(maps: Sequence[NDArray]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `[C]` and covariance `[C, C]` over all tokens, in float64, one map at a time."""
    count = sum(m[0].size for m in maps)
    mean = sum(m.reshape(len(m), -1).sum(1, dtype=np.float64) for m in maps) / count
    covariance = np.zeros((len(mean), len(mean)))
    for feature_map in maps:
        centred = feature_map.reshape(len(mean), -1) - mean[:, None]
        covariance += centred @ centred.T
    return mean, covariance / count


def _axes(covariance: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Top three eigenvectors of the correlation matrix, in units of raw features, `[C, 3]`."""
    deviation = np.sqrt(np.diag(covariance))
    alive = deviation > (deviation.max() + size) * _FLAT
    inverse = np.where(alive, 1 / np.where(alive, deviation, 1), 0)
    values, vectors = np.linalg.eigh(covariance * inverse * inverse[:, None])
    axes = np.zeros((len(deviation), 3))
    for colour, index in enumerate(range(len(values) - 1, max(-1, len(values) - 4), -1)):
        if values[index] > values[-1] * _FLAT:
            vector = vectors[:, index]
            axes[:, colour] = vector * np.sign(vector[np.abs(vector).argmax()]) * inverse
    return axes
