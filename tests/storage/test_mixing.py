"""Class-sorted sources come out as mixed as a full shuffle would, at ImageNet's size too."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from storage.manifest import Segment
from storage.mixing import classes_by_chance, classes_per_batch
from storage.order import Order

IMAGES, CLASSES, BATCH, SHARD = 1_281_167, 1_000, 128, 256


def test_chance_is_the_mean_over_every_possible_batch() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 3, 3])
    for batch in range(1, 10):
        every = [len(set(labels[list(chosen)])) for chosen in combinations(range(9), batch)]
        assert classes_by_chance(labels, batch) == pytest.approx(np.mean(every), abs=1e-9)


def test_classes_are_counted_batch_by_batch() -> None:
    order = Order(3, (5, 5, 4), 4, 1, 2)
    labels = np.arange(14) // 3
    rows = [labels[order.batch(step)[:, 0]] for step in range(order.steps_per_epoch)]
    assert classes_per_batch(order, labels) == np.mean([len(set(row)) for row in rows])
    assert classes_per_batch(order, labels, [2]) == len(set(rows[2]))
    with pytest.raises(ValueError, match="13 labels for 14 samples"):
        classes_per_batch(order, labels[:13])


def imagenet() -> tuple[Order, np.ndarray]:
    """The order of a cache of ImageNet's shape, and the labels of its keys as they are sorted."""
    full, rest = divmod(IMAGES, SHARD)
    return Order(0, (*[SHARD] * full, rest), BATCH, 2, 8), np.arange(IMAGES) * CLASSES // IMAGES


def test_a_class_sorted_imagenet_mixes_as_a_full_shuffle() -> None:
    """The cache's permutation deals the keys to shards, the order's windows the shards to batches."""
    order, labels = imagenet()
    segment = Segment(index=1, source="s", keys=IMAGES, views=2, first_shard=0)
    steps = range(0, order.steps_per_epoch, 7)
    ratio = classes_per_batch(order, labels[segment.permutation()], steps) / classes_by_chance(labels, BATCH)
    assert 0.98 <= ratio <= 1.02


def test_shards_that_are_class_sorted_themselves_mix_no_worse() -> None:
    """Each slot has other shards, so a batch has about as many classes as positions."""
    order, labels = imagenet()
    steps = range(0, order.steps_per_epoch, 7)
    assert classes_per_batch(order, labels, steps) / classes_by_chance(labels, BATCH) >= 0.98
