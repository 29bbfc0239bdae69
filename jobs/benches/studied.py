"""One teacher's maps under study: some to calibrate codecs on, others to measure them with, never both."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.benches.ask import Ask
from jobs.benches.crops import Crops, RandomTeacher
from jobs.benches.hard4 import Hard4
from jobs.benches.rate import distortion_of, rate
from storage.codecs import make_calibrator, make_codec
from storage.codecs.dct import rings
from storage.config import CodecConfig

log = logging.getLogger(__name__)

Levels = Sequence[Tensor]
"""Maps [B, C, h, w] per level."""
BATCH = 4


class Studied:
    """Maps of one source. Calibration maps go by once; what every codec learns from them is kept."""

    def __init__(self, name: str, calibration: Iterable[Levels], test: Levels, *, tokens: int) -> None:
        self.name, self.test = name, [level.float() for level in test]
        self.shapes = [tuple(level.shape[1:]) for level in test]
        self.values = sum(int(np.prod(shape)) for shape in self.shapes)
        """Numbers in one sample."""
        self._tokens = tokens
        self._moments = [_Moments(shape[0]) for shape in self.shapes]
        self._seen = {kind: make_calibrator(self._config(kind), self.shapes) for kind in ("klt", "int8")}
        self._stats: dict[str, dict[str, Tensor]] = {}
        self.calibrated = 0
        """Samples calibrated on."""
        for levels in calibration:
            for calibrator in self._seen.values():
                calibrator.update(levels)
            for moments, level in zip(self._moments, levels, strict=True):
                moments.add(level)
            self.calibrated += len(levels[0])

    def codec(
        self,
        config: CodecConfig,
        *,
        calibrated_for: CodecConfig | None = None,
        budget_gmac: float | None = None,
    ) -> Any:
        """The codec of `config`, with the tensors that it (or another config) calibrates to."""
        return make_codec(config, self.shapes, self.stats(calibrated_for or config, budget_gmac))

    def stats(self, config: CodecConfig, budget_gmac: float | None = None) -> dict[str, Tensor]:
        """What `config` calibrates to within a budget of decoding; the lossless stage has no part in it."""
        if config.name == "f16":
            return {}
        config = config.model_copy(update={"calibration_tokens": self._tokens})
        plain = config.model_copy(update={"lossless": "auto", "level": 0}).model_dump_json()
        key = f"{plain} {budget_gmac}"
        if key not in self._stats:
            log.info("%s: calibrating %s", self.name, _said(config))
            calibrator = make_calibrator(config, self.shapes, budget_gmac=budget_gmac)
            calibrator.merge(self._seen[config.name])
            self._stats[key] = calibrator.finish()
        return self._stats[key]

    def batches(self) -> Iterator[list[Tensor]]:
        """The maps to measure, a few at a time."""
        for first in range(0, len(self.test[0]), BATCH):
            yield [level[first : first + BATCH] for level in self.test]

    def cosines(self, levels: Levels, decoded: Levels) -> np.ndarray:
        """z-scored flattened cosines [B, levels], in NumPy and fp64 from moments of its own."""
        found = []
        for level, back, moments in zip(levels, decoded, self._moments, strict=True):
            a, b = (moments.scores(maps).reshape(len(level), -1) for maps in (level, back))
            found.append((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))
        return np.stack(found, 1)

    def rate_of_basis(self, config: CodecConfig, cosine: float) -> float:
        """R(D) in bits per value of the variances per component and ring that calibration measured."""
        (_, height, width), variance = self.shapes[0], self.stats(config)["variance.0"]
        counts = np.bincount(rings(height, width)).astype(float)
        return rate(variance.double().numpy(), counts, distortion_of(cosine))

    def _config(self, name: str) -> CodecConfig:
        return CodecConfig.model_validate({"name": name, "calibration_tokens": self._tokens})


class _Moments:
    """Mean and deviation per channel, in NumPy's fp64."""

    def __init__(self, channels: int) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, level: Tensor) -> None:
        values = level.double().cpu().numpy()
        self._count += values[:, 0].size
        self._sum += values.sum((0, 2, 3))
        self._squares += np.square(values).sum((0, 2, 3))

    @cached_property
    def _scale(self) -> np.ndarray:
        spread = np.sqrt(np.maximum(self._squares / self._count - self._mean**2, 0))
        return np.where(spread < 1e-6 * np.abs(self._mean), 1, spread)

    @cached_property
    def _mean(self) -> np.ndarray:
        return self._sum / self._count

    def scores(self, level: Tensor) -> np.ndarray:
        return (level.double().cpu().numpy() - self._mean[:, None, None]) / self._scale[:, None, None]


def study_hard4(ask: Ask) -> tuple[Studied, Hard4]:
    """HARD4's maps, and the source that knows their true covariance."""
    source, (calibration, test) = Hard4(0, channels=ask.channels, side=ask.side), ask.hard4_maps
    log.info("HARD4: %d maps to calibrate on, %d to measure", calibration, test)
    known = (source.maps(1) for _ in range(calibration))
    # a list: what is measured comes after what is calibrated on
    seen = list(known)
    return Studied("HARD4", seen, source.maps(test), tokens=ask.side**2), source


def study_photos(ask: Ask) -> Studied:
    """A random teacher's maps of photos."""
    crops, teacher = Crops(ask), RandomTeacher(ask.teacher, ask.device)
    measured = [teacher.maps(jpeg) for jpeg in crops.test()]
    test = [torch.cat(level).cpu() for level in zip(*measured, strict=True)]
    return Studied(f"RI {ask.teacher}", _maps(crops, teacher), test, tokens=ask.calibration_tokens)


def _maps(crops: Crops, teacher: RandomTeacher) -> Iterator[list[Tensor]]:
    total = crops.calibration_count
    for number, jpeg in enumerate(crops.calibration(), 1):
        yield teacher.maps(jpeg)
        if number % 20 == 0 or number == total:
            log.info("teacher maps to calibrate on: %d of %d", number, total)


def _said(config: CodecConfig) -> str:
    return f"{config.name} {config.basis} at {config.fidelity:g}" if config.name == "klt" else config.name
