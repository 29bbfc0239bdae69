"""What does klt know of a teacher: one pass over images, then the basis and zones that pay within a budget.

Tokens of most images go into a covariance of the D channels that share a grid. Some images are kept whole
instead, so that variances per frequency, bits and work are measured on images that the basis has not seen:
measured on its own images, a basis of thousands of dimensions looks better than it is.

The unit is a shard: one calibrator sees the images of one shard in their order, whatever the batches, and the
partial calibrators are merged one by one in the order of the shards. Then the tensors are the same to the bit
however many workers made them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from storage.codecs.base import LevelShape, Stats, check_shapes, tokens_of
from storage.codecs.calibration import Calibrator
from storage.codecs.klt_moments import GroupMoments
from storage.codecs.klt_space import group_levels
from storage.codecs.klt_trial import Held, Trial, best_trial
from storage.config import CodecConfig

_log = logging.getLogger(__name__)

# each fourth image is kept whole, up to so many of a shard and in all
_WHOLE_EVERY, _WHOLE_OF_SHARD, _WHOLE_MOST = 4, 16, 32
_WHOLE_BYTES = 512 << 20
_ENOUGH = 100


class Estimated(NamedTuple):
    """What decoding and storing a sample come to, measured on held-out calibration images."""

    bits: float
    """Of a record, per stored value."""
    macs: float
    """Multiply-adds of decoding a sample, on average."""
    beyond: float
    """Share of samples that need more than the first zone; of several grids, the largest."""


def estimate_of(stats: Stats) -> Estimated | None:
    """What calibration wrote of itself into a codec's tensors; None for codecs other than klt."""
    if "estimate.bits" not in stats:
        return None
    return Estimated(*(float(stats[f"estimate.{name}"]) for name in Estimated._fields))


