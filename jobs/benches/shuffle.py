"""How well are batches mixed: classes in one, on input that is sorted by class, beside a full shuffle?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jobs.benches.material import Material
from jobs.benches.table import Asked, Row, Section
from storage.manifest import permutation
from storage.order import Order

BATCH, WINDOW, SHARD = 128, 8, 256
IMAGENET, CLASSES = 1_281_167, 1000


def run(material: Material) -> list[Section]:
    """ImageNet's sizes; the input's keys run through the classes one after the other."""
    samples, classes, steps = (20_000, 100, 50) if material.ask.quick else (IMAGENET, CLASSES, 500)
    by_key = np.arange(samples) * classes // samples
    full = np.random.default_rng(0).permutation(by_key)[: steps * BATCH].reshape(steps, BATCH)
    best = mean_classes(full)
    chosen = np.linspace(0, samples // BATCH - 1, steps).astype(int)
    sizes = tuple(np.diff([*range(0, samples, SHARD), samples]).tolist())
    rows = []
    for window in (1, WINDOW):
        order = Order(0, sizes, BATCH, 1, window)
        batches = np.stack([order.batch(int(step))[:, 0] for step in chosen])
        asked = Asked(0.98, "ratio", "least") if window == WINDOW else None
        cached = by_key[permutation("bench", samples)][batches]
        what = f"shards of permuted keys, windows of {window} shards"
        rows.append(Row(what, mean_classes(cached), "classes", "full shuffle", best, asked))
        what = f"shards of sorted keys, windows of {window} shards"
        rows.append(Row(what, mean_classes(by_key[batches]), "classes", "full shuffle", best))
    notes = [
        f"{samples:,} samples of {classes} classes in shards of {SHARD}; {steps} batches over an epoch",
        "a cache's shards hold permuted keys; shards of sorted keys show what slots and windows do alone",
    ]
    return [Section(f"classes in a batch of {BATCH}, on input sorted by class", rows, notes)]


def mean_classes(batches: NDArray[np.int64]) -> float:
    """Mean number of different classes in a batch, of classes [batches, positions]."""
    return float(np.mean([len(np.unique(batch)) for batch in batches]))
