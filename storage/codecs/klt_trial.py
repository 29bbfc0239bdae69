"""Which basis and which zones does a group get: what takes fewest bits on held-out images within a budget.

A zone without a budget leaves out what would hardly ever be coded at the finest step that a held-out image
needs. With less to spend, a first zone is cut deeper, at a finer step for what is left; images that would
need a step more than `worth` rungs finer take the next zone, so that the usual one need not allow for the odd
one. The work is that of the held-out images' own zones, the bits are those of their records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from storage.codecs.base import LevelShape, map_of
from storage.codecs.dct import rings
from storage.codecs.klt import KltCodec
from storage.codecs.klt_basis import Basis
from storage.codecs.klt_moments import GroupMoments
from storage.codecs.klt_search import Coefficients, Estimate, bisect_rungs, choose_zones, part_of
from storage.codecs.klt_space import Space
from storage.codecs.klt_steps import step_of
from storage.config import CodecConfig

# a segment whose deviation is below this share of the finest usual step is left out of the zone: its
# coefficients would be beyond three deviations before the first of them became 1
_FAINT = 0.16
# how much deeper a first zone is cut, in quarters of an octave of that deviation, and rungs it may cost
_DEEPEST, _WORTHS = 24, (2, 4, 7)
# held-out images that are estimated and that are encoded
_ESTIMATED, _ENCODED = 12, 4


@dataclass(frozen=True)
class Trial:
    """A basis with zones, and what they came to on held-out images."""

    space: Space
    worth: int
    usage: Tensor
    """Share of samples in each zone, everything last, float32."""
    bits: float
    """Of a record, per value."""

    @cached_property
    def macs(self) -> float:
        """Multiply-adds of decoding a sample, on average."""
        return float(self.usage.double() @ torch.tensor(self.space.inverse_macs, dtype=torch.float64))

    @property
    def beyond(self) -> float:
        """Share of samples that need more than the first zone."""
        return 1 - float(self.usage[0])

    def tensors(self, group: int) -> dict[str, Tensor]:
        """What KltCodec reads as its group `group`."""
        basis, space = self.space.basis, self.space
        found = {f"basis.{group}.{n}": block.bfloat16() for n, block in enumerate(basis.blocks)}
        if basis.mix is not None:
            found[f"mix.{group}"] = basis.mix
        return found | {
            f"variance.{group}": torch.from_numpy(space.variance).float().contiguous(),
            f"kept.{group}": torch.from_numpy(space.kept[:-1]).int(),
            f"worth.{group}": torch.tensor(self.worth, dtype=torch.int32),
            f"usage.{group}": self.usage,
        }


class Held:
    """Held-out images of one group."""

    def __init__(
        self,
        shapes: Sequence[LevelShape],
        moments: Sequence[tuple[Tensor, Tensor]],
        maps: Sequence[Sequence[Tensor]],
    ) -> None:
        """Mean and scale [C] per level, and levels [N, C] per image."""
        self.shapes, self.moments, self.maps = shapes, moments, maps
        self.mean, self.scale = (torch.cat(column) for column in zip(*moments, strict=True))

    def z_scores(self) -> Iterator[Tensor]:
        """Tokens [1, N, D], image by image."""
        for levels in self.maps:
            yield ((torch.cat(list(levels), 1) - self.mean) / self.scale).unsqueeze(0)

    def levels(self, count: int) -> list[Tensor]:
        """Maps [B, C, h, w] of the first images."""
        columns = zip(*self.maps[:count], strict=True)
        return [
            map_of(torch.stack(column), shape) for column, shape in zip(columns, self.shapes, strict=True)
        ]


def best_trial(moments: GroupMoments, held: Held, *, config: CodecConfig, budget: float | None) -> Trial:
    """The trial of fewest bits among those within `budget` multiply-adds; if there is none, the cheapest."""
    kinds = {"joint": [False], "separable": [True], "auto": [False, True]}[config.basis]
    if not moments.separates:
        kinds = kinds[:1]
    trials = []
    for separable in kinds:
        basis = moments.basis(held.mean.double(), held.scale.double(), separable=separable)
        trials += _trials(basis, held, config, budget)
    fitting = [trial for trial in trials if budget is None or trial.macs <= budget]
    if fitting:
        return min(fitting, key=lambda trial: trial.bits)
    return min(trials, key=lambda trial: trial.macs)


def _trials(basis: Basis, held: Held, config: CodecConfig, budget: float | None) -> list[Trial]:
    """One trial per number of rungs that a smaller zone may cost; with a budget that does not bind, one."""
    probe = _Probe(basis, held, config.fidelity)
    whole = probe.space([probe.kept(0)])
    usage = probe.usage(whole, _WORTHS[0])
    if budget is None or _mean_macs(whole, usage) <= budget:
        return [_encode(whole, _WORTHS[0], usage, held, config)]
    trials = []
    for worth in _WORTHS:
        space, usage = probe.within(budget, worth)
        trials.append(_encode(space, worth, usage, held, config))
    return trials


class _Probe:
    """Zones of one basis, judged on a part of the coefficients of held-out images."""

    def __init__(self, basis: Basis, held: Held, fidelity: float) -> None:
        self._basis, self._shapes, self._allowed = basis, held.shapes, 1 - fidelity
        ring = torch.from_numpy(np.sort(rings(held.shapes[0].height, held.shapes[0].width)))
        self._variance = torch.zeros(sum(basis.widths), int(ring.max()) + 1, dtype=torch.float64)
        bare = self.space([])
        sums = torch.zeros_like(self._variance.T)
        parts, energies, places = [], [], part_of(bare, torch.device("cpu"))[0]
        for number, z in enumerate(held.z_scores()):
            batch = Coefficients(bare, z)
            sums.index_add_(0, ring, batch.all[0].double().square())
            if number < _ESTIMATED:
                parts.append(batch.all.index_select(1, places))
                energies.append(batch.energy)
        self._variance = (sums / (ring.bincount() * len(held.maps)).unsqueeze(1)).T.contiguous()
        self._part, self._energy = torch.cat(parts), torch.cat(energies)
        space = self.space([])
        self._free = bisect_rungs(Estimate(space, self._part, self._energy), self._allowed)
        self._floor = _FAINT * float(step_of(self._free.min()))

    def space(self, kept: Sequence[Tensor]) -> Space:
        """The space with these zones."""
        bands = self._variance.shape[1]
        none = torch.empty((0, len(self._basis.blocks), bands), dtype=torch.int32)
        zones = torch.stack(list(kept)) if kept else none
        return Space(self._shapes, self._basis, self._variance, zones)

    def kept(self, depth: int) -> Tensor:
        """Components per block and ring [blocks, rings] of a zone `depth` quarter octaves deep."""
        floor = (self._floor * 2 ** (depth / 4)) ** 2
        return torch.stack(
            [(block > floor).sum(0) for block in self._variance.split(self._basis.widths)]
        ).int()

    def usage(self, space: Space, worth: int) -> Tensor:
        """Share of the images in each zone."""
        estimate = Estimate(space, self._part, self._energy)
        zone = choose_zones(estimate, self._free, self._allowed, worth=worth)
        return zone.bincount(minlength=space.zones).float() / len(zone)

    def within(self, budget: float, worth: int) -> tuple[Space, Tensor]:
        """The widest zones within `budget` on average, else the cheapest, and their usage."""
        cheapest, least = None, float("inf")
        for depth in range(1, _DEEPEST + 1):
            space = self.space([self.kept(depth), self.kept(depth // 2), self.kept(0)])
            if space.inverse_macs[0] > budget and depth < _DEEPEST:
                continue
            usage = self.usage(space, worth)
            macs = _mean_macs(space, usage)
            if macs <= budget:
                return space, usage
            if macs < least:
                cheapest, least = (space, usage), macs
        assert cheapest is not None
        return cheapest


def _mean_macs(space: Space, usage: Tensor) -> float:
    return float(usage.double() @ torch.tensor(space.inverse_macs, dtype=torch.float64))


def _encode(space: Space, worth: int, usage: Tensor, held: Held, config: CodecConfig) -> Trial:
    """The trial with the bits of real records."""
    bare = Trial(space, worth, usage, 0.0)
    stats = bare.tensors(0)
    for number, (mean, scale) in enumerate(held.moments):
        stats |= {f"mean.{number}": mean, f"scale.{number}": scale}
    codec = KltCodec(config, tuple(held.shapes), stats)
    levels = held.levels(_ENCODED)
    encoded = codec.encode(levels)
    sizes = [
        len(codec.pack(row)) for row, reason in zip(encoded.codes, encoded.reasons, strict=True) if not reason
    ]
    bits = 8 * sum(sizes) / max(1, len(sizes)) / space.symbols
    return Trial(space, worth, usage, bits)
