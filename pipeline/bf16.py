"""How far do a teacher's maps in bf16 lie from those in fp32: the ceiling of any stored fidelity."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import build_committee


def bf16_cosines(config: CommitteeConfig, images: Sequence[torch.Tensor], device: str) -> dict[str, float]:
    """teacher -> the worst cosine, over levels and images, of its z-scored bf16 map and its fp32 one.

    Args:
        images: `[3, H, W]` each, 0..1, all of one size; the z-scores are of these images.
    """
    found: dict[str, float] = {}
    for name in config.teachers:
        # one teacher at a time, both precisions of it one after the other
        alone = config.model_copy(update={"teachers": (name,)})
        maps = {
            precision: _maps(alone.model_copy(update={"precision": precision}), images, device)
            for precision in ("fp32", "bf16")
        }
        found[name] = min(map(_worst, maps["fp32"], maps["bf16"]))
    return found


def _maps(config: CommitteeConfig, images: Sequence[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Levels `[N, C, h, w]` on the host."""
    committee = build_committee(config, device)
    rows = [committee.run(config.teachers[0], image[None].to(device)) for image in images]
    return [torch.cat([row[level].cpu() for row in rows]) for level in range(len(rows[0]))]


def _worst(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    mean, scale = exact.mean((0, 2, 3), keepdim=True), exact.std((0, 2, 3), keepdim=True).clamp_min(1e-12)
    first, second = (((level - mean) / scale).flatten(1).double() for level in (exact, rounded))
    return float(torch.cosine_similarity(first, second).min())
