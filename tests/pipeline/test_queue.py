"""The engine's logic: everything is executed, poison is isolated, the innocent are never given up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.queue import Queue


def drive(queue: Queue, workers: int, rng: random.Random, killers: set[int], raisers: set[int]) -> list[int]:
    """Run the queue with workers that die of `killers` and see an exception from `raisers`."""
    executed: list[int] = []
    names = list(range(workers))
    fresh = workers
    for _ in range(10_000):
        if queue.finished:
            return executed
        worker = rng.choice(names)
        while queue.take(worker) is not None:
            pass
        hand = queue.in_hand.get(worker, [])
        if not hand:
            continue
        unit = hand[0]
        executed.append(unit)
        if unit in killers:
            queue.lost(worker, "died")
            names[names.index(worker)] = fresh
            fresh += 1
        elif unit in raisers:
            queue.failed(worker, unit, "raised")
        elif rng.random() < 0.1:
            executed.pop()
            queue.returned(worker, unit)
        else:
            queue.done(worker, unit)
    raise AssertionError("the queue never finished")


@given(
    units=st.integers(0, 30),
    workers=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    killers=st.sets(st.integers(0, 29), max_size=3),
    raisers=st.sets(st.integers(0, 29), max_size=3),
)
def test_bad_units_are_exactly_the_poisonous_ones(units, workers, seed, killers, raisers) -> None:
    queue = Queue(range(units), max_tries=3)
    executed = drive(queue, workers, random.Random(seed), killers, raisers - killers)
    poison = (killers | raisers) & set(range(units))
    assert set(queue.bad) == poison
    assert queue.done_units == set(range(units)) - poison
    assert all(executed.count(unit) <= 3 for unit in range(units))


def test_a_suspect_runs_alone() -> None:
    queue = Queue(range(4), max_tries=3, in_flight=2)
    assert [queue.take("a"), queue.take("a"), queue.take("a")] == [0, 1, None]
    assert queue.lost("a", "died") == [0, 1]
    assert queue.take("b") == 0
    assert queue.take("b") is None, "a worker that holds a suspect gets nothing else"
    queue.done("b", 0)
    assert queue.take("b") == 1


def test_a_worker_that_cannot_be_reached_costs_no_execution() -> None:
    queue = Queue([7], max_tries=1)
    for _ in range(5):
        assert queue.take("a") == 7
        queue.returned("a", 7)
    assert queue.bad == {} and queue.tries == {}
