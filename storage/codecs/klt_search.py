"""How coarse may a sample be quantised: the zone, rung and reach that keep every level's cosine.

A search goes by an estimate: the errors of components add up in a level as if they never met, summed over a
part of the frequencies. It is right to a percent or two, and a product with the basis says the truth: what it
differs by corrects the estimate, until no coarser choice can be expected to hold. Only what a product has
shown to hold is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs.base import token_cosine
from storage.codecs.klt_space import Space
from storage.codecs.klt_steps import COARSEST, FINEST, REACHES, quantise, step_of

# what rounding in fp32 may take from a cosine after it has been measured
_MARGIN = 1e-6
# products of a search, and rungs that a sample may descend when its estimate misled it
_ROUNDS, _PATIENCE = 3, 32
# places between two rungs that are not worth another product: each is about 0.4% of the bits
_NEAR = 1
# rings whose frequencies are all looked at by an estimate, and the share of the others
_ALL_RINGS, _ONE_IN = 3, 8
_MIDDLE = 5


class Choice(NamedTuple):
    """What a search found for a batch."""

    codes: Tensor
    """Whole numbers, float32 [B, N, D]."""
    decoded: Tensor
    """Frequencies that they decode to [B, N, D]."""
    rung: Tensor
    """j of the step 2^(j/4), int64 [B]."""
    dead: Tensor
    """Reach of its zeros, int64 [B]."""
    zone: Tensor
    """Zone that holds all codes but zeros, int64 [B]."""
    lost: Tensor
    """1 - cosine per level, float64 [B, levels]."""

    def take(self, rows: Tensor, better: Choice) -> None:
        """Put rows of another choice in place of the same rows here."""
        for mine, theirs in zip(self, better, strict=True):
            mine[rows] = theirs


class Coefficients:
    """A batch of one group in its space."""

    def __init__(self, space: Space, z: Tensor) -> None:
        """z-scored tokens [B, N, D]."""
        self.space, self.device = space, z.device
        self.frequencies = space.frequencies(z)
        self.all = space.basis_on(z.device).forward(self.frequencies)
        levels = self.frequencies.split(space.channels, 2)
        self.energy = torch.stack([level.square().sum(2).double().sum(1) for level in levels], 1)
        """Per level, float64 [B, levels]."""

    def estimate(self) -> Estimate:
        """What can be said of any choice without a product."""
        places, _ = self.space.made_on("part", self.device, lambda: part_of(self.space, self.device))
        return Estimate(self.space, self.all.index_select(1, places), self.energy)

    def measure(self, rows: Tensor, rung: Tensor, dead: Tensor, zone: Tensor) -> Choice:
        """What quantising some rows so gives: exact but for rounding; a DCT changes no cosine."""
        codes = quantise(self.all[rows], precision_on(self.space, self.device), rung, dead)
        decoded = torch.empty_like(codes)
        for number in zone.unique().tolist():
            here = (zone == number).nonzero()[:, 0]
            inside = codes[here]
            if number < self.space.zones - 1:
                inside *= self.space.mask_on(self.device, number)
                codes[here] = inside
            decoded[here] = self.space.undo_basis(inside, number) * step_of(rung[here])
        pairs = zip(
            self.frequencies[rows].split(self.space.channels, 2),
            decoded.split(self.space.channels, 2),
            strict=True,
        )
        sums = [[(x * y).sum(2).double().sum(1) for x in (level, y)] for level, y in pairs]
        along, power = (torch.stack(column, 1) for column in zip(*sums, strict=True))
        return Choice(codes, decoded, rung, dead, zone, _lost(self.energy[rows], along, power))

    def tokenwise(self, decoded: Tensor, z: Tensor) -> Tensor:
        """Mean cosine of tokens, float64 [B, levels], of decoded frequencies and z-scores [B, N, D]."""
        tokens = self.space.tokens_of(decoded)
        pairs = zip(z.split(self.space.channels, 2), tokens.split(self.space.channels, 2), strict=True)
        return torch.stack([token_cosine(level, back) for level, back in pairs], 1)


class Estimate:
    """1 - cosine per level of any choice for a batch, from a part of its coefficients."""

    def __init__(self, space: Space, part: Tensor, energy: Tensor) -> None:
        """Coefficients of the frequencies of `part_of` [B, n, D], and the energy of levels [B, levels]."""
        device = part.device
        places, weights = space.made_on("part", device, lambda: part_of(space, device))
        self._part, self._weights = part, weights
        self._precision = precision_on(space, device).index_select(0, places)
        self._shares, self._energy, self.zones = space.shares_on(device), energy, space.zones
        masks = [space.mask_on(device, zone).index_select(0, places) for zone in range(space.zones)]
        self._masks = torch.stack(masks)
        self.samples, self.device = len(part), device

    def lost(self, rung: Tensor, dead: Tensor, zone: Tensor) -> Tensor:
        """Float64 [B, levels]."""
        codes = quantise(self._part, self._precision, rung, dead)
        codes.mul_(self._masks[zone])
        # rounding knows nothing of what it rounds, but what became 0 is missing from the level
        gone = self._part.masked_fill(codes != 0, 0).square_().mul_(self._weights)
        error = codes.mul_(step_of(rung)).sub_(self._part).square_().mul_(self._weights)
        along, power = (x.sum(1).double() @ self._shares for x in (-gone, error))
        return _lost(self._energy, self._energy + along, self._energy + 2 * along + power)


def search(batch: Coefficients, *, fidelity: float, worth: int) -> Choice:
    """The coarsest quantisation of each sample that loses no level's `fidelity`, as far as one is found.

    A sample whose first zones ask for more than `worth` rungs below those of everything takes a later one.
    """
    allowed = max(1 - fidelity - _MARGIN, 0.0)
    estimate, rows = batch.estimate(), torch.arange(len(batch.all), device=batch.device)
    free = bisect_rungs(estimate, allowed)
    zone = choose_zones(estimate, free, allowed, worth=worth)
    rung, dead = _coarsest(estimate, zone, allowed, near=free)
    best = batch.measure(rows, rung, dead, zone)
    for _ in range(_ROUNDS):
        guess = estimate.lost(best.rung, best.dead, best.zone)
        ratio = best.lost / guess.clamp_min(1e-12)
        holds = (best.lost <= allowed).all(1)
        rung, dead = _coarsest(estimate, zone, allowed, ratio=ratio, near=best.rung)
        place, now = rung * REACHES + dead, best.rung * REACHES + best.dead
        # one that missed must descend, whatever its estimate says
        place = torch.where(holds, place, torch.minimum(place, now - 1)).clamp_min(FINEST * REACHES)
        open_rows = torch.where(holds, place > now + _NEAR, place < now).nonzero()[:, 0]
        if not len(open_rows):
            break
        place = place[open_rows]
        rung = torch.div(place, REACHES, rounding_mode="floor")
        found = batch.measure(open_rows, rung, place % REACHES, zone[open_rows])
        better = ~holds[open_rows] | (found.lost <= allowed).all(1)
        best.take(open_rows[better], Choice(*(column[better] for column in found)))
        if not better.all():
            break
    return _descend(batch, best, allowed)


def fixed(batch: Coefficients, place: int) -> Choice:
    """The same rung and reach for all, place = rung * 16 + reach, and everything in its zone."""
    rows = torch.arange(len(batch.all), device=batch.device)
    rung, dead = divmod(place, REACHES)
    zone = torch.full_like(rows, batch.space.zones - 1)
    return batch.measure(rows, torch.full_like(rows, rung), torch.full_like(rows, dead), zone)


def _descend(batch: Coefficients, best: Choice, allowed: float) -> Choice:
    """Rows that still miss, a rung at a time with everything, until they hold."""
    everything = batch.space.zones - 1
    for _ in range(_PATIENCE):
        missed = (best.lost > allowed).any(1) & (best.rung > FINEST)
        rows = missed.nonzero()[:, 0]
        if not len(rows):
            break
        zone = torch.full_like(rows, everything)
        # a row that did not use everything may find its rung enough
        rung = best.rung[rows] - (best.zone[rows] == everything).long()
        best.take(rows, batch.measure(rows, rung, torch.zeros_like(rows), zone))
    return best


def choose_zones(estimate: Estimate, free: Tensor, allowed: float, *, worth: int) -> Tensor:
    """The first zone of each sample that is expected to cost at most `worth` rungs, int64 [B].

    `free`: the rungs of everything.
    """
    zone = torch.full_like(free, estimate.zones - 1)
    rung, middle = (free - worth).clamp_min(FINEST), torch.full_like(free, _MIDDLE)
    for number in reversed(range(estimate.zones - 1)):
        here = torch.full_like(free, number)
        fits = (estimate.lost(rung, middle, here) <= allowed).all(1)
        # zones are nested: what fits one fits the later ones
        zone = torch.where(fits, here, zone)
    return zone


def bisect_rungs(estimate: Estimate, allowed: float) -> Tensor:
    """The largest rung of each sample that is expected to hold with everything, int64 [B]."""
    samples, device = estimate.samples, estimate.device
    least = torch.full((samples,), FINEST, device=device)
    most = torch.full_like(least, COARSEST)
    zone, middle = torch.full_like(least, estimate.zones - 1), torch.full_like(least, _MIDDLE)
    for _ in range((COARSEST - FINEST).bit_length()):
        rung = torch.div(least + most + 1, 2, rounding_mode="floor")
        good = (estimate.lost(rung, middle, zone) <= allowed).all(1)
        least, most = torch.where(good, rung, least), torch.where(good, most, rung - 1)
    return least


def _coarsest(
    estimate: Estimate, zone: Tensor, allowed: float, *, near: Tensor, ratio: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Rung and reach, within 4 rungs of `near`, that are expected to hold when estimates err by `ratio`."""

    # the largest place = rung * REACHES + reach: what is lost grows evenly enough for bisection
    place = (near - 4) * REACHES
    for power in reversed(range((8 * REACHES).bit_length() - 1)):
        above = place + 2**power
        rung = torch.div(above, REACHES, rounding_mode="floor").clamp(FINEST, COARSEST)
        lost = estimate.lost(rung, above % REACHES, zone) * ratio
        place = torch.where((lost <= allowed).all(1), above, place)
    rung = torch.div(place, REACHES, rounding_mode="floor")
    inside = rung.clamp(FINEST, COARSEST)
    return inside, torch.where(rung == inside, place % REACHES, 0)