class KltCalibrator:
    """Mean and scale, bases, ring variances and zones; sums are fp64 and the result deterministic.

    `first`: images of the shards before this one; with it, which images are kept whole and which tokens are
    taken does not depend on how the images are cut into shards.
    """

    def __init__(
        self,
        config: CodecConfig,
        shapes: Sequence[LevelShape],
        budget_gmac: float | None = None,
        first: int = 0,
    ) -> None:
        self._config, self._shapes = config, tuple(LevelShape(*shape) for shape in shapes)
        self._budget_gmac, self._numbers = budget_gmac, group_levels(self._shapes)
        self._groups = [
            GroupMoments([self._shapes[n].channels for n in levels], self._shapes[levels[0]].tokens)
            for levels in self._numbers
        ]
        self._levels = Calibrator(self._shapes)
        self._first, self._seen, self._shards = first, 0, 1
        self._whole: list[tuple[int, list[Tensor]]] = []
        size = 4 * sum(shape.values for shape in self._shapes)
        self._room = min(_WHOLE_MOST, max(2, _WHOLE_BYTES // size))

    def update(self, levels: Sequence[Tensor]) -> None:
        """Add a batch of maps, [B, C, h, w] per level, without those that hold NaN or infinity.

        Raises ValueError for shapes other than the calibrator's.
        """
        check_shapes(levels, self._shapes)
        sound = torch.stack([level.isfinite().flatten(1).all(1) for level in levels]).all(0)
        usable = [level[sound] for level in levels]
        tokens = [tokens_of(level) for level in usable]
        room = min(self._room, _WHOLE_OF_SHARD)
        for row in range(len(tokens[0])):
            # one by one: a sum must not depend on batches
            self._levels.update([level[row : row + 1] for level in usable])
            maps = [level[row] for level in tokens]
            ordinal = self._first + self._seen
            if ordinal % _WHOLE_EVERY == 1 and len(self._whole) < room:
                self._whole.append((ordinal, [level.cpu() for level in maps]))
            else:
                self._add(maps, ordinal)
            self._seen += 1

    @property
    def tokens(self) -> int:
        """Tokens that the basis is calibrated on; the fewest where levels have several grids."""
        return min(group.count for group in self._groups)

    def merge(self, other: KltCalibrator) -> None:
        """Add what the calibrator of the next shard, of the same config and shapes, has seen.

        Raises ValueError when that one has itself been merged: the sums would depend on who added what.
        """
        if other._shards != 1:
            raise ValueError(
                f"calibrators are merged one shard at a time, in order; this one holds {other._shards}"
            )
        self._levels.merge(other._levels)
        for mine, theirs in zip(self._groups, other._groups, strict=True):
            mine.merge(theirs)
        for ordinal, maps in other._whole:
            if len(self._whole) < self._room:
                self._whole.append((ordinal, maps))
            else:
                self._add(maps, ordinal)
        self._seen += other._seen
        self._shards += 1

    def finish(self) -> dict[str, Tensor]:
        """`mean.<level>` and `scale.<level>`, fp32 [C]; per group of levels that share a grid:
        `basis.<group>.<block>` bf16 [components, channels], with a separable basis `mix.<group>` fp32,
        `variance.<group>` fp32 [components, rings], `kept.<group>` int32 [zones, blocks, rings],
        `worth.<group>` int32 (rungs), `usage.<group>` fp32 [zones + 1] (share of samples that decode from
        each), and `estimate.*`: see estimate_of.

        One warning when the tokens are few, and one when nothing fits the budget. Raises ValueError with
        fewer than two sound images: one for the basis, one for its variances.
        """
        if self._seen < 2 or not self._whole:
            raise ValueError(
                f"codec klt calibrates on two images at least, one of them held out; {self._seen} could be "
                f"used, {len(self._whole)} were held out; raise calibration_images"
            )
        self._warn_of_few()
        stats, values = self._levels.finish(), sum(shape.values for shape in self._shapes)
        trials = []
        for index, numbers in enumerate(self._numbers):
            shapes = [self._shapes[n] for n in numbers]
            share = sum(shape.values for shape in shapes) / values
            budget = None if self._budget_gmac is None else 1e9 * self._budget_gmac * share
            maps = [[image[n] for n in numbers] for _, image in self._whole]
            moments = [(stats[f"mean.{n}"], stats[f"scale.{n}"]) for n in numbers]
            held = Held(shapes, moments, maps)
            trial = best_trial(self._groups[index], held, config=self._config, budget=budget)
            stats |= trial.tensors(index)
            trials.append((share, trial))
        self._judge(trials)
        return stats | {
            "estimate.bits": torch.tensor(sum(share * trial.bits for share, trial in trials)),
            "estimate.macs": torch.tensor(sum(trial.macs for _, trial in trials), dtype=torch.float64),
            "estimate.beyond": torch.tensor(max(trial.beyond for _, trial in trials)),
        }

    def _add(self, maps: Sequence[Tensor], ordinal: int) -> None:
        for group, numbers in zip(self._groups, self._numbers, strict=True):
            group.add([maps[n] for n in numbers], ordinal, self._config.calibration_tokens)

    def _warn_of_few(self) -> None:
        separable = self._config.basis == "separable"
        depth = max(max(g.widths) if separable else sum(g.widths) for g in self._groups)
        count = min(group.count for group in self._groups)
        if count < _ENOUGH * depth:
            _log.warning(
                "klt: %d tokens calibrate %d dimensions, %d would be enough; raise calibration_images or "
                "calibration_tokens",
                count,
                depth,
                _ENOUGH * depth,
            )

    def _judge(self, trials: Sequence[tuple[float, Trial]]) -> None:
        macs = sum(trial.macs for _, trial in trials)
        if self._budget_gmac is not None and macs > 1e9 * self._budget_gmac:
            _log.warning(
                "klt: decoding a sample takes %.3g GMAC at a fidelity of %s, the budget is %.3g, and nothing "
                "cheaper keeps it; raise decode_gmac_per_image, lower fidelity, or set grid = student",
                macs / 1e9,
                self._config.fidelity,
                self._budget_gmac,
            )
