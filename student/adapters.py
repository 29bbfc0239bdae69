"""What turns the stem's tokens into one teacher's: the Teacher-Specific Adapter Path (TSAP)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """Bottleneck adapter with a learnable scale: z + s * up(GELU(down(z))), paper eq. 3.

    The up-projection starts at zero, so a fresh path is the identity and the warm-up decides its direction.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return tokens + self.scale * self.up(F.gelu(self.down(tokens)))


def adapter_path(width: int, depth: int, reduction: int) -> nn.ModuleList:
    """One TSAP: depth + 1 adapters, the first for the patch embedding, then one per block (paper eq. 2).

    Args:
        width: token channels C of the stem.
        depth: blocks L of the stem.
        reduction: C / hidden channels (paper B.1: 4).

    Raises:
        ValueError: the reduction leaves no hidden channel.
    """
    if reduction > width:
        raise ValueError(
            f"student.adapter_reduction {reduction} exceeds the width {width}; use 4, as the paper does"
        )
    return nn.ModuleList(Adapter(width, width // reduction) for _ in range(depth + 1))
