"""Which basis and which zone does a teacher need: one pass over images for covariance and ring variances.

Tokens of most images go into a covariance of the D channels that share a grid; every fourth image is kept
whole instead, up to a budget, so that variances per frequency are measured on images that the basis has not
seen: measured on its own images, a basis of thousands of dimensions looks better than it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from storage.codecs.base import LevelShape, check_shapes, tokens_of
from storage.codecs.calibration import Calibrator
from storage.codecs.dct import rings
from storage.codecs.klt_basis import Basis
from storage.codecs.klt_space import Space, group_levels
from storage.codecs.klt_steps import Measure, choose_steps, estimate_rungs, step_of
from storage.config import CodecConfig

_log = logging.getLogger(__name__)

_WHOLE_EVERY = 4
_WHOLE_BYTES, _WHOLE_MOST = 512 << 20, 32
_ENOUGH = 100
# a segment whose root mean square is below this share of the finest usual step is left out of the zone:
# its coefficients would be beyond three deviations before the first of them became 1
_FAINT = 0.16


class KltCalibrator:
    """Mean and scale, bases, ring variances and zones; sums are fp64 and the result deterministic."""

    def __init__(
        self, config: CodecConfig, shapes: Sequence[LevelShape], budget_gmac: float | None = None
    ) -> None:
        self._budget_gmac = budget_gmac
        self._config, self._shapes = config, tuple(LevelShape(*shape) for shape in shapes)
        self._groups = [
            _GroupMoments([self._shapes[n] for n in levels]) for levels in group_levels(self._shapes)
        ]
        self._levels = Calibrator(self._shapes)
        self._seen = 0
        self._whole: list[list[Tensor]] = []
        size = 4 * sum(shape.values for shape in self._shapes)
        self._room = min(_WHOLE_MOST, max(2, _WHOLE_BYTES // size))

    def update(self, levels: Sequence[Tensor]) -> None:
        """Add a batch of maps, [B, C, h, w] per level, without those that hold NaN or infinity.

        Raises ValueError for shapes other than the calibrator's.
        """
        check_shapes(levels, self._shapes)
        sound = torch.stack([level.isfinite().flatten(1).all(1) for level in levels]).all(0)
        levels = [level[sound] for level in levels]
        self._levels.update(levels)
        tokens = [tokens_of(level) for level in levels]
        for row in range(len(levels[0])):
            maps = [level[row] for level in tokens]
            if self._seen % _WHOLE_EVERY == 1 and len(self._whole) < self._room:
                self._whole.append([level.cpu() for level in maps])
            else:
                for group, numbers in zip(self._groups, group_levels(self._shapes), strict=True):
                    group.add([maps[n] for n in numbers], self._seen, self._config.calibration_tokens)
            self._seen += 1

    def merge(self, other: KltCalibrator) -> None:
        """Add what another calibrator of the same config and shapes has seen."""
        self._levels.merge(other._levels)
        for mine, theirs in zip(self._groups, other._groups, strict=True):
            mine.merge(theirs)
        self._whole = (self._whole + other._whole)[: self._room]
        self._seen += other._seen

    def finish(self) -> dict[str, Tensor]:
        """`mean.<level>` and `scale.<level>`, fp32 [C]; per group of levels that share a grid:
        `basis.<group>.<block>` bf16 [components, channels], with a separable basis `mix.<group>` fp32,
        `variance.<group>` fp32 [components, rings], `kept.<group>` int32 [zones, blocks, rings].

        Raises ValueError with fewer than two sound images: one for the basis, one for its variances.
        """
        if self._seen < 2:
            raise ValueError(
                f"codec klt calibrates on two images at least, {self._seen} could be used; raise "
                "calibration_images"
            )
        stats = self._levels.finish()
        for index, numbers in enumerate(group_levels(self._shapes)):
            mean = torch.cat([stats[f"mean.{n}"] for n in numbers]).double()
            scale = torch.cat([stats[f"scale.{n}"] for n in numbers]).double()
            group = self._groups[index]
            basis = group.basis(mean, scale, separable=self._config.basis == "separable")
            for block, rows in enumerate(basis.blocks):
                stats[f"basis.{index}.{block}"] = rows.bfloat16()
            if basis.mix is not None:
                stats[f"mix.{index}"] = basis.mix
            maps = [torch.cat([image[n] for n in numbers], 1) for image in self._whole]
            shapes = [self._shapes[n] for n in numbers]
            zone = _zone(maps, (mean.float(), scale.float()), shapes, basis, fidelity=self._config.fidelity)
            stats[f"variance.{index}"], stats[f"kept.{index}"] = zone
        return stats


class _GroupMoments:
    """Second moments of the channels of levels that share a grid."""

    def __init__(self, shapes: Sequence[LevelShape]) -> None:
        self._widths, self._tokens = [shape.channels for shape in shapes], shapes[0].tokens
        self._count = 0
        self._sum: Tensor | None = None
        self._moments: Tensor | None = None

    def add(self, levels: Sequence[Tensor], ordinal: int, most: int) -> None:
        """Add up to `most` tokens of one image's levels [N, C]; `ordinal` decides which."""
        tokens = torch.cat(list(levels), 1)
        if self._tokens > most:
            chosen = np.random.default_rng(ordinal).choice(self._tokens, most, replace=False)
            tokens = tokens[torch.from_numpy(np.sort(chosen)).to(tokens.device)]
        tokens = tokens.double()
        self._accumulate(len(tokens), tokens.sum(0), tokens.T @ tokens)

    def merge(self, other: _GroupMoments) -> None:
        """Add what another one has seen."""
        if other._sum is not None and other._moments is not None:
            self._accumulate(other._count, other._sum, other._moments)

    def _accumulate(self, count: int, total: Tensor, moments: Tensor) -> None:
        self._count += count
        if self._sum is None or self._moments is None:
            self._sum, self._moments = total.clone(), moments.clone()
        else:
            self._sum += total.to(self._sum.device)
            self._moments += moments.to(self._moments.device)

    def basis(self, mean: Tensor, scale: Tensor, *, separable: bool) -> Basis:
        """The basis of the z-scored channels, `mean` and `scale` fp64 [D]; components by falling variance."""
        covariance = self._covariance(mean, scale)
        depth = len(mean)
        if self._count < _ENOUGH * depth:
            _log.warning(
                "klt: %d tokens calibrate %d dimensions, %d would be enough; raise calibration_images or "
                "calibration_tokens",
                self._count,
                depth,
                _ENOUGH * depth,
            )
        if not separable:
            return Basis([_eigen(covariance)])
        levels, width = len(self._widths), self._widths[0]
        if len(set(self._widths)) > 1 or levels == 1:
            return Basis([_eigen(block) for block in _diagonal(covariance, self._widths)])
        cells = covariance.view(levels, width, levels, width)
        mix = _eigen(torch.einsum("icjc->ij", cells)).double()
        mixed = torch.einsum("mi,icjd,mj->mcd", mix, cells, mix)
        return Basis([_eigen(block) for block in mixed], mix.float())

    def _covariance(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Second moments of z-scores, fp64 [D, D]."""
        if self._sum is None or self._moments is None:
            raise ValueError("calibration saw no finite map; check the teacher on its images")
        sampled, moments = self._sum.cpu() / self._count, self._moments.cpu() / self._count
        cross = torch.outer(mean, sampled)
        return (moments - cross - cross.T + torch.outer(mean, mean)) / torch.outer(scale, scale)


def _diagonal(matrix: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The square blocks on the diagonal."""
    ends = np.cumsum(widths)
    return [matrix[end - width : end, end - width : end] for width, end in zip(widths, ends, strict=True)]


def _eigen(covariance: Tensor) -> Tensor:
    """Eigenvectors as rows by falling eigenvalue, float32 of bf16's precision; largest entries positive."""
    vectors: Tensor = torch.linalg.eigh((covariance + covariance.T) / 2)[1].T.flip(0)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign()).bfloat16().float()


