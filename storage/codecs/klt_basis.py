"""How do the channels of a token become components and back: an orthonormal basis, joint or by level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Basis:
    """An orthonormal basis of the D numbers of a group: blocks on the diagonal after a mix over levels.

    `mix` [M, M] turns levels into mixed levels (None: they stay as they are); `blocks` hold components as
    rows. Blocks are kept as bf16 holds them, so that a product in bf16 uses the very same numbers; `forward`
    inverts them exactly, lest what rounding took from their orthogonality leak between levels.
    """

    def __init__(self, blocks: Sequence[Tensor], mix: Tensor | None = None) -> None:
        self.blocks = [block.float() for block in blocks]
        self.mix = mix
        self.widths = [len(block) for block in blocks]

    @cached_property
    def _inverses(self) -> list[Tensor]:
        return [torch.linalg.inv(block.double()).float() for block in self.blocks]

    @cached_property
    def operands(self) -> list[Tensor]:
        """The blocks as products take them: bf16 on a GPU, fp32 elsewhere; the same numbers."""
        return [block.bfloat16() if block.is_cuda else block for block in self.blocks]

    def dense(self) -> Tensor:
        """What each component alone decodes to: float32 [D components, D channels]."""
        return self.inverse(torch.eye(sum(self.widths), device=self.blocks[0].device).unsqueeze(0))[0]

    def to(self, device: torch.device) -> Basis:
        """The same basis on `device`."""
        mix = None if self.mix is None else self.mix.to(device)
        return Basis([block.to(device) for block in self.blocks], mix)

    def forward(self, numbers: Tensor) -> Tensor:
        """Channels [B, N, D] -> components [B, N, D]."""
        mixed = self._mixed(numbers, self.mix)
        pieces = mixed.split(self.widths, 2)
        return torch.cat([piece @ back for piece, back in zip(pieces, self._inverses, strict=True)], 2)

    def inverse(self, components: Tensor) -> Tensor:
        """Components [B, N, D] -> channels [B, N, D]."""
        pieces = components.split(self.widths, 2)
        parts = [piece @ block for piece, block in zip(pieces, self.blocks, strict=True)]
        return self.unmix(torch.cat(parts, 2))

    def unmix(self, mixed: Tensor) -> Tensor:
        """Mixed levels [B, N, D] -> channels [B, N, D]."""
        return self._mixed(mixed, None if self.mix is None else self.mix.T)

    def _mixed(self, numbers: Tensor, mix: Tensor | None) -> Tensor:
        if mix is None:
            return numbers
        levels = numbers.reshape(-1, len(mix), numbers.shape[2] // len(mix))
        # many small products where they are: one large one would turn the levels in memory
        return torch.bmm(mix.expand(len(levels), *mix.shape), levels).view(numbers.shape)

    def shares(self, channels: Sequence[int]) -> Tensor:
        """How much of each component lies in each level: [D, levels], rows sum to 1."""
        parts = self.dense().square().split(list(channels), 1)
        return torch.stack([part.sum(1) for part in parts], 1)
