"""What a teacher's features look like: mean and scale per level and channel, from a calibration pass."""

from __future__ import annotations

from collections.abc import Sequence

import safetensors.torch
import torch
from torch import Tensor

from storage.codecs.base import LevelShape, Stats, check_shapes, tokens_of

# a channel that varies by less than this share of its mean is constant: fp32 does not resolve it
_CONSTANT = 1e-6


class Calibrator:
    """Mean and standard deviation over all tokens of all images, accumulated in fp64."""

    def __init__(self, shapes: Sequence[LevelShape]) -> None:
        self._shapes = tuple(LevelShape(*shape) for shape in shapes)
        self._count = [0] * len(self._shapes)
        self._sum = [torch.zeros(shape.channels, dtype=torch.float64) for shape in self._shapes]
        self._squares = [torch.zeros(shape.channels, dtype=torch.float64) for shape in self._shapes]

    def update(self, levels: Sequence[Tensor]) -> None:
        """Add a batch of maps, [B, C, h, w] per level, without those that hold NaN or infinity.

        Raises ValueError for shapes other than the calibrator's.
        """
        check_shapes(levels, self._shapes)
        for number, level in enumerate(levels):
            tokens = tokens_of(level)
            tokens = tokens[tokens.isfinite().all(dim=(1, 2))].flatten(0, 1).double()
            self._count[number] += len(tokens)
            self._sum[number] += tokens.sum(0).cpu()
            self._squares[number] += tokens.square_().sum(0).cpu()

    @property
    def tokens(self) -> int:
        """Tokens seen; the fewest over levels."""
        return min(self._count)

    def merge(self, other: Calibrator) -> None:
        """Add what another calibrator of the same shapes has seen."""
        for number, count in enumerate(other._count):
            self._count[number] += count
            self._sum[number] += other._sum[number]
            self._squares[number] += other._squares[number]

    def finish(self) -> dict[str, Tensor]:
        """`mean.<level>` and `scale.<level>`, fp32 [C]; the scale of a constant channel is 1.

        Raises ValueError when no image was usable.
        """
        stats: dict[str, Tensor] = {}
        for number, count in enumerate(self._count):
            if count == 0:
                raise ValueError(
                    f"calibration saw no finite map of level {number}; check the teacher on its images"
                )
            mean = self._sum[number] / count
            deviation = (self._squares[number] / count - mean.square()).clamp_min(0).sqrt()
            constant = deviation <= (_CONSTANT * mean.abs()).clamp_min(1e-30)
            stats[f"mean.{number}"] = mean.float()
            stats[f"scale.{number}"] = torch.where(constant, torch.ones_like(deviation), deviation).float()
        return stats


def save_stats(stats: Stats) -> bytes:
    """The bytes of codec.safetensors; the same tensors give the same bytes."""
    tensors = {name: stats[name].detach().cpu().contiguous() for name in sorted(stats)}
    return bytes(safetensors.torch.save(tensors))


def load_stats(data: bytes) -> dict[str, Tensor]:
    """The tensors of codec.safetensors."""
    return dict(safetensors.torch.load(data))