def _lost(energy: Tensor, along: Tensor, power: Tensor) -> Tensor:
    """1 - cosine of x and y from |x|^2, x.y and |y|^2; two zero maps are alike."""
    cosine = (along / (energy * power).sqrt()).clamp(-1, 1)
    zero = (energy <= 0) | (power <= 0)
    return 1 - torch.where(zero, (energy == power).double(), cosine)


def precision_on(space: Space, device: torch.device) -> Tensor:
    """1 / calibrated deviation of each coefficient, float32 [N, D], on `device`."""

    def make() -> Tensor:
        with np.errstate(divide="ignore"):
            return torch.from_numpy((1 / np.sqrt(space.variance)).T[space.ring].astype(np.float32)).to(device)

    return space.made_on("precision", device, make)


def part_of(space: Space, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies that an estimate looks at, int64 [n], and how many each stands for, float32 [n, 1]."""
    counts = np.bincount(space.ring)
    places, weights, first = [], [], 0
    for ring, (count, end) in enumerate(zip(counts, space.ends, strict=True)):
        some = np.arange(first, end)[:: 1 if ring <= _ALL_RINGS else _ONE_IN]
        places.append(some)
        weights.append(np.full(len(some), count / len(some), np.float32))
        first = end
    taken, weight = np.concatenate(places), np.concatenate(weights)
    return torch.from_numpy(taken).to(device), torch.from_numpy(weight).unsqueeze(1).to(device)
