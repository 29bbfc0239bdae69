"""Every sample exactly once per pass, in every small world, on any ranks, from any step; and well mixed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.order import Order, rank_slots


def cut(samples: int, rows: int) -> tuple[int, ...]:
    return tuple(min(rows, samples - first) for first in range(0, samples, rows))


def worlds():
    for samples, rows, batch in itertools.product(range(1, 15), (1, 3, 4, 20), range(1, 8)):
        if batch <= samples:
            yield cut(samples, rows), batch


SMALL_WORLDS = list(worlds())


@pytest.mark.parametrize("window", [1, 2, 50])
def test_each_sample_exactly_once_per_pass_in_every_small_world(window):
    for sizes, batch in SMALL_WORLDS:
        order = Order(3, sizes, batch, 2, window)
        for turn in range(3):
            seen = []
            for slot in range(batch):
                first, stop = order.slot_range(slot)
                pass_ = [order.slot_sample(slot, turn * (stop - first) + i) for i in range(stop - first)]
                assert {view for _, view in pass_} == {turn % 2}
                seen += [position for position, _ in pass_]
            assert sorted(seen) == list(range(sum(sizes)))


def test_slots_are_even_and_an_epoch_sees_every_sample_once_or_twice():
    for sizes, batch in SMALL_WORLDS:
        order = Order(0, sizes, batch, 1, 2)
        lengths = {b - a for a, b in map(order.slot_range, range(batch))}
        assert max(lengths) - min(lengths) <= 1
        rows = np.concatenate([order.batch(step)[:, 0] for step in range(order.steps_per_epoch)])
        counts = Counter(rows.tolist())
        assert set(counts) == set(range(sum(sizes)))
        assert len(rows) - sum(sizes) < batch and max(counts.values()) <= 2


def test_batch_is_the_slots_next_samples_at_any_step_in_any_direction():
    for sizes, batch in SMALL_WORLDS[::5]:
        order = Order(1, sizes, batch, 3, 2)
        steps = 3 * order.steps_per_epoch
        expected = [[order.slot_sample(slot, step) for slot in range(batch)] for step in range(steps)]
        for walk in (range(steps), reversed(range(steps)), [2, 0, 2, 1]):
            assert all(np.array_equal(order.batch(step), expected[step]) for step in walk)


def test_ranks_only_cut_the_sequence_and_resuming_continues_it():
    for sizes, batch in SMALL_WORLDS[::7]:
        whole = Order(2, sizes, batch, 2, 2)
        sequence = [whole.batch(step).tolist() for step in range(10)]
        for world in range(1, batch + 1):
            blocks = [rank_slots(batch, world, rank) for rank in range(world)]
            for start in (0, 1, 5):
                resumed = [Order(2, sizes, batch, 2, 2) for _ in blocks]
                for step in range(start, 10):
                    parts = [o.batch(step, b[0], b[1]) for o, b in zip(resumed, blocks, strict=True)]
                    assert np.concatenate(parts).tolist() == sequence[step]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    data=st.data(),
    window=st.integers(1, 6),
    seed=st.integers(0, 2**63),
)
@settings(max_examples=60, deadline=None)
def test_any_shard_sizes(sizes, data, window, seed):
    batch = data.draw(st.integers(1, sum(sizes)))
    order = Order(seed, tuple(sizes), batch, 2, window)
    edges = np.cumsum([0, *sizes])
    for slot in range(batch):
        first, stop = order.slot_range(slot)
        turn = data.draw(st.integers(0, 1000))
        positions = [order.slot_sample(slot, turn * (stop - first) + i)[0] for i in range(stop - first)]
        assert sorted(positions) == list(range(first, stop))
        shards = np.searchsorted(edges, positions, "right") - 1
        # No more shards are open at a time than the window holds.
        spans = [np.flatnonzero(shards == s) for s in np.unique(shards)]
        in_use = max(sum(span[0] <= i <= span[-1] for span in spans) for i in range(len(shards)))
        assert in_use <= window


@pytest.mark.parametrize("batch", range(1, 24))
def test_rank_slots_tile_the_batch_evenly(batch):
    for world in range(1, batch + 1):
        blocks = [rank_slots(batch, world, rank) for rank in range(world)]
        covered = [slot for first, count, _ in blocks for slot in range(first, first + count)]
        assert covered == list(range(batch))
        assert {padded for *_, padded in blocks} == {-(-batch // world)}
        assert all(0 <= padded - count <= 1 and count > 0 for _, count, padded in blocks)


def test_passes_and_seeds_are_shuffled_differently():
    order = Order(0, cut(1000, 50), 4, 1, 3)
    passes = [[order.slot_sample(1, turn * 250 + i)[0] for i in range(250)] for turn in range(3)]
    other = [Order(1, cut(1000, 50), 4, 1, 3).slot_sample(1, i)[0] for i in range(250)]
    for a, b in itertools.combinations([*passes, other], 2):
        assert np.mean(np.array(a) == b) < 0.05


def mixing(labels: np.ndarray, positions: np.ndarray) -> tuple[float, float]:
    """Mean distinct labels per batch, and how often a slot's consecutive samples share the label."""
    seen = labels[positions]
    distinct = np.mean([len(np.unique(row)) for row in seen])
    return float(distinct), float(np.mean(seen[1:] == seen[:-1]))