def _zone(
    maps: Sequence[Tensor],
    moments: tuple[Tensor, Tensor],
    shapes: Sequence[LevelShape],
    basis: Basis,
    *,
    fidelity: float,
) -> tuple[Tensor, Tensor]:
    """Variances [D, rings] fp32 over `maps`, [N, D] each, and components kept per block and ring, int32."""
    ring = torch.from_numpy(rings(shapes[0].height, shapes[0].width))
    bands, depth = int(ring.max()) + 1, sum(basis.widths)
    everything = torch.empty((0, len(basis.blocks), bands), dtype=torch.int32)
    space = Space(shapes, basis, torch.zeros(depth, bands), everything)
    energy = torch.zeros(bands, depth, dtype=torch.float64)
    rungs = []
    for tokens in maps:
        frequencies = space.frequencies(((tokens - moments[0]) / moments[1]).unsqueeze(0))
        components = basis.forward(frequencies)
        energy.index_add_(0, ring, components[0].double().square())
        measure = Measure(space, frequencies, components, components)
        start = estimate_rungs(measure, fidelity)
        rungs.append(choose_steps(measure, fidelity=fidelity, start=start, patience=2).rung)
    variance = (energy / (ring.bincount() * len(maps)).unsqueeze(1)).T
    floor = (_FAINT * step_of(torch.cat(rungs).min())).item() ** 2
    kept = [(block > floor).sum(0) for block in variance.split(basis.widths)]
    return variance.float().contiguous(), torch.stack(kept).int().unsqueeze(0)
