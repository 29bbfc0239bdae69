"""How does SAM attend with its relative positions: in fused kernels, which timm's version misses.

timm hands three-dimensional tensors to scaled_dot_product_attention; the fused CUDA kernels take only four
dimensions, so every global block would materialise its 4096 x 4096 scores in fp32 several times over.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import vision_transformer_sam as timm_sam


def relative_positions(table: torch.Tensor, size: int) -> torch.Tensor:
    """Embeddings of every pair of positions along one axis, as a view of `table`.

    Args:
        table: `[2 * size - 1, d]`, row `i - j + size - 1` is the embedding of query i and key j.

    Returns:
        `[size (query), d, size (key)]`.
    """
    return table.unfold(0, size, 1).flip(-1)


class FusedAttention(timm_sam.Attention):
    """timm's attention of SAM with the same parameters and the same result, in fused kernels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend within windows or images `x` of `[B, H, W, C]`; the result has the same shape."""
        batch, height, width, channels = x.shape
        qkv = self.qkv(x).view(batch, height * width, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._position_bias(query, height, width)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))

    def _position_bias(self, query: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Decomposed relative position scores `[B, heads, H * W, H * W]` of the queries."""
        grid = query.unflatten(2, (height, width))
        rows = torch.einsum("bnhwc,hck->bnhwk", grid, relative_positions(self.rel_pos_h, height))
        columns = torch.einsum("bnhwc,wck->bnhwk", grid, relative_positions(self.rel_pos_w, width))
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)


class FusedBlock(timm_sam.Block):
    """timm's block of SAM, attending in fused kernels."""

    def __init__(self, dim: int, num_heads: int, **settings) -> None:
        super().__init__(dim, num_heads, **settings)
        size = settings["window_size"]
        self.attn = FusedAttention(
            dim,
            num_heads=num_heads,
            qkv_bias=settings["qkv_bias"],
            use_rel_pos=True,
            input_size=(size, size) if size else settings["input_size"],
        )
