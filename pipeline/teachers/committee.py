"""What do all teachers make of a batch of images, and what identifies each of them in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.config import CommitteeConfig
from pipeline.grid import Grid, pool, pooled_shapes
from pipeline.teachers.spec import spec_of
from pipeline.teachers.timm_teacher import Teacher, pixel_stats
from pipeline.teachers.weights import load_network
from storage.codecs.base import LevelShape


class Committee:
    """The frozen teachers of a recipe on one device. Leaves torch's global settings and generators alone.

    Args:
        teachers: each teacher by name, on `device`.
        digests: digest of each teacher's weights.
        grid: cells (h, w) to which maps of more cells are area-pooled; None leaves all maps as they are.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        digests: Mapping[str, str],
        *,
        config: CommitteeConfig,
        device: torch.device,
        grid: Grid | None = None,
    ) -> None:
        self._teachers, self._digests, self._config = dict(teachers), dict(digests), config
        self.device, self._grid = device, grid
        self.forwards = 0
        """Images that went through a teacher, counted once per teacher: zero when everything was cached."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers, in the recipe's order."""
        return tuple(self._teachers)

    def run(self, name: str, images: torch.Tensor) -> list[torch.Tensor]:
        """The four level maps `[B, C, h, w]` float32 of teacher `name` for `images` `[B, 3, H, W]` in 0..1.

        Raises:
            ValueError: images of another shape or type, or smaller than a patch.
        """
        self.forwards += len(images)
        levels = self._teachers[name](images)
        return levels if self._grid is None else [pool(level, self._grid) for level in levels]

    def __call__(self, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """teacher -> its four level maps `[B, C, h, w]` float32, for `images` `[B, 3, H, W]` in 0..1."""
        return {name: self.run(name, images) for name in self._teachers}

    def shapes(self, name: str, height: int, width: int) -> tuple[LevelShape, ...]:
        """Shape of each level of teacher `name` for images of `height` x `width` pixels."""
        shapes = self._teachers[name].shapes(height, width)
        return tuple(LevelShape(*shape) for shape in pooled_shapes(shapes, self._grid))

    def identity(self, name: str) -> dict[str, Any]:
        """Everything about teacher `name` that its features depend on, for the column's fingerprint (JSON).

        Where its weights were found is no part of it: the digest says which they are.
        """
        return settings_of(name, self._config) | {"weights_sha256": self._digests[name]}


def settings_of(name: str, config: CommitteeConfig) -> dict[str, Any]:
    """The identity of teacher `name` in a committee, but for its weights' digest: known before loading."""
    # `padding` is left out: it changes no square image's maps, and the views of a cache are always square
    spec = spec_of(name)
    mean, std = pixel_stats(spec, config.normalisation)
    return {
        "teacher": name,
        "timm_id": spec.timm_id,
        "build": {key: list(v) if isinstance(v, tuple) else v for key, v in spec.build},
        "mean": list(mean),
        "std": list(std),
        "input": _input_rule(spec.canvas, spec.patch),
        "precision": config.precision,
        "blocks": list(spec.levels),
        "tap": "block output, patch tokens, no final norm, no neck",
    }


def build_committee(
    config: CommitteeConfig, device: torch.device | str = "cpu", *, grid: Grid | None = None
) -> Committee:
    """The teachers of `config` with their weights, on `device`; `grid` as for `Committee`.

    Raises:
        ValueError: unknown teacher; WeightsError: weights missing, damaged, or not downloadable.
    """
    device, teachers, digests = torch.device(device), {}, {}
    specs = [spec_of(name) for name in config.teachers]
    for spec in specs:
        network, digests[spec.name] = load_network(spec, config.weights)
        teachers[spec.name] = Teacher(
            spec,
            network,
            normalisation=config.normalisation,
            precision=config.precision,
            padding=config.padding,
        ).to(device)
    return Committee(teachers, digests, config=config, device=device, grid=grid)


def _input_rule(canvas: int | None, patch: int) -> dict[str, Any]:
    if canvas is None:
        return {"rule": "as given, cut right and bottom to whole patches", "patch": patch}
    resize = "longest side to the canvas, bicubic without antialias on normalised pixels, sides int(x + 0.5)"
    return {"rule": resize, "pad": "zeros right and bottom", "canvas": canvas, "patch": patch}
