"""HARD4: four levels of synthetic maps that are as hard to compress as real teachers', seeded.

Level 0 and each increment are Gaussian fields with their own random channel basis, eigenvalues falling as 1/k
(mean 1), spatial DCT power 1 / (1 + (f/2)^1.5) normalised to mean 1; level l is 0.85 of level l-1 plus
sqrt(1 - 0.85^2) of an increment. Then log-normal channel gains (sigma 0.3), and four channels of 20 to 50
times the rest.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray

from jobs.benches.rate import distortion_of, rate

LEVELS, KEEP = 4, 0.85


class Hard4:
    """A source of maps: `maps(n)` gives the next n samples as levels [n, C, side, side] float32."""

    def __init__(self, seed: int = 0, *, channels: int = 768, side: int = 27) -> None:
        self._random = np.random.default_rng(seed)
        self._channels, self._side = channels, side
        normal = self._random.standard_normal((LEVELS, channels, channels), np.float32)
        self._bases = np.linalg.qr(normal)[0]
        power = 1 / np.arange(1, channels + 1)
        self._amplitudes = np.sqrt(power / power.mean()).astype(np.float32)
        radius = np.hypot(*np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
        spectrum = 1 / (1 + (radius / 2) ** 1.5)
        self._spectrum = np.sqrt(spectrum / spectrum.mean()).astype(np.float32)
        self._gains = np.exp(0.3 * self._random.standard_normal((LEVELS, channels))).astype(np.float32)
        outliers = self._random.choice(channels, 4, replace=False)
        self._gains[:, outliers] *= self._random.uniform(20, 50, 4).astype(np.float32)

    def maps(self, count: int) -> list[torch.Tensor]:
        """The next `count` samples."""
        samples = [self._sample() for _ in range(count)]
        return [torch.from_numpy(np.stack(level)) for level in zip(*samples, strict=True)]

    def rate(self, cosine: float) -> float:
        """R(D) in bits per value at a z-scored cosine, from the true covariance: nothing is estimated."""
        components = np.linalg.eigvalsh(self._correlation()).clip(0)
        frequencies = np.square(self._spectrum, dtype=np.float64).ravel()
        variances, counts = np.unique(frequencies, return_counts=True)
        return rate(np.outer(components, variances), counts.astype(float), distortion_of(cosine))

    def _correlation(self) -> NDArray[np.float64]:
        """Of the channels of all levels, [4C, 4C]: gains are gone once each channel has variance 1."""
        bases = self._bases.astype(np.float64) * self._amplitudes.astype(np.float64)
        fields = [basis @ basis.T for basis in bases]
        shares = np.zeros((LEVELS, LEVELS))
        for level in range(LEVELS):
            shares[level, 0] = KEEP**level
            shares[level, 1 : level + 1] = [
                KEEP ** (level - own) * np.sqrt(1 - KEEP**2) for own in range(1, level + 1)
            ]
        blocks = [
            [sum(shares[i, k] * shares[j, k] * fields[k] for k in range(LEVELS)) for j in range(LEVELS)]
            for i in range(LEVELS)
        ]
        covariance = np.block(blocks)
        deviation = np.sqrt(np.diag(covariance))
        correlation: NDArray[np.float64] = covariance / np.outer(deviation, deviation)
        return correlation

    def _sample(self) -> list[np.ndarray]:
        level, levels = self._field(0), []
        for number in range(LEVELS):
            if number:
                level = KEEP * level + np.sqrt(1 - KEEP**2, dtype=np.float32) * self._field(number)
            levels.append(level * self._gains[number][:, None, None])
        return levels

    def _field(self, number: int) -> np.ndarray:
        """One Gaussian field [C, side, side]."""
        noise = self._random.standard_normal((self._channels, self._side, self._side), np.float32)
        smooth = scipy.fft.idctn(noise * self._spectrum, axes=(1, 2), norm="ortho")
        scaled = smooth * self._amplitudes[:, None, None]
        return np.tensordot(self._bases[number], scaled, 1).astype(np.float32)
