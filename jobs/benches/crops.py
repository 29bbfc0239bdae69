"""Which crops of photos are measured, and which others are calibrated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from jobs.benches.ask import Ask
from pipeline.config import CommitteeConfig, SourceConfig
from pipeline.decode import Quarantine, decode_rgb
from pipeline.sources import Source, open_source
from pipeline.teachers.committee import build_committee
from pipeline.views import crop_of, render
from storage.config import JpegConfig, ViewConfig
from storage.jpeg import decode_jpeg, encode_jpeg
from storage.manifest import permutation

MAX_PIXELS = 178_956_970


class Crops:
    """JPEG crops of distinct photos, as extraction stores them: those to measure, those to learn from."""

    def __init__(self, ask: Ask) -> None:
        self._source: Source = open_source(SourceConfig(path=str(ask.photos)))
        self._views = ViewConfig(count=1, size=ask.crop)
        index = self._source.index().to_pylist()
        shuffled = [index[at] for at in permutation("bench", len(index))]
        if len(shuffled) < 2 * ask.test_photos:
            raise ValueError(
                f"--photos holds {len(shuffled)} photos, {ask.test_photos} are measured and at least as many "
                "others calibrated on; name a folder with more, or lower --test-photos"
            )
        self._test, others = shuffled[: ask.test_photos], shuffled[ask.test_photos :]
        self._calibration = others[: ask.calibration_photos or len(others)]

    @property
    def calibration_count(self) -> int:
        """Photos to calibrate on."""
        return len(self._calibration)

    def test(self) -> Iterator[bytes]:
        """JPEG crops of the photos to measure."""
        return self._jpegs(self._test)

    def calibration(self) -> Iterator[bytes]:
        """JPEG crops of the others."""
        return self._jpegs(self._calibration)

    def _jpegs(self, entries: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        for entry in entries:
            data = self._source.read(entry["path"], entry["offset"], entry["size"])
            try:
                rgb = decode_rgb(data, max_pixels=MAX_PIXELS)
            except Quarantine:
                continue
            crop = crop_of(entry["key"], 0, rgb.shape[1], rgb.shape[0], self._views)
            yield encode_jpeg(render(rgb, crop, self._views.size), JpegConfig())


class RandomTeacher:
    """A teacher with random weights and a LayerScale of 1: timm's 1e-5 makes blocks the identity."""

    def __init__(self, name: str, device: str) -> None:
        self._name = name
        config = CommitteeConfig(teachers=(name,), weights="random:0", precision="fp32")
        self._committee = build_committee(config, torch.device(device))

    def maps(self, jpeg: bytes) -> list[torch.Tensor]:
        """Levels [1, C, h, w] of one crop."""
        pixels = torch.from_numpy(np.ascontiguousarray(decode_jpeg(jpeg).transpose(2, 0, 1)))
        return self._committee.run(self._name, pixels.unsqueeze(0).to(self._committee.device).float() / 255)
