"""Which codecs there are: name in a recipe -> how to make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from storage.codecs.base import Codec, Encoded, LevelShape, Stats
from storage.codecs.calibration import Calibrator
from storage.codecs.f16 import F16Codec
from storage.codecs.int8 import Int8Codec
from storage.codecs.klt import KltCodec
from storage.codecs.klt_calibration import KltCalibrator
from storage.config import CodecConfig

__all__ = [
    "CALIBRATORS",
    "CODECS",
    "AnyCalibrator",
    "Codec",
    "Encoded",
    "LevelShape",
    "Stats",
    "make_calibrator",
    "make_codec",
]

CODECS: dict[str, Callable[[CodecConfig, tuple[LevelShape, ...], Stats], Codec]] = {
    "f16": F16Codec,
    "int8": Int8Codec,
    "klt": KltCodec,
}


class AnyCalibrator(Protocol):
    """Learns from a teacher's maps what a codec needs to know of them."""

    def update(self, levels: Sequence[Tensor]) -> None:
        """Add a batch of maps, [B, C, h, w] per level, without those that hold NaN or infinity.

        Raises ValueError for shapes other than the calibrator's.
        """

    @property
    def tokens(self) -> int:
        """Tokens that were taken up; of levels on several grids, the fewest."""

    def merge(self, other: Any) -> None:
        """Add what the calibrator of the next shard, of the same kind and shapes, has seen."""

    def finish(self) -> dict[str, Tensor]:
        """The codec's tensors. Raises ValueError when too few images were usable."""


CALIBRATORS: dict[str, Callable[[CodecConfig, tuple[LevelShape, ...], float | None, int], AnyCalibrator]] = {
    "f16": lambda _, shapes, *__: Calibrator(shapes),
    "int8": lambda _, shapes, *__: Calibrator(shapes),
    "klt": KltCalibrator,
}


def make_calibrator(
    config: CodecConfig,
    shapes: Sequence[Sequence[int]],
    *,
    budget_gmac: float | None = None,
    first: int = 0,
) -> AnyCalibrator:
    """The calibrator whose `finish` gives `make_codec` its `stats`.

    `budget_gmac`: multiply-adds, 1e9, that decoding one sample may take on average (None: no limit); klt
    alone takes any. `first`: images that the calibrators of the shards before this one are given.
    """
    levels = tuple(LevelShape(*shape) for shape in shapes)
    return CALIBRATORS[config.name](config, levels, budget_gmac, first)


def make_codec(config: CodecConfig, shapes: Sequence[Sequence[int]], stats: Stats) -> Codec:
    """The codec for levels of these (C, h, w), with the `stats` of a Calibrator.

    Raises ValueError when `stats` lack a level or do not fit its channels; f16 may go without any.
    """
    levels = tuple(LevelShape(*shape) for shape in shapes)
    if stats or config.name != "f16":
        _check_stats(config, levels, stats)
    return CODECS[config.name](config, levels, stats)


def _check_stats(config: CodecConfig, shapes: Sequence[LevelShape], stats: Stats) -> None:
    for number, shape in enumerate(shapes):
        for name in (f"mean.{number}", f"scale.{number}"):
            found = tuple(stats[name].shape) if name in stats else None
            if found != (shape.channels,):
                raise ValueError(
                    f"codec {config.name} needs the tensor {name} of shape {(shape.channels,)}, found "
                    f"{found}; calibrate the teacher again"
                )
