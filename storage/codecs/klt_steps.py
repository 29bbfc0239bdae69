"""How coarse may a sample be quantised: the largest step of a ladder that keeps every level's cosine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from storage.codecs.base import flat_cosine, token_cosine
from storage.codecs.klt_space import Space

FINEST, COARSEST = -64, 240
"""Ends of the ladder: steps from 2^-16 to 2^60 z-scores."""
_DEAD_PARTS, _DEAD_MOST = 32, 7
# what rounding in fp32 may take from a cosine after it has been measured
_MARGIN = 1e-6


class Choice(NamedTuple):
    """Rungs of a batch and what they keep."""

    rung: Tensor
    """j of the step 2^(j/4), int64 [B]."""
    cosine: Tensor
    """Cosine per level, float64 [B, levels]."""
    reached: Tensor
    """Whether every level has the asked cosine, bool [B]."""


def step_of(rung: Tensor) -> Tensor:
    """2^(rung/4), float32 [B, 1, 1]."""
    return torch.exp2(rung.double() / 4).float().view(-1, 1, 1)


def choose_steps(measure: Measure, *, fidelity: float, start: Tensor, patience: int) -> Choice:
    """The rung of each sample: exact checks up or down the ladder from `start`, an estimate.

    `patience` is the number of rungs after which a sample stays where it is, reached or not.
    """
    target = min(fidelity + _MARGIN, 1.0)
    rung, cosine = start, measure.exact(start)
    good = (cosine >= target).all(1)
    best, kept, reached = rung, cosine, good
    moving = torch.ones_like(good)
    for _ in range(patience):
        rung = (rung + torch.where(good, 1, -1)).clamp(FINEST, COARSEST)
        cosine = measure.exact(rung)
        passes = (cosine >= target).all(1)
        # a sample that held climbs while it holds; one that missed descends until it holds
        better = moving & (passes | ~good)
        best, kept = torch.where(better, rung, best), torch.where(better.unsqueeze(1), cosine, kept)
        reached = reached | (moving & passes)
        moving = moving & (passes == good)
        if not moving.any():
            break
    return Choice(best, kept, reached)


def estimate_rungs(measure: Measure, fidelity: float) -> Tensor:
    """The largest rung whose estimated cosines reach `fidelity`, by bisection; int64 [B]."""
    low = torch.full((measure.samples,), FINEST, device=measure.device)
    high = torch.full_like(low, COARSEST)
    for _ in range((COARSEST - FINEST).bit_length()):
        middle = (low + high + 1) // 2
        good = (measure.estimate(middle) >= fidelity).all(1)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle - 1)
    return low.clamp(FINEST, COARSEST)


def widen_dead_zones(measure: Measure, *, fidelity: float, choice: Choice) -> tuple[Tensor, Tensor]:
    """What a rung leaves over, spent on zeros: the widest dead zone of each sample, and its cosines.

    A coefficient becomes 0 up to 1/2 + d/32 steps; d, int64 [B], is the largest of 0..7 that holds, by
    bisection. Decoding does not depend on it.
    """
    target = min(fidelity + _MARGIN, 1.0)
    low, cosine = torch.zeros_like(choice.rung), choice.cosine
    high = torch.where(choice.reached, _DEAD_MOST, 0)
    for _ in range(_DEAD_MOST.bit_length()):
        middle = (low + high + 1) // 2
        found = measure.exact(choice.rung, middle)
        good = (found >= target).all(1)
        low, high = torch.where(good, middle, low), torch.where(good, high, (middle - 1).clamp_min(0))
        cosine = torch.where(good.unsqueeze(1), found, cosine)
    return low, cosine


class Measure:
    """Cosine per level of quantised coefficients against the original: exact, or from sums per component."""

    def __init__(self, space: Space, frequencies: Tensor, everything: Tensor, kept: Tensor) -> None:
        """Frequencies, all their coefficients, and those to be kept (zero elsewhere), [B, N, D] each."""
        self._everything, self._kept, self._channels = everything, kept, space.channels
        self._space = space
        self._levels = frequencies.split(space.channels, 2)
        self._basis, self._shares = space.basis_on(kept.device), space.shares_on(kept.device)
        self._energy = torch.stack([level.square().sum((1, 2)).double() for level in self._levels], 1)
        self.samples, self.device = len(kept), kept.device

    def exact(self, rung: Tensor, dead: Tensor | None = None) -> Tensor:
        """Float64 [B, levels]: a DCT changes no cosine, so none is undone here."""
        decoded = self._basis.inverse(self._quantised(rung, dead))
        pairs = zip(self._levels, decoded.split(self._channels, 2), strict=True)
        return torch.stack([flat_cosine(level, back) for level, back in pairs], 1)

    def tokenwise(self, decoded: Tensor, z: Tensor) -> Tensor:
        """Mean cosine of tokens, float64 [B, levels], of coefficients and z-scores [B, N, D]."""
        back = self._space.tokens_of(self._basis.inverse(decoded))
        pairs = zip(z.split(self._channels, 2), back.split(self._channels, 2), strict=True)
        return torch.stack([token_cosine(level, decoded) for level, decoded in pairs], 1)

    def estimate(self, rung: Tensor) -> Tensor:
        """Float64 [B, levels], as if errors of different components never met."""
        error = self._quantised(rung).sub_(self._everything)
        along = (error * self._everything).sum(1).double() @ self._shares
        power = error.square_().sum(1).double() @ self._shares
        decoded = (self._energy + 2 * along + power).clamp_min(1e-300)
        return (self._energy + along) / (self._energy * decoded).sqrt().clamp_min(1e-300)

    def codes(self, rung: Tensor, dead: Tensor | None = None) -> Tensor:
        """Whole numbers, float32 [B, N, D], with dead zones of 1/2 + `dead`/32 steps."""
        scaled = self._kept / step_of(rung)
        if dead is None:
            return scaled.round_()
        reach = (0.5 + dead.float() / _DEAD_PARTS).view(-1, 1, 1)
        near = scaled.abs() < reach
        return scaled.round_().masked_fill_(near, 0)

    def _quantised(self, rung: Tensor, dead: Tensor | None = None) -> Tensor:
        return self.codes(rung, dead).mul_(step_of(rung))