def test_a_class_sorted_source_is_mixed_as_a_full_shuffle_would():
    samples, batch, rng = 12_800, 32, np.random.default_rng(0)
    order = Order(0, cut(samples, 64), batch, 1, 4)
    steps = order.steps_per_epoch
    positions = np.stack([order.batch(step)[:, 0] for step in range(steps)])
    class_sorted = np.arange(samples) // (samples // 100)
    distinct, repeats = mixing(class_sorted[rng.permutation(samples)], positions)
    full = rng.permutation(samples)[: steps * batch].reshape(steps, batch)
    expected, chance = mixing(class_sorted, full)
    assert abs(distinct - expected) < 0.3 and abs(repeats - chance) < 0.003
    # Without the segment's permutation a slot stays among a few classes: the test can tell.
    assert mixing(class_sorted, positions)[1] > 10 * chance


def test_a_window_mixes_its_shards():
    order = Order(0, cut(6400, 64), 4, 1, 5)
    shards = np.stack([order.batch(step)[:, 0] for step in range(1600)]) // 64
    repeats = np.mean(shards[1:] == shards[:-1])
    assert 0.15 < repeats < 0.25  # one in five, as drawn from five shards


def test_it_does_not_depend_on_the_process_and_is_pinned():
    order = Order(7, (5, 5, 3), 4, 2, 2)
    here = f"{order.batch(5).tolist()} {order.fingerprint}"
    program = "from storage.order import Order; o = Order(7, (5, 5, 3), 4, 2, 2); "
    program += "print(o.batch(5).tolist(), o.fingerprint)"
    run = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "PYTHONHASHSEED": "99"}, "text": True}
    assert subprocess.check_output([sys.executable, "-c", program], **run).strip() == here
    # A change of this line breaks the resumption of every run there is.
    assert here == "[[2, 1], [4, 1], [6, 1], [11, 1]] 06cb914385de620d"


@pytest.mark.parametrize("change", [{"seed": 8}, {"window": 3}, {"views": 1}, {"shard_sizes": (5, 4, 4)}])
def test_the_fingerprint_sees_every_input(change):
    base = {"seed": 7, "shard_sizes": (5, 5, 3), "global_batch": 4, "views": 2, "window": 2}
    assert Order(**base).fingerprint != Order(**(base | change)).fingerprint


def test_imagenet_at_batch_128_costs_microseconds():
    order = Order(0, cut(1_281_167, 256), 128, 2, 8)
    order.batch(0)
    begin = time.process_time()
    for step in range(1, 2500):
        order.batch(step)
    assert (time.process_time() - begin) / 2500 < 300e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (4, 4), 9, 1, 1), "8 samples per view, the global batch asks 9"),
        ((0, (4, 4), 0, 1, 1), "global_batch is 0"),
        ((0, (4, 4), 2, 0, 1), "views is 0"),
        ((0, (4, 4), 2, 1, 0), "window is 0"),
        ((-1, (4, 4), 2, 1, 1), "seed"),
        ((0, (4, 0), 2, 1, 1), "at least one sample"),
        ((0, (), 2, 1, 1), "0 shards"),
    ],
)
def test_what_makes_no_batch_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(*arguments)


def test_questions_outside_the_batch_are_refused():
    order = Order(0, (4, 4), 4, 1, 1)
    for step, first, slots in [(-1, 0, 4), (0, 1, 4), (0, -1, 2), (0, 5, None)]:
        with pytest.raises(ValueError, match="ask within it"):
            order.batch(step, first, slots)
    with pytest.raises(ValueError, match="slot 4"):
        order.slot_sample(4, 0)
    with pytest.raises(ValueError, match="at most 4 ranks"):
        rank_slots(4, 5, 0)
    with pytest.raises(ValueError, match="rank 2"):
        rank_slots(4, 2, 2)
