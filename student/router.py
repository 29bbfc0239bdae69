"""How much of each expert does a task take at one level: the Mixture-of-Representations (MoR) router."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Literal["image", "pixel"]
NOISE_FLOOR = 1e-2
"""Added to softplus(e), so that the gate never trains without noise."""


class Router(nn.Module):
    """Gate scores from the stem's map (paper eq. 4): a two-layer MLP per token, averaged, softmax.

    In training Gaussian noise of a learned size is added: one draw per image (eq. 4), or one per token before
    the average ("pixel", what the authors' code does, whose effect shrinks with the number of tokens).
    Evaluation has none.
    """

    def __init__(self, width: int, experts: int, noise: Noise) -> None:
        super().__init__()
        hidden = width // 2
        self.noise = noise
        self.module = nn.Sequential(
            nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, 2 * experts)
        )

    def forward(self, stem: Tensor) -> Tensor:
        """Stem map [B, C, h, w] -> gates [B, N + 1], each row sums to 1."""
        scores, spread = self.module(stem.flatten(2).transpose(1, 2)).float().chunk(2, dim=-1)
        if not self.training:
            return scores.mean(1).softmax(-1)
        if self.noise == "image":
            scores, spread = scores.mean(1, keepdim=True), spread.mean(1, keepdim=True)
        noisy = scores + torch.randn_like(scores) * (F.softplus(spread) + NOISE_FLOOR)
        return noisy.mean(1).softmax(-1)


class MixtureOfRepresentations(nn.Module):
    """One task's mix of the experts at one level: the stem first, then the teachers' paths."""

    def __init__(self, width: int, experts: int, noise: Noise) -> None:
        super().__init__()
        self.router = Router(width, experts, noise)

    def forward(self, stem: Tensor, paths: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mix the experts by the gates.

        Args:
            stem: un-normalised stem map [B, C, h, w].
            paths: N maps of the teachers' paths, each [B, C, h, w].

        Returns:
            The fused map [B, C, h, w] and the gates [B, N + 1], the stem's first.
        """
        gates = self.router(stem)
        fused = sum(gates[:, i, None, None, None] * expert for i, expert in enumerate((stem, *paths)))
        return fused, gates
