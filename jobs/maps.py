"""What does the student see beside its teachers: PCA-coloured maps of a few held-out photos."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from storage.atomic import replace_file
from storage.pca import PcaBasis, fit_basis

Levels = Mapping[str, list[torch.Tensor]]
Model = Callable[[torch.Tensor], Levels]


class MapPanels:
    """Last-level maps of teachers and student on the same photos, painted in each teacher's own basis.

    Args:
        photos: float `[n, 3, H, W]` in 0..1.
        teachers: photos -> teacher -> levels `[n, C, h, w]`.
    """

    def __init__(self, photos: torch.Tensor, teachers: Model) -> None:
        self._photos = photos
        maps = {name: _last(levels) for name, levels in teachers(photos).items()}
        self._bases: dict[str, PcaBasis] = {name: fit_basis(list(own)) for name, own in maps.items()}
        self._panels = {"photos": (photos.permute(0, 2, 3, 1).cpu().numpy() * 255 + 0.5).astype(np.uint8)}
        self._paint("teacher", maps)

    def add(self, phase: str, student: Model) -> None:
        """Paint the student's maps as `phase` (before, after)."""
        self._paint(phase, {name: _last(levels) for name, levels in student(self._photos).items()})

    def save(self, path: Path) -> None:
        """Write the panels as uint8 arrays, atomically."""
        sink = io.BytesIO()
        np.savez_compressed(sink, **self._panels)
        replace_file(path, sink.getvalue())

    def _paint(self, phase: str, maps: Mapping[str, np.ndarray]) -> None:
        for name, basis in self._bases.items():
            self._panels[f"{name}.{phase}"] = np.stack([basis.paint(m) for m in maps[name]])


def _last(levels: list[torch.Tensor]) -> np.ndarray:
    return levels[-1].float().cpu().numpy()
