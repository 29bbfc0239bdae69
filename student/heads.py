"""What turns four fused levels into one task's prediction map?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from student.archs import LEVELS


class Head(nn.Module):
    """MLP and convolution head: four linears, upsample to 1/4 of the image, 3x3 conv, 1x1 conv (paper B.1).

    The same head for every task; only the output channels differ.
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width, width // LEVELS) for _ in range(LEVELS))
        fused = LEVELS * (width // LEVELS)
        self.linear_fuse = nn.Sequential(
            nn.Conv2d(fused, width, kernel_size=3, padding=1), nn.BatchNorm2d(width), nn.GELU()
        )
        self.last_conv = nn.Conv2d(width, out_channels, kernel_size=1)

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Predict one task.

        Args:
            levels: four maps [B, C, h, w].
            size: (H, W) of the image, pixels.

        Returns:
            Logits or values [B, out_channels, H, W].
        """
        quarter = (size[0] // 4, size[1] // 4)
        reduced = [
            _resize(linear(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), quarter)
            for linear, level in zip(self.linears, levels, strict=True)
        ]
        return _resize(self.last_conv(self.linear_fuse(torch.cat(reduced, dim=1))), size)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
