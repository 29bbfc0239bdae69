"""Which samples does calibration use, and what does one shard of them give?

The samples are the first ones of view 0, quarantined ones left out. Shards come from a seeded permutation of
the keys, so they are a random sample of the source, and the same one on every machine. A shard is one unit of
work; its worker returns each teacher's partial calibrator, and they are merged in the order of the shards:
the result does not depend on how many workers there were, or on which of them died.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.features import Runner, to_unit
from storage.cache import Cache
from storage.codecs.spec import AnyCalibrator, make_calibrator
from storage.config import CodecConfig
from storage.layout import Column


@dataclass(frozen=True)
class Portion:
    """The samples of one shard that calibration uses: its first ones."""

    first: int
    """Samples of the shards before it."""
    samples: int


def uncommitted_shards(cache: Cache, images: int) -> list[int]:
    """Leading shards of view 0 whose images must be committed before `images` samples are sure to be there.

    A shard without images counts as if none of its samples were quarantined: ask again once they are there.
    """
    wanted, samples = [], 0
    for shard in cache.shards(view=0):
        if samples >= images:
            break
        usable = _usable(cache, shard.index)
        if usable is None:
            wanted.append(shard.index)
        samples += shard.rows if usable is None else usable
    return wanted


def portions(cache: Cache, images: int) -> dict[int, Portion]:
    """Shard -> the samples of it that are among the first `images` of view 0, or all if there are fewer.

    The images of those shards must be committed; see `uncommitted_shards`.
    """
    chosen: dict[int, Portion] = {}
    first = 0
    for shard in cache.shards(view=0):
        if first >= images:
            break
        take = min(_usable(cache, shard.index) or 0, images - first)
        if take:
            chosen[shard.index] = Portion(first, take)
        first += take
    return chosen


def _usable(cache: Cache, shard: int) -> int | None:
    """Samples of a shard that were not quarantined; None while its images are not committed."""
    commit = cache.commit_of(Column.images(), shard)
    return None if commit is None else commit.rows - len(commit.quarantined)


def calibrate_shard(
    cache: Cache,
    shard: int,
    portion: Portion,
    *,
    budgets: Mapping[str, float],
    codec: CodecConfig,
    runner: Runner,
) -> dict[str, AnyCalibrator]:
    """What the samples in `portion` of one shard say of each teacher in `budgets`.

    Args:
        budgets: teacher -> multiply-adds, 1e9, that decoding its maps of one image may cost.

    Returns:
        teacher -> its partial calibrator.
    """
    committee, size, left = runner.committee, cache.invariants.views.size, portion.samples
    partial = {
        name: make_calibrator(
            codec, committee.shapes(name, size, size), budget_gmac=budget, first=portion.first
        )
        for name, budget in budgets.items()
    }
    for present, pixels in runner.batches(cache, shard):
        keep = torch.from_numpy(present.nonzero()[0][:left]).to(committee.device)
        if not len(keep):
            continue
        images = to_unit(pixels, committee.device)
        for name, calibrator in partial.items():
            levels = runner.run(name, images)
            with runner.timers("calibrate"):
                calibrator.update([level[keep] for level in levels])
        left -= len(keep)
        if not left:
            break
    return partial


class Merged:
    """Partial calibrators of each teacher as one, merged in the order of shards as they arrive.

    Holds one calibrator per teacher, and those that came before their turn.
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self._due = list(reversed(shards))
        self._early: dict[int, Mapping[str, AnyCalibrator]] = {}
        self._whole: dict[str, AnyCalibrator] = {}

    def add(self, shard: int, partial: Mapping[str, AnyCalibrator]) -> None:
        """Take what one shard gave; every shard once."""
        self._early[shard] = partial
        while self._due and self._due[-1] in self._early:
            for name, calibrator in self._early.pop(self._due.pop()).items():
                if name in self._whole:
                    self._whole[name].merge(calibrator)
                else:
                    self._whole[name] = calibrator

    def tokens(self, teacher: str) -> int:
        """Tokens of a teacher's maps that the statistics are of; before `finish`."""
        return self._whole[teacher].tokens

    def finish(self, teacher: str) -> dict[str, torch.Tensor]:
        """The codec's tensors of one teacher; its sums are let go.

        Raises:
            ValueError: too few samples were usable.
        """
        assert not self._due, f"shards {self._due} have not been merged"
        return self._whole.pop(teacher).finish()
