"""How well do batches mix what a source keeps sorted? Distinct classes per batch, counted and by chance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from storage.order import Order

Ints = NDArray[np.int64]


def classes_per_batch(order: Order, labels: Ints, steps: Iterable[int] | None = None) -> float:
    """Mean number of distinct labels in the batches of `steps`, of the first epoch unless told.

    labels: class of each position of a view's sample list `[N]`, that is of the keys in the order of the
    cache's permutation. Exact: every batch is counted. Raises ValueError for another number of labels.
    """
    if len(labels) != order.samples:
        what = f"{len(labels)} labels for {order.samples} samples"
        raise ValueError(f"{what}; give one label per position of a view")
    counts = [
        len(np.unique(labels[order.batch(step)[:, 0]]))
        for step in (range(order.steps_per_epoch) if steps is None else steps)
    ]
    return float(np.mean(counts))


def classes_by_chance(labels: Ints, batch: int) -> float:
    """The expected number of distinct labels among `batch` samples of a full shuffle.

    A class of n of N samples is absent with probability C(N - n, batch) / C(N, batch).
    """
    sizes, total = np.unique(labels, return_counts=True)[1], len(labels)
    rest = [total - int(size) for size in sizes if total - size >= batch]
    absent = (math.exp(_log_choices(other, batch) - _log_choices(total, batch)) for other in rest)
    return len(sizes) - math.fsum(absent)


def _log_choices(count: int, taken: int) -> float:
    """log C(count, taken)."""
    return math.lgamma(count + 1) - math.lgamma(taken + 1) - math.lgamma(count - taken + 1)
