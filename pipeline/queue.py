"""Which shard is executed next, by whom, and when it is given up: the engine's logic, without Ray.

The driver owns the tries. A unit that raised, or whose worker died, has been executed once more; after
`max_tries` executions it is bad and left out while the rest goes on. When a worker dies with several units in
hand nobody knows which one killed it: all of them become suspects, and a suspect runs alone on its worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable


class Queue:
    """Units waiting, in hand, done and bad.

    Args:
        units: shard indices, in the order in which they should run.
        max_tries: executions of a unit before it is bad.
        in_flight: units one worker may hold, so that it never waits for the driver.
    """

    def __init__(self, units: Iterable[int], *, max_tries: int = 3, in_flight: int = 2) -> None:
        self._waiting = deque(units)
        self._suspects: deque[int] = deque()
        self._max_tries = max_tries
        self._in_flight = in_flight
        self.in_hand: dict[Hashable, list[int]] = {}
        self._alone: set[int] = set()
        self.tries: dict[int, int] = {}
        self.bad: dict[int, str] = {}
        self.done_units: set[int] = set()

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is in a worker's hands."""
        return not self._waiting and not self._suspects and not any(self.in_hand.values())

    @property
    def waiting(self) -> int:
        """Units that no worker holds yet."""
        return len(self._waiting) + len(self._suspects)

    def take(self, worker: Hashable) -> int | None:
        """The next unit for `worker`, or None when it should get nothing now."""
        hand = self.in_hand.setdefault(worker, [])
        if any(unit in self._alone for unit in hand) or len(hand) >= self._in_flight:
            return None
        if self._suspects and not hand:
            unit = self._suspects.popleft()
            self._alone.add(unit)
        elif self._waiting:
            unit = self._waiting.popleft()
        else:
            return None
        hand.append(unit)
        return unit

    def done(self, worker: Hashable, unit: int) -> None:
        """`unit` is committed."""
        self._release(worker, unit)
        self.done_units.add(unit)

    def failed(self, worker: Hashable, unit: int, reason: str) -> None:
        """`unit` raised: one execution more, retried alone or given up."""
        self._release(worker, unit)
        self._count(unit, reason)

    def lost(self, worker: Hashable, reason: str) -> list[int]:
        """`worker` died: every unit in its hands was executed and is suspect. Returns those units."""
        units = self.in_hand.pop(worker, [])
        for unit in units:
            self._alone.discard(unit)
            self._count(unit, reason)
        return units

    def returned(self, worker: Hashable, unit: int) -> None:
        """`unit` came back unexecuted (the worker could not be reached): no execution is counted."""
        self._release(worker, unit)
        (self._suspects if unit in self.tries else self._waiting).append(unit)

    def _release(self, worker: Hashable, unit: int) -> None:
        self.in_hand[worker].remove(unit)
        self._alone.discard(unit)

    def _count(self, unit: int, reason: str) -> None:
        self.tries[unit] = self.tries.get(unit, 0) + 1
        if self.tries[unit] >= self._max_tries:
            self.bad[unit] = reason
        else:
            self._suspects.append(unit)
