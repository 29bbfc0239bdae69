"""What is the student of stage 2? The stage-1 student with MoR routers and one head per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from student.heads import Head
from student.router import MixtureOfRepresentations, Noise
from student.sak import SAK, Maps
from student.stem import seeded


class MultiTaskOutput(NamedTuple):
    """What one forward of stage 2 gives."""

    predictions: dict[str, Tensor]
    """task -> [B, out, H, W] at the image's size."""
    paths: dict[str, Maps]
    """teacher -> the path's four maps [B, C, h, w], for the distillation loss (through SAK.align)."""
    gates: dict[str, list[Tensor]]
    """task -> gates [B, N + 1] of the four levels, the stem's share first."""


class SAKMultiTask(nn.Module):
    """Backbone, one MoR router per task and level (paper 3.3), one head per task.

    Without teachers it is the plain multi-task baseline: heads on the stem, no routers, gates of 1.
    """

    def __init__(self, backbone: SAK, tasks: Mapping[str, int], *, noise: Noise) -> None:
        super().__init__()
        arch, experts = backbone.arch, len(backbone.teachers) + 1
        if backbone.teachers:  # inside the backbone, where the authors' checkpoints have them
            for key in (f"{block}_{task}" for task in tasks for block in arch.blocks):
                backbone.mor[key] = MixtureOfRepresentations(arch.width, experts, noise)
        self.backbone = backbone
        self.heads = nn.ModuleDict({task: Head(arch.width, channels) for task, channels in tasks.items()})

    def forward(self, images: Tensor) -> MultiTaskOutput:
        """Predict every task.

        Args:
            images: [B, 3, H, W], ImageNet-normalised; H and W multiples of the patch.
        """
        stem, paths = self.backbone(images)
        output = MultiTaskOutput({}, paths, {})
        for task, head in self.heads.items():
            levels, output.gates[task] = self._mix(task, stem, paths)
            output.predictions[task] = head(levels, (images.shape[-2], images.shape[-1]))
        return output

    def _mix(self, task: str, stem: Maps, paths: Mapping[str, Maps]) -> tuple[Maps, list[Tensor]]:
        if not paths:
            return stem, [level.new_ones(len(level), 1) for level in stem]
        routers = [self.backbone.mor[f"{block}_{task}"] for block in self.backbone.arch.blocks]
        experts = zip(routers, stem, zip(*paths.values(), strict=True), strict=True)
        mixed = [router(level, others) for router, level, others in experts]
        return [fused for fused, _ in mixed], [gates for _, gates in mixed]


def build_multitask(
    sak: SAK, tasks: Mapping[str, int], *, noise: Noise = "image", seed: int = 0
) -> SAKMultiTask:
    """Add routers and heads to a student.

    Args:
        sak: the backbone, which becomes part of the result.
        tasks: task name -> output channels, in the order of the predictions.
        noise: one gate noise per image (eq. 4) or per token.
        seed: seed of the new parameters.
    """
    with seeded(seed):
        return SAKMultiTask(sak, tasks, noise=noise)
