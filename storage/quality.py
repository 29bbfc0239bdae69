"""How well does a shard keep its maps: figures per sample, and their summary in a commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from storage.config import Frozen


class Quality(NamedTuple):
    """What decoding gives back of each sample; NaN where a row cannot be stored."""

    fidelity: np.ndarray
    """Cosine of z-scored original and decoded maps, flattened; float64 [rows, levels]. The promise."""
    per_token: np.ndarray
    """Mean over tokens of the cosine of z-scored tokens, float64 [rows, levels]; reported beside it."""
    rungs: np.ndarray
    """Rung j of the step 2^(j/4), int64 [rows, groups]; [rows, 0] for codecs without steps."""

    @staticmethod
    def join(parts: Sequence[Quality]) -> Quality:
        """The rows of several batches, one after the other."""
        return Quality(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def rows(self, chosen: np.ndarray) -> Quality:
        """Some rows, by mask or index."""
        return Quality(*(column[chosen] for column in self))


class LevelFidelity(Frozen):
    """Cosine of decoded and original maps of one level over the samples of a shard."""

    min: float
    p1: float
    """First percentile."""
    mean: float


def summary(cosines: np.ndarray) -> tuple[LevelFidelity, ...] | None:
    """Minimum, first percentile and mean per level of `cosines` [samples, levels]; None without samples."""
    if not len(cosines):
        return None
    p1 = np.percentile(cosines, 1, axis=0, method="lower")
    columns = zip(cosines.min(axis=0), p1, cosines.mean(axis=0), strict=True)
    return tuple(LevelFidelity(min=float(low), p1=float(one), mean=float(mean)) for low, one, mean in columns)


def histogram(rungs: np.ndarray) -> dict[str, int]:
    """Rung -> how many (sample, group) pairs took it, by falling fineness."""
    values, counts = np.unique(rungs, return_counts=True)
    return {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}
