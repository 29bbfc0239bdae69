"""What is the learning rate at a step? Pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def cosine(total_steps: int, *, warmup_steps: int, base: float, start: float, floor: float) -> Schedule:
    """Linear warm-up from `start` to `base`, then half a cosine down to `floor` (stage 1, Table 11).

    Step `warmup_steps` is the first at `base`; step `total_steps`, never taken, would be at `floor`.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warm-up of {warmup_steps} steps in a run of {total_steps}; shorten stage1.warmup_epochs"
        )

    def rate(step: int) -> float:
        if step < warmup_steps:
            return start + (base - start) * step / warmup_steps
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        return floor + (base - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return rate


def poly(total_steps: int, *, base: float, power: float = 0.9) -> Schedule:
    """base * (1 - step / total_steps) ** power (stage 2)."""

    def rate(step: int) -> float:
        return base * (1 - min(step, total_steps) / total_steps) ** power

    return rate
